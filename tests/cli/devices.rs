//! `--device` with several devices: what is refused, what the plan says, and captions that devices share.

use crate::common::{Shell, fixture, stderr, tiny};

#[test]
fn devices_that_cannot_share_a_job_are_refused_in_one_line_before_any_work() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 16);
    for (devices, reason) in [
        ("cuda:0,cpu", "devices cuda:0 and cpu: those of one job are of one kind"),
        ("cpu,metal", "devices cpu and metal"),
        ("metal,metal", "device metal is named twice"),
        ("auto,cpu", "auto stands alone"),
        ("cuda:all,cuda:0", "cuda:all stands alone"),
        ("cpu,", "unknown device ``"),
        ("cpu,gpu", "unknown device `gpu`"),
    ] {
        let line = shell.fail(&format!("in.png -o out.png --device {devices}"), 2);
        assert!(line.contains(reason), "{devices}: {line}");
        assert_eq!(shell.names(), ["in.png"]);
    }
    if !cfg!(feature = "cuda") {
        let line = shell.fail("in.png -o out.png --device cuda:all", 1);
        assert!(line.contains("build with `--features cuda`"), "{line}");
    }
}

/// The plan's lines of a small job on these devices.
fn plan(shell: &Shell, options: &str) -> Vec<String> {
    let model = tiny().display().to_string();
    let output = shell.succeed(&format!("plan in.png --model {model} {options}"));
    String::from_utf8(output).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_plan_names_the_devices_and_counts_the_memory_of_each() {
    let shell = Shell::new();
    shell.picture("in.png", 64, 48);
    let line_of = |lines: &[String], name: &str| {
        lines.iter().find(|line| line.starts_with(name)).cloned().unwrap_or_default()
    };
    let one = plan(&shell, "--max-memory 1GiB");
    let three = plan(&shell, "--device cpu,cpu,cpu --max-memory 1GiB");
    assert_eq!(line_of(&one, "devices"), "");
    assert_eq!(
        line_of(&three, "devices"),
        "devices       3: cpu, cpu, cpu; memory is that of each"
    );
    for name in ["computes on", "regions", "calls", "VAE tiles", "parts"] {
        assert_eq!(line_of(&three, name), line_of(&one, name), "{name}");
    }
    // The bound is each one's, and results that wait for their turn are counted.
    assert!(line_of(&three, "memory").ends_with(" of 1.0 GiB"), "{three:?}");
    let peak = |lines: &[String], stage: &str| -> f64 {
        let line = line_of(lines, stage);
        let mut words = line.split_whitespace().rev();
        assert_eq!(words.next(), Some("MiB"), "{line}");
        words.next().unwrap().parse().unwrap()
    };
    for stage in ["encode", "denoise"] {
        let (one, three) = (peak(&one, stage), peak(&three, stage));
        assert!(one <= three && three < one + 1.0, "{stage}: {one} and {three} MiB");
    }
    // Five pictures of 256 × 192 in f32.
    let more = peak(&three, "decode") - peak(&one, "decode");
    assert!((2.6..3.0).contains(&more), "{more} MiB");
    // What is free is shared.
    let budget = |options: &str| {
        let line = line_of(&plan(&shell, options), "memory");
        let (_, budget) = line.split_once(" of ").unwrap();
        let (number, unit) = budget.split_once(' ').unwrap();
        number.parse::<f64>().unwrap() * if unit == "GiB" { 1024.0 } else { 1.0 }
    };
    let share = budget("--device cpu,cpu,cpu,cpu") / budget("--device cpu");
    assert!((0.15..0.4).contains(&share), "{share}");
}

#[test]
fn devices_that_share_the_captions_write_those_of_one() {
    let shell = Shell::new();
    shell.picture("in.png", 30, 22);
    let captions = |options: &str| {
        let mut command = shell
            .command(&format!("caption in.png --captioner llava --no-caption-cache {options}"));
        command.arg("--caption-model").arg(fixture("llava/llava15_llama"));
        command.arg("--model").arg(tiny()).env("HOME", shell.path("home"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{options}: {}", stderr(&output));
        output.stdout
    };
    let expected = captions("--device cpu");
    for options in ["--device cpu,cpu", "--device cpu,cpu,cpu --caption-batch 2"] {
        assert_eq!(captions(options), expected, "{options}");
    }
}
