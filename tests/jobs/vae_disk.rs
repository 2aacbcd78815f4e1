//! The disk of an autoencoder that computes a large picture layer by layer: what `--vae-disk` chooses, jobs that are
//! killed meanwhile, and disks that are too small.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    common::{Shell, stderr},
    vae_tiles::job,
};

/// In twelve tiles.
const JOB: &str = "in.png -o out.png --scale 1 --tile 128";
const WORK: &str = ".out.png.cupscale";

fn shell() -> Shell {
    let shell = Shell::new();
    shell.picture("in.png", 512, 384);
    shell
}

/// What the job writes.
fn complete(shell: &Shell, options: &str) -> Vec<u8> {
    let output = job(shell, &format!("{JOB} -q {options}")).output().unwrap();
    assert!(output.status.success(), "{options}: {}", stderr(&output));
    assert_eq!(shell.names(), ["in.png", "out.png"]);
    let bytes = shell.bytes("out.png");
    fs::remove_file(shell.path("out.png")).unwrap();
    bytes
}

/// The line of the plan about the VAE's tiles of this side.
fn planned(shell: &Shell, tile: usize, options: &str) -> String {
    let arguments = format!("plan in.png --scale 1 --tile {tile} {options}");
    let output = job(shell, &arguments).output().unwrap();
    assert!(output.status.success(), "{options}: {}", stderr(&output));
    let plan = String::from_utf8(output.stdout).unwrap();
    plan.lines().find(|line| line.starts_with("VAE tiles ")).unwrap().to_owned()
}

/// MiB of the maps, as the plan says.
fn planned_maps(line: &str) -> f64 {
    let (_, maps) = line.split_once("layer by layer, with ").unwrap();
    let (number, rest) = maps.split_once(' ').unwrap();
    assert_eq!(rest, "MiB of disk");
    number.parse().unwrap()
}

/// Exit code and the one line of a command that fails.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let line = stderr(&output);
    assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    (output.status.code(), line)
}

#[test]
fn the_bound_of_the_disk_chooses_and_the_plan_says_so() {
    let shell = shell();
    let exact = planned(&shell, 128, "");
    let maps = planned_maps(&exact);
    let sampled = "VAE tiles     12 (4 × 3) of 128 px, norms and attention from samples of 100 % of the canvas";
    for options in ["--vae-disk 0", &format!("--vae-disk {}MiB", maps - 0.2)] {
        assert_eq!(planned(&shell, 128, options), sampled, "{options}");
    }
    assert_eq!(planned(&shell, 128, &format!("--vae-disk {}MiB", maps + 0.2)), exact);
    // Neither tiles nor memory change what they take.
    assert_eq!(planned_maps(&planned(&shell, 256, "--max-memory 1GiB")), maps);
    for options in ["", "--vae-disk 0"] {
        assert_eq!(planned(&shell, 512, options), "VAE tiles     1 (1 × 1) of 512 px");
    }
    assert_eq!(complete(&shell, "--vae-disk 0"), complete(&shell, "--vae-disk 1MiB"));
}

#[test]
fn for_a_vae_without_norms_the_option_has_no_effect_and_that_is_said() {
    let shell = shell();
    let output = shell.run("plan in.png --vae-disk 0");
    assert!(output.status.success());
    assert!(stderr(&output).contains("--vae-disk has no effect"), "{}", stderr(&output));
}

/// Starts the job and kills it (SIGKILL) while it computes the layers of this stage.
fn kill_within(shell: &Shell, stage: &str) {
    let mut command = job(shell, &format!("{JOB} --progress json"));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let is_within = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["event"] == "progress" && event["stage"] == stage && event["done"].as_u64() > Some(0)
    };
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| is_within(&line)), "{stage} is over");
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    let journal = fs::read_to_string(shell.path(WORK).join("journal")).unwrap();
    assert!(!journal.contains(&format!("\"{stage}d\"")), "{journal}");
}

#[test]
fn a_job_killed_between_layers_ends_with_the_same_bytes() {
    let shell = shell();
    let undisturbed = complete(&shell, "");
    for stage in ["encode", "decode"] {
        kill_within(&shell, stage);
        // The maps have no names.
        assert_eq!(shell.names(), [WORK, "in.png"]);
        assert_eq!(complete(&shell, ""), undisturbed, "{stage}");
    }
    kill_within(&shell, "decode");
    let (code, line) = refused(&mut job(&shell, &format!("{JOB} -q --vae-disk 0")));
    assert_eq!(code, Some(2), "{line}");
    assert!(line.contains("vae tiling: \"layerwise\" there, \"sampled\" now"), "{line}");
}

#[test]
fn a_disk_that_is_too_small_for_the_maps_refuses_the_job_and_names_the_remedy() {
    let shell = shell();
    let a_pixel =
        planned_maps(&planned(&shell, 128, "")) * f64::from(1 << 20) / f64::from(512 * 384);
    let free = fs4::available_space(shell.path("")).unwrap();
    let side = (1.5 * free as f64 / a_pixel).sqrt() as usize;
    if side > 1 << 17 {
        // No picture is large enough for this disk.
        return;
    }
    let size = format!("--size {side}x{side} --overlap 0 --tile 128 --max-memory 1000TiB");
    let arguments = format!("in.png -o out.png -q {size} --vae-disk 1000TiB");
    let (code, line) = refused(&mut job(&shell, &arguments));
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains("of it for a VAE") && line.contains("--vae-disk 0"), "{line}");
    assert_eq!(shell.names(), ["in.png"]);
}

#[cfg(unix)]
#[test]
fn a_disk_that_gets_full_between_layers_is_one_line_and_the_job_goes_on_when_there_is_room() {
    let shell = shell();
    let undisturbed = complete(&shell, "");
    // A limit on the size of files stands for the full disk: only the maps are larger.
    let full = job(&shell, &format!("{JOB} -q"));
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 4096; exec \"$0\" \"$@\""]);
    limited.arg(full.get_program()).args(full.get_args()).current_dir(shell.path(""));
    let (code, line) = refused(&mut limited);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains(WORK) && line.contains("too large"), "{line}");
    // Nothing was done that could go on.
    assert_eq!(shell.names(), ["in.png"]);
    assert_eq!(complete(&shell, ""), undisturbed);
}
