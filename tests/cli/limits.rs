//! Limits of the shell, and names and values that nobody means: one line or success, and nothing that a terminal obeys.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use crate::common::{Shell, size, stderr};

const QUICK: &str = "-s 2 --denoise-steps 1 --captioner none";

/// The command under a limit of the shell, as `ulimit` takes it.
fn limited(shell: &Shell, limit: &str, arguments: &str) -> Output {
    let program = shell.command("");
    Command::new("sh")
        .args(["-c", &format!("ulimit {limit}; exec \"$0\" \"$@\"")])
        .arg(program.get_program())
        .args(arguments.split_whitespace())
        .current_dir(shell.path(""))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn with_little_memory_there_is_one_line_or_success() {
    let shell = Shell::new();
    shell.picture("in.png", 16, 16);
    let mut succeeded = Vec::new();
    for limit in ["-v 60000", "-v 120000", "-v 1200000", "-d 4000", "-d 60000", "-d 1200000"] {
        // With a budget that hides the limit, memory ends in the middle of the work, or is just enough:
        // a thread reserves address space too, and how many there are is the machine's affair.
        let hidden = limit == "-v 120000";
        let budget = if hidden { " --max-memory 8GiB" } else { "" };
        let output = limited(&shell, limit, &format!("in.png -o out.png {QUICK} --quiet{budget}"));
        let message = stderr(&output);
        let expected = if output.status.success() {
            if !hidden {
                succeeded.push(limit);
            }
            0
        } else {
            assert_eq!(output.status.code(), Some(1), "{limit}: {message}");
            1
        };
        assert_eq!(message.lines().count(), expected, "{limit}: {message}");
    }
    assert_eq!(succeeded, ["-v 1200000", "-d 1200000"]);
}

#[test]
fn a_file_beyond_the_limit_of_the_shell_is_an_error() {
    let shell = Shell::new();
    shell.picture("in.png", 64, 64);
    let output = limited(&shell, "-f 1", &format!("in.png -o out.tif {QUICK} --quiet"));
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains("too large") || message.contains("File"), "{message}");
}

#[test]
fn threads_beyond_the_machine_are_not_started() {
    let shell = Shell::new();
    shell.picture("in.png", 16, 16);
    let begun = Instant::now();
    let output = shell.run(&format!("in.png -o out.png {QUICK} --threads 1024"));
    assert!(stderr(&output).starts_with("--threads 1024: "), "{}", stderr(&output));
    let line = format!("in.png -o out.png {QUICK}");
    let output = shell.command(&line).env("RAYON_NUM_THREADS", "100000").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn names_are_escaped_wherever_they_are_said() {
    let shell = Shell::new();
    let name = "a\u{1b}[31m\u{9b}2J\nb\u{202e}";
    fs::create_dir(shell.path("shots")).unwrap();
    fs::write(shell.path(&format!("shots/{name}.png")), "not a picture").unwrap();
    shell.picture("good.png", 8, 8);
    fs::copy(shell.path("good.png"), shell.path(&format!("{name}.png"))).unwrap();
    let missing = format!("{name}.nothing");
    for words in [
        &["shots", "--progress", "json"][..],
        &["shots", "--progress", "bar"],
        &["shots", "-v"],
        &[&missing],
        &["plan", &missing],
        &["good.png", "--model", &missing],
        &["good.png", "--captions", &missing],
        &["good.png", "--sampler", name],
        &["models", "pull", name],
        &["models", "remove", name],
    ] {
        let mut command = shell.command("");
        let output = command.args(words).env("XDG_DATA_HOME", shell.path("data")).output().unwrap();
        assert!(!output.status.success());
        for text in [stderr(&output), String::from_utf8(output.stdout).unwrap()] {
            let obeyed = |sign: char| sign != '\n' && (sign.is_control() || sign == '\u{202e}');
            assert!(!text.contains(obeyed), "{words:?}: {text:?}");
            assert!(!text.lines().any(|line| line.starts_with('b')), "{words:?}: {text}");
        }
    }
}

#[test]
fn lines_have_a_bound() {
    let shell = Shell::new();
    let long = format!("{}.png", "x".repeat(5000));
    let message = shell.fail(&format!("{long} -o out.png"), 1);
    assert!(message.chars().count() < 1100 && message.contains('…'), "{}", message.len());
    // A file as people cut it from the middle of another.
    shell.picture("in.png", 8, 8);
    let timesteps: Vec<String> = (0..1000).rev().map(|t| t.to_string()).collect();
    let plan = shell.run(&format!("plan in.png --timesteps {}", timesteps.join(",")));
    let text = format!("{}{}", String::from_utf8_lossy(&plan.stdout), stderr(&plan));
    assert!(text.lines().all(|line| line.chars().count() < 1100), "{text}");
}

#[test]
fn sizes_that_are_seldom_meant_are_said() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 16);
    for (option, expected) in [
        ("--scale 0.5", "the output, 12 × 8, is smaller than the picture, 24 × 16"),
        ("--long-edge 20", "the output, 20 × 13, is smaller than the picture, 24 × 16"),
        ("--size 32x32", "--size 32x32 has another aspect ratio than the picture, 24 × 16"),
    ] {
        let output = shell.run(&format!("plan in.png {option}"));
        assert!(output.status.success());
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    }
}

#[test]
fn a_stream_by_name_goes_to_standard_output_as_a_dash_does() {
    let shell = Shell::new();
    let path = shell.picture("in.png", 8, 8);
    let mut command = shell.command(&format!("/dev/stdin {QUICK} --quiet"));
    let output = command.stdin(File::open(path).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stdout.starts_with(b"\x89PNG"));
    assert_eq!(shell.names(), ["in.png"]);
}

#[test]
fn a_link_to_the_folder_around_is_said_and_not_followed() {
    let shell = Shell::new();
    fs::create_dir_all(shell.path("all/shots")).unwrap();
    shell.picture("all/shots/a.png", 8, 8);
    shell.picture("all/earlier.png", 8, 8);
    symlink(shell.path("all"), shell.path("all/shots/up")).unwrap();
    let output = shell.run(&format!("all/shots -o big {QUICK}"));
    let message = stderr(&output);
    assert!(message.starts_with("all/shots/up: leads to a folder around this one"), "{message}");
    assert!(message.contains("1 done"), "{message}");
    assert_eq!(size(&shell.path("big/a.png")), (16, 16));
}

#[test]
fn a_caption_of_megabytes_is_cut_before_it_is_read() {
    let shell = Shell::new();
    shell.picture("in.png", 16, 16);
    let entry = format!(
        r#"{{"row":0,"col":0,"x":0,"y":0,"width":32,"height":32,"caption":"{}"}}"#,
        "a wall, ".repeat(2 << 20)
    );
    let grid = r#"{"rows":1,"cols":1,"region":512,"overlap":256,"width":32,"height":32}"#;
    let text = format!(r#"{{"version":1,"grid":{grid},"captioner":"none","regions":[{entry}]}}"#);
    fs::write(shell.path("captions.json"), text).unwrap();
    let begun = Instant::now();
    let line = "in.png -o out.png -s 2 --denoise-steps 1 --captions captions.json";
    let output = shell.run(line);
    let message = stderr(&output);
    assert!(output.status.success(), "{message}");
    assert!(message.contains("1 text of the captions file cut to the first 16.0 KiB"), "{message}");
    assert!(message.contains("1 caption is cut to the 75 tokens"), "{message}");
    assert!(message.contains("1 region × 1 step"), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
