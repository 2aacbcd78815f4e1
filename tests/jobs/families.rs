//! Jobs of transformers keep the promises of every job: killed anywhere they end with the same bytes, and neither batches nor
//! threads nor memory change one. On the tiny random models of the fixtures.

use std::{fs, path::Path, process::Command};

use candle_core::{DType, Device};
use cupscale::model::text::Prompt;
use serde_json::Value;

use crate::{
    common::{Shell, models::open, pixart, sd3, stderr, z_image},
    kills::{complete, same_bytes_after_kills},
};

/// A shell with a model in `model` and a picture of several regions.
fn shell(write_folder: fn(&Path)) -> Shell {
    let shell = Shell::new();
    shell.picture("in.png", 30, 22);
    write_folder(&shell.path("model"));
    shell
}

/// A job with every prior, guidance, and captions of different lengths.
fn job(shell: &Shell, more: &str) -> Command {
    let mut command = shell
        .command("in.png -o out.png -q --model model --device cpu --tile 48 --guidance 2 --seed 3");
    command.args(more.split_whitespace()).args(["--prompt", "a wet wall at dusk"]);
    command
}

/// Least budget that a job of these options fits in, of MiB.
fn least_budget(shell: &Shell, more: &str) -> f64 {
    let output = job(shell, &format!("{more} --max-memory 1MiB")).output().unwrap();
    let line = stderr(&output);
    let figure = line.split("needs at least ").nth(1).and_then(|rest| rest.split(' ').next());
    figure.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

/// Runs jobs that differ in what must change no byte.
fn same_bytes(write_folder: fn(&Path), more: &str) {
    let shell = shell(write_folder);
    let usual = complete(&shell, job(&shell, more));
    // Figures of messages are rounded.
    let least = least_budget(&shell, more) + 0.1;
    let budget = format!("--max-memory {}KiB", (least * 1024.0) as usize);
    for change in ["--batch 1", "--batch 3 --threads 1", "--batch 64 --threads 2", &budget] {
        let bytes = complete(&shell, job(&shell, &format!("{more} {change}")));
        assert!(bytes == usual, "{change}");
    }
    // What is compared depends on the options at all.
    let other = complete(&shell, job(&shell, &format!("{more} --rap 0")));
    assert!(other != usual);
}

/// Its sampler, DPM-Solver++ 2M, reads what the steps before kept.
#[test]
fn a_job_of_pixart_with_its_multistep_sampler_killed_anywhere_ends_with_the_same_bytes() {
    let shell = shell(pixart::write_folder);
    let plan = shell.command("plan in.png --model model --steps 8 --denoise-steps 6").output();
    let plan = String::from_utf8(plan.unwrap().stdout).unwrap();
    assert!(plan.contains("dpmpp-2m"), "{plan}");
    same_bytes_after_kills(&shell, &|| job(&shell, "--steps 8 --denoise-steps 6"), 20);
}

#[test]
fn a_job_of_stable_diffusion_3_killed_anywhere_ends_with_the_same_bytes() {
    let shell = shell(sd3::write_folder);
    same_bytes_after_kills(&shell, &|| job(&shell, "--steps 8 --denoise-steps 4"), 15);
}

#[test]
fn a_job_of_z_image_killed_anywhere_ends_with_the_same_bytes() {
    let shell = shell(z_image::write_folder);
    same_bytes_after_kills(&shell, &|| job(&shell, "--steps 8 --denoise-steps 4"), 15);
}

#[test]
fn batches_threads_and_memory_change_no_byte_of_pixart() {
    same_bytes(pixart::write_folder, "--steps 8 --denoise-steps 4");
}

#[test]
fn batches_threads_and_memory_change_no_byte_of_stable_diffusion_3() {
    same_bytes(sd3::write_folder, "--steps 8 --denoise-steps 3");
}

#[test]
fn batches_threads_and_memory_change_no_byte_of_z_image() {
    same_bytes(z_image::write_folder, "--steps 8 --denoise-steps 3");
}

/// A text whose last word lies beyond what CLIP sees, and within what the model's own encoder takes.
fn long_text(model: &Path, last: &str) -> String {
    let text = open(model).unwrap().text(&Device::Cpu, DType::F32).unwrap();
    let tokens = |words: &str| {
        let chunks = text.tokenizers().chunks(&Prompt::plain(words)).unwrap();
        chunks.last().unwrap()[0].tokens.count
    };
    let mut words = String::new();
    while tokens(&words) < 90 {
        words.push_str("a wall, ");
    }
    words.push_str(last);
    assert_eq!(text.tokenizers().cut(&words).unwrap(), None, "{words}");
    words
}

/// The last word of a prompt, of a region's own caption, and of a description behind a long prompt count.
fn words_beyond_clips_count(write_folder: fn(&Path)) {
    let shell = shell(write_folder);
    let [red, blue] = ["red", "blue"].map(|last| long_text(&shell.path("model"), last));
    let made = |prompt: &str, more: &[&str]| {
        let mut command = shell.command(
            "in.png -o out.png --model model --device cpu --scale 2 --steps 4 --denoise-steps 2 --rap 0 --fresh",
        );
        let output = command.args(["--prompt", prompt]).args(more).output().unwrap();
        let said = stderr(&output);
        // A description behind a long prompt may be longer than what is left.
        assert!(output.status.success() && (more.is_empty() || !said.contains("cut")), "{said}");
        pictures::open(shell.path("out.png")).to_rgb8().into_raw()
    };
    let none = ["--captioner", "none"];
    let plain = made(&red, &none);
    assert!(plain != made(&blue, &none), "prompt");
    assert!(plain != made(&red, &[]), "prompt and description");
    let mut command = shell.command("caption in.png --model model --device cpu --scale 2");
    let written = command.args(["--prompt", "a wall"]).output().unwrap();
    assert!(written.status.success(), "{}", stderr(&written));
    let mut document: Value = serde_json::from_slice(&written.stdout).unwrap();
    let mut with_captions = |caption: &str| {
        for region in document["regions"].as_array_mut().unwrap() {
            region["caption"] = caption.into();
        }
        fs::write(shell.path("captions.json"), document.to_string()).unwrap();
        made("a wall", &["--captions", "captions.json"])
    };
    assert!(with_captions(&red) != with_captions(&blue), "captions file");
}

#[test]
fn words_beyond_the_tokens_of_clip_count_where_the_text_encoder_takes_them() {
    for write_folder in [pixart::write_folder, sd3::write_folder, z_image::write_folder] {
        words_beyond_clips_count(write_folder);
    }
}
