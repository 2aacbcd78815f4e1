//! One job shared by several devices. The CPU given more than once stands in for them: every runner has the model's parts
//! for itself, takes what it gets of regions and tiles, and finishes when it does.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    common::{Shell, copy_folder, fixture, pause, stderr},
    vae_tiles,
};

const WORK: &str = ".out.png.cupscale";

/// Several runners, as `--device` names them.
const SEVERAL: [&str; 2] = ["cpu,cpu", "cpu,cpu,cpu"];

/// All priors, a sampler that keeps what it predicted, guidance, and tiles: some fifty regions in batches of three.
const JOB: &str = "in.png -o out.png -q --tile 48 --sampler dpmpp-2m --denoise-steps 3 --gsp 0.5 --rap 0.5 \
    --rsp 0.7 --guidance 2 --negative-prompt blur --prompt fog";

fn shell() -> Shell {
    let shell = Shell::new();
    shell.picture("in.png", 30, 22);
    shell
}

fn job(shell: &Shell, devices: &str) -> Command {
    in_batches(shell, devices, 3)
}

fn in_batches(shell: &Shell, devices: &str, batch: usize) -> Command {
    let mut command = shell.command(&format!("{JOB} --device {devices} --batch {batch}"));
    command.arg("--model").arg(fixture("img2img/model"));
    command
}

/// What the command writes into `out.png`, of which nothing else is left.
fn complete(shell: &Shell, mut command: Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    let names = shell.names();
    assert!(names.iter().all(|name| !name.contains("cupscale")), "left behind: {names:?}");
    let bytes = shell.bytes("out.png");
    fs::remove_file(shell.path("out.png")).unwrap();
    bytes
}

#[test]
fn a_job_with_everything_has_the_same_bytes_on_any_number_of_devices() {
    let shell = shell();
    let expected = complete(&shell, job(&shell, "cpu"));
    for devices in SEVERAL {
        for batch in [1, 3, 64] {
            let shared = complete(&shell, in_batches(&shell, devices, batch));
            assert_eq!(shared, expected, "{devices} in batches of {batch}");
        }
    }
}

#[test]
fn tiles_of_a_vae_with_norms_have_the_same_bytes_in_either_form() {
    let shell = Shell::new();
    shell.picture("in.png", 384, 256);
    for form in ["", "--vae-disk 0"] {
        let coded = |devices: &str| {
            let arguments =
                format!("in.png -o out.png -q --scale 1 --tile 128 {form} --device {devices}");
            complete(&shell, vae_tiles::job(&shell, &arguments))
        };
        let expected = coded("cpu");
        for devices in SEVERAL {
            assert_eq!(coded(devices), expected, "{form} {devices}");
        }
    }
}

/// Kills jobs (SIGKILL), `of` makes them on these devices, when their journals have so many bytes; each goes on with other
/// numbers of devices.
fn same_bytes_after_kills(shell: &Shell, of: impl Fn(&str) -> Command, moments: &[u64]) {
    let expected = complete(shell, of("cpu"));
    let journal = shell.path(WORK).join("journal");
    // False if the job was over.
    let kill = |devices: &str, bytes: u64| {
        let mut child = of(devices).stdout(Stdio::null()).spawn().unwrap();
        while !fs::metadata(&journal).is_ok_and(|file| file.len() >= bytes) {
            if child.try_wait().unwrap().is_some() {
                let _ = fs::remove_file(shell.path("out.png"));
                return false;
            }
            pause();
        }
        child.kill().unwrap();
        !child.wait().unwrap().success()
    };
    let counts = ["cpu,cpu", "cpu", "cpu,cpu,cpu"];
    let mut kills = 0;
    for (at, &bytes) in moments.iter().enumerate() {
        if !kill(counts[at % 3], bytes) {
            continue;
        }
        kills += 1;
        assert!(shell.path(WORK).join("job.json").exists(), "nothing to go on with at {bytes}");
        // Killed once more, on yet another number.
        kill(counts[(at + 1) % 3], bytes + 120);
        assert_eq!(complete(shell, of(counts[(at + 2) % 3])), expected, "at {bytes}");
    }
    assert!(kills > moments.len() / 2, "only {kills} jobs were killed");
}

#[test]
fn a_killed_job_goes_on_with_another_number_of_devices_to_the_same_bytes() {
    let shell = shell();
    // While tiles are encoded, in the steps, and while tiles are decoded: some thirty lines of about 35 bytes.
    let moments: Vec<u64> = (1..=10).map(|part| 90 * part - 60).collect();
    same_bytes_after_kills(&shell, |devices| job(&shell, devices), &moments);
}

#[test]
fn so_does_one_whose_vae_has_norms_in_either_form() {
    let shell = Shell::new();
    shell.picture("in.png", 256, 256);
    for form in ["", "--vae-disk 0"] {
        let of = |devices: &str| {
            let arguments =
                format!("in.png -o out.png -q --scale 1 --tile 128 {form} --device {devices}");
            vae_tiles::job(&shell, &arguments)
        };
        same_bytes_after_kills(&shell, of, &[30, 130, 200]);
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_all_runners_after_their_batch_and_loses_nothing() {
    let shell = shell();
    let expected = complete(&shell, job(&shell, "cpu"));
    let child = job(&shell, "cpu,cpu,cpu").stderr(Stdio::piped()).spawn().unwrap();
    let journal = shell.path(WORK).join("journal");
    while fs::metadata(&journal).map_or(0, |file| file.len()) < 300 {
        pause();
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let asked = Instant::now();
    let output = child.wait_with_output().unwrap();
    let line = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{line}");
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert!(line.contains("goes on from here") && line.contains(WORK), "{line}");
    let mut resumed = job(&shell, "cpu,cpu");
    resumed.arg("--resume");
    assert_eq!(complete(&shell, resumed), expected);
}

#[test]
fn a_runner_whose_values_are_no_numbers_ends_all_with_one_line_and_nothing_is_left() {
    let shell = Shell::new();
    shell.picture("in.png", 64, 48);
    let model = shell.path("model");
    for part in ["unet", "vae"] {
        copy_folder(&fixture("img2img/model"), &model);
        // Not a number, in f16, in the last tenth of the part's values.
        let weights = model.join(part).join("diffusion_pytorch_model.safetensors");
        let mut bytes = fs::read(&weights).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let values = bytes[header..].len() / 20 * 2;
        let start = bytes.len() - values;
        bytes[start..].chunks_exact_mut(2).for_each(|value| value.copy_from_slice(&[0xff, 0x7f]));
        fs::write(&weights, bytes).unwrap();
        let line = |devices: &str| {
            let arguments = "in.png -o out.png -q --tile 48 --captioner none --model model";
            shell.fail(&format!("{arguments} --device {devices}"), 1)
        };
        let expected = line("cpu");
        assert!(expected.contains("not numbers"), "{expected}");
        for devices in SEVERAL {
            assert_eq!(line(devices), expected, "{part} {devices}");
            assert_eq!(shell.names(), ["in.png", "model"]);
        }
        fs::remove_dir_all(&model).unwrap();
    }
}
