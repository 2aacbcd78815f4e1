//! A first enlarger by name: added from either form of file, taken by `--first`, told in the output's settings and reused
//! from there; and what is refused.

use std::{fs, process::Command};

use cupscale::image::read_settings;

use crate::common::{Shell, enlarger, fixture, quick, stderr, tiny};

fn shell() -> Shell {
    let shell = Shell::new();
    shell.picture("in.png", 24, 20);
    for extension in ["param", "bin"] {
        let file = format!("rrdb_f16.{extension}");
        fs::copy(fixture("enlarger/ncnn").join(&file), shell.path(&file)).unwrap();
    }
    enlarger::write("compact_4x", &shell.path("small.safetensors"));
    shell
}

fn command(shell: &Shell, line: &str) -> Command {
    let mut command = shell.command(line);
    command.env("CUPSCALE_MODELS", shell.path("models"));
    command
}

#[track_caller]
fn succeed(shell: &Shell, line: &str) -> String {
    let output = command(shell, line).output().unwrap();
    assert!(output.status.success(), "{line}: {}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output)
}

#[track_caller]
fn refused(shell: &Shell, line: &str, said: &str) {
    let output = command(shell, line).output().unwrap();
    let message = stderr(&output);
    assert!(!output.status.success(), "{line}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    assert!(message.contains(said), "{message}");
}

#[test]
fn a_network_has_a_name_in_either_form_and_its_picture_is_that_of_its_file() {
    let shell = shell();
    let job = format!(
        "in.png -o out.png {} --denoise-steps 0",
        quick().replace(" --denoise-steps 1", "")
    );
    for (name, file, count) in
        [("pair", "rrdb_f16.bin", "2 files"), ("small", "small.safetensors", "1 file")]
    {
        let said = succeed(&shell, &format!("models add {name} {file}"));
        assert!(said.contains(count) && !said.contains("cannot be run"), "{said}");
        succeed(&shell, &format!("{job} --first {name}"));
        let settings = read_settings(&shell.path("out.png")).unwrap().unwrap();
        assert!(settings.contains(&format!(r#""first":"{name}""#)), "{settings}");
        assert!(settings.contains(r#""denoise_steps":0"#), "{settings}");
        let by_name = pictures::open(shell.path("out.png")).to_rgb8().into_raw();
        succeed(&shell, &format!("{job} --first {file}"));
        assert_eq!(pictures::open(shell.path("out.png")).to_rgb8().into_raw(), by_name);
        assert!(succeed(&shell, "models verify").contains(&format!("{name}: {count}")));
    }
    let list = succeed(&shell, "models list --json");
    assert!(list.contains(r#""kind": "enlarger""#), "{list}");
    // Settings are taken again by name.
    succeed(&shell, &format!("{job} --first pair"));
    let first = shell.bytes("out.png");
    let again = format!("in.png -o again.png --model {} --reuse out.png", tiny().display());
    succeed(&shell, &again);
    assert_eq!(shell.bytes("again.png"), first);
    // A lone file has no name to be found by.
    succeed(&shell, &format!("{job} --first small.safetensors"));
    fs::remove_dir_all(shell.path("models/small")).unwrap();
    refused(&shell, &again, "name it with --first");
    // A missing half is missed.
    fs::remove_file(shell.path("rrdb_f16.bin")).unwrap();
    refused(&shell, &format!("{job} --first pair"), "rrdb_f16.bin is missing");
}

#[test]
fn what_is_no_enlarger_is_refused_by_name_and_kind() {
    let shell = shell();
    let job = format!("in.png -o out.png {}", quick());
    fs::write(shell.path("RealESRGAN_x4plus.pth"), b"PK\x03\x04 a zip archive").unwrap();
    refused(
        &shell,
        &format!("{job} --first RealESRGAN_x4plus.pth"),
        "convert the model to safetensors",
    );
    refused(&shell, &format!("{job} --first nothing"), "no such model");
    refused(&shell, &format!("{job} --first realesrgan-x4plu"), "realesrgan-x4plus");
    refused(&shell, &format!("{job} --first realesrgan-x4plus"), "models pull realesrgan-x4plus");
    let lora = fixture("lora/hyper.safetensors");
    refused(&shell, &format!("{job} --first {}", lora.display()), "no enlarging network");
    succeed(&shell, "models add small small.safetensors");
    refused(
        &shell,
        "in.png -o out.png --model small",
        "of kind enlarger, where one of kind diffusion",
    );
    refused(&shell, "models add other small.safetensors --steps 4", "an enlarging network alone");
    refused(&shell, "generate fox -o fox.png --first small", "--first is for the enlargement");
    assert!(!shell.path("out.png").exists());
}

#[test]
fn progress_names_the_stage_and_counts_it_to_its_end() {
    let shell = shell();
    let job = format!("in.png -o out.png {} --first rrdb_f16.param --progress json", quick());
    let output = command(&shell, &job).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = stderr(&output);
    let of_stage = |line: &&str| {
        line.contains(r#""event":"progress""#) && line.contains(r#""stage":"enlarge""#)
    };
    let last: serde_json::Value =
        serde_json::from_str(lines.lines().rfind(of_stage).unwrap()).unwrap();
    assert_eq!(last["done"], last["total"]);
    let at = |stage: &str| lines.find(&format!(r#""stage":"{stage}""#)).unwrap();
    assert!(at("caption") < at("enlarge") && at("enlarge") < at("encode"));
}
