//! `generate`, on the small random models of `tests/make_fixtures/make_pipeline_fixture.py`: one command, killed anywhere;
//! what its outputs say of themselves; what is refused. That base pictures are diffusers' own is held in
//! `src/pipeline/generate/tests.rs`.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use crate::common::{Shell, copy_folder, fixture, pause, stderr, z_image};

const PROMPT: &str = "a photo of the old harbour at dusk, blue sky!";
const WORK: &str = ".out.png.cupscale";

/// A shell with a text-to-image model in `model`.
fn shell() -> Shell {
    let shell = Shell::new();
    let model = shell.path("model");
    copy_folder(&fixture("img2img/model"), &model);
    for part in ["unet", "vae"] {
        fs::remove_dir_all(model.join(part)).unwrap();
    }
    copy_folder(&fixture("pipeline").join("sdxl"), &model);
    shell
}

fn generate(shell: &Shell, more: &str) -> std::process::Command {
    let mut command = shell.command(&format!("generate --model model --device cpu {more}"));
    command.arg(PROMPT);
    command
}

fn made(shell: &Shell, more: &str) -> Vec<u8> {
    let output = generate(shell, more).output().unwrap();
    assert!(output.status.success(), "{more}: {}", stderr(&output));
    let names = shell.names();
    assert!(names.iter().all(|name| !name.contains("cupscale")), "left behind: {names:?}");
    shell.bytes("out.png")
}

/// The settings that a picture carries.
fn settings(shell: &Shell, name: &str) -> serde_json::Value {
    let text = shell.succeed(&format!("info --json {name}"));
    let info: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let found = if info.is_array() { &info[0]["settings"] } else { &info["settings"] };
    found.clone()
}

const BOTH: &str = "-o out.png -q --size 120x72 --steps 4 --sampler dpmpp-2m --seed 3 --tile 48";

#[test]
fn a_job_killed_while_it_makes_or_enlarges_its_base_picture_ends_with_the_same_bytes() {
    same_bytes_after_kills(&shell(), BOTH);
}

#[test]
fn a_job_of_flow_matching_killed_anywhere_ends_with_the_same_bytes() {
    let shell = Shell::new();
    z_image::write_folder(&shell.path("model"));
    let job = BOTH.replace("--sampler dpmpp-2m", "--guidance 2");
    same_bytes_after_kills(&shell, &job);
}

/// Kills a job while it makes its base picture and while it enlarges that.
fn same_bytes_after_kills(shell: &Shell, job: &str) {
    let started = Instant::now();
    let undisturbed = made(shell, job);
    let whole = started.elapsed();
    let journals = ["input/journal", "journal"].map(|name| shell.path(WORK).join(name));
    let (mut kills, mut of_base, mut of_enlarged) = (0, 0, 0);
    for attempt in 0..60u32 {
        if kills >= 20 && of_base >= 3 && of_enlarged >= 3 {
            break;
        }
        let begun = Instant::now();
        let mut child = generate(shell, job).stdout(Stdio::null()).spawn().unwrap();
        let come = || match attempt % 3 {
            // While it makes the base picture, and while it enlarges that.
            0 | 1 => fs::metadata(&journals[attempt as usize % 3])
                .is_ok_and(|file| file.len() >= u64::from(1 + attempt * 7)),
            _ => begun.elapsed() >= whole.mul_f64(f64::from(attempt % 17) / 17.0),
        };
        let is_killed = loop {
            if come() {
                let _ = child.kill();
                break !child.wait().unwrap().success();
            }
            if child.try_wait().unwrap().is_some() {
                break false;
            }
            pause();
        };
        if is_killed {
            kills += 1;
            let has = |at: usize| fs::metadata(&journals[at]).is_ok_and(|file| file.len() > 0);
            of_base += usize::from(has(0) && !has(1));
            of_enlarged += usize::from(has(1));
            assert_eq!(made(shell, job), undisturbed, "kill {kills}");
        }
        let _ = fs::remove_file(shell.path("out.png"));
    }
    assert!(of_base >= 3 && of_enlarged >= 3, "{kills}: {of_base}, {of_enlarged}, {whole:?}");
}

#[test]
fn ctrl_c_while_the_base_picture_is_made_says_how_to_go_on_and_another_job_is_refused() {
    let shell = shell();
    let mut child = generate(&shell, BOTH).stderr(Stdio::piped()).spawn().unwrap();
    let journal = shell.path(WORK).join("input/journal");
    let begun = Instant::now();
    while fs::metadata(&journal).map_or(true, |file| file.len() == 0) {
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert!(child.try_wait().unwrap().is_none(), "it ended before");
        pause();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let other = BOTH.replace("--seed 3", "--seed 4");
    let refused = generate(&shell, &other).output().unwrap();
    let line = stderr(&refused);
    assert!(!refused.status.success() && line.contains("seed: 3 there, 4 now"), "{line}");
    // It begins anew, and leaves nothing of the earlier base picture.
    let fresh = made(&shell, &format!("{other} --fresh"));
    assert_eq!(made(&shell, &other), fresh);
}

#[test]
fn without_a_size_the_base_picture_is_the_output_and_a_kept_one_is_the_same() {
    let shell = shell();
    let alone = "-o out.png -q --steps 4 --sampler euler --seed 3 --base-size 64x40";
    let base = made(&shell, alone);
    let picture = pictures::open(shell.path("out.png"));
    assert_eq!((picture.width(), picture.height()), (64, 40));
    let own = settings(&shell, "out.png");
    assert_eq!(own["generated"], serde_json::json!({"size": [64, 40]}), "{own}");
    assert_eq!((own["steps"].as_u64(), own["prompt"].as_str()), (Some(4), Some(PROMPT)));
    for key in ["gsp", "rap", "rsp", "color_fix", "captioner", "denoise_steps", "overlap"] {
        assert!(own.get(key).is_none(), "{key} in {own}");
    }
    // Without the prompt, which the picture knows.
    let reused = "generate --model model --device cpu -q --reuse out.png -o again.png";
    shell.succeed(reused);
    assert_eq!(shell.bytes("again.png"), base);

    let enlarged = format!("{alone} -s 2 --strength 0.3 --keep-base base.png");
    let large = made(&shell, &enlarged);
    let picture = pictures::open(shell.path("out.png"));
    assert_eq!((picture.width(), picture.height()), (128, 80));
    let kept = pictures::open(shell.path("base.png")).to_rgb8();
    assert_eq!(kept, pictures::open(shell.path("again.png")).to_rgb8());
    let own = settings(&shell, "out.png");
    let expected = serde_json::json!({"size": [64, 40], "steps": 4, "guidance": 1.0});
    assert_eq!((&own["generated"], own["denoise_steps"].as_u64()), (&expected, Some(2)), "{own}");
    assert_eq!(settings(&shell, "base.png")["generated"], serde_json::json!({"size": [64, 40]}));
    shell.succeed(reused);
    assert_eq!(shell.bytes("again.png"), large);
    // Another seed, another picture; other steps for the base picture alone.
    assert_ne!(made(&shell, &enlarged.replace("--seed 3", "--seed 4")), large);
    made(&shell, &format!("{enlarged} --base-steps 6 --base-guidance 3"));
    let own = settings(&shell, "out.png");
    let expected = serde_json::json!({"size": [64, 40], "steps": 6, "guidance": 3.0});
    assert_eq!((&own["generated"], own["steps"].as_u64()), (&expected, Some(4)), "{own}");
}

#[test]
fn a_base_picture_much_larger_than_native_is_made_in_regions() {
    let shell = shell();
    let large = "-o out.png -q --steps 2 --base-size 96x72";
    let one = made(&shell, large);
    assert_eq!(settings(&shell, "out.png")["overlap"], 0.5);
    assert_eq!(made(&shell, &format!("{large} --batch 1 --threads 1")), one);
}

#[test]
fn plans_reports_and_progress_tell_of_both_pictures() {
    let shell = shell();
    let plan = generate(&shell, &format!("{BOTH} --dry-run")).output().unwrap();
    let text = String::from_utf8(plan.stdout).unwrap();
    assert!(text.contains("made from noise") && text.contains("120 × 72 px"), "{text}");
    assert_eq!(text.matches("sampler       dpmpp-2m").count(), 2, "{text}");
    assert!(!shell.path("out.png").exists());

    let told = format!("{} --report --progress json", BOTH.replace("-q ", ""));
    let output = generate(&shell, &told).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let events: Vec<serde_json::Value> =
        stderr(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    let jobs: Vec<_> = of("job").iter().map(|job| job["width"].as_u64().unwrap()).collect();
    assert_eq!(jobs.last(), Some(&120), "{jobs:?}");
    assert_eq!(jobs.len(), 2);
    let stages: Vec<_> =
        of("stage").iter().map(|stage| stage["stage"].as_str().unwrap().to_owned()).collect();
    let expected = ["caption", "denoise", "decode", "caption", "encode", "denoise", "decode"]
        .map(str::to_owned);
    assert_eq!(stages, expected);
    let page = String::from_utf8(shell.bytes("out.png.html")).unwrap();
    assert!(page.contains("The base picture"));
}

#[test]
fn what_cannot_be_made_is_said_in_one_line() {
    let shell = shell();
    for (line, words, code) in [
        ("generate -o out.png --model model", "no prompt", 2),
        ("generate fox --model model", "name the file that `generate` writes", 2),
        ("generate fox red -o out.png", "put it into quotes", 2),
        ("generate fox -o out.png -i in.png", "reads no picture: no --input", 2),
        ("generate fox -o out.png --page 2", "reads no picture: no --page", 2),
        ("generate fox -o out.png --blend 0.5", "--blend is for the enlargement", 2),
        ("generate fox -o out.png --denoise-steps 2", "--denoise-steps is for the enlargement", 2),
        ("generate fox -o out.png --profile fast", "--profile is for the enlargement", 2),
        ("generate fox -p fox -o out.png", "cannot be used with", 2),
        ("generate fox -o out.xyz", "no picture format is called", 2),
        ("generate fox -o out.png --keep-base a.png --model model", "without --size", 2),
        ("generate fox -o out.png -s 2 --keep-base a.xyz --model model", "must end like", 2),
        ("generate fox -o out.png -s 2 --keep-base out.png --model model", "the output itself", 2),
        ("generate fox -o out.png --report --model model", "before and after", 2),
        ("generate fox -o out.png --base-size 44x48 --model model", "multiples of 8", 2),
        ("generate fox -o out.png --base-size 800x800 --model model", "four times as large", 2),
        ("generate fox -o out.png", "makes none from words", 1),
    ] {
        let said = shell.fail(line, code);
        assert!(said.contains(words), "{line}: {said}");
    }
    assert_eq!(shell.names(), ["model"]);
}
