//! Folders of pictures, and outputs that are there already.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use serde_json::Value;

use crate::common::{Shell, quick, size, stderr, test_picture};

/// Writes a picture below folders that need not exist.
fn picture(shell: &Shell, name: &str, width: u32, height: u32) {
    let path = shell.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    pictures::save(test_picture(width, height).into(), &path);
}

/// Every file below a folder, by its path in it.
fn tree(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        for entry in fs::read_dir(folder.join(&below)).unwrap() {
            let path = below.join(entry.unwrap().file_name());
            if folder.join(&path).is_dir() {
                folders.push(path);
            } else {
                files.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    stderr(output).lines().map(str::to_owned).collect()
}

#[test]
fn every_picture_below_a_folder_is_done_in_its_place_and_bad_ones_are_told_at_the_end() {
    let (shell, quick) = (Shell::new(), quick());
    picture(&shell, "shots/b.jpg", 24, 16);
    picture(&shell, "shots/day 1/a.png", 24, 24);
    picture(&shell, "shots/day 1/raw/c.tif", 16, 24);
    picture(&shell, "shots/.hidden/d.png", 16, 16);
    fs::copy(shell.path("shots/b.jpg"), shell.path("shots/named by nobody")).unwrap();
    fs::write(shell.path("shots/readme.txt"), "not a picture").unwrap();
    fs::write(shell.path("shots/a broken.png"), "not a picture").unwrap();
    fs::write(shell.path("shots/z empty.jpg"), "").unwrap();
    fs::write(shell.path("shots/drawing.svg"), b"<svg width=\"1\">").unwrap();
    let output = shell.run(&format!("-i shots -o big/ones {quick}"));
    assert_eq!(code(&output), 1);
    let lines = lines(&output);
    assert_eq!(lines[0], "1 file of kinds that are not read: SVG");
    assert!(lines[1].starts_with("4 done, 0 skipped, 2 failed in "), "{lines:?}");
    let starts = |line: &str, file: &str| line.starts_with(&format!("cupscale-fast: shots/{file}"));
    assert!(starts(&lines[2], "a broken.png: not a readable image"), "{lines:?}");
    assert!(starts(&lines[3], "z empty.jpg: empty file"), "{lines:?}");
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(
        tree(&shell.path("big/ones")),
        ["b.jpg", "day 1/a.png", "day 1/raw/c.tif", "named by nobody.jpg"]
    );
    assert_eq!(size(&shell.path("big/ones/day 1/raw/c.tif")), (32, 48));

    // What a folder gets is what a file gets.
    shell.succeed(&format!("-i shots/b.jpg -o alone.jpg {quick}"));
    assert_eq!(shell.bytes("alone.jpg"), shell.bytes("big/ones/b.jpg"));
}

#[test]
fn the_output_folder_stands_beside_the_input_says_the_size_and_is_never_walked_itself() {
    let (shell, quick) = (Shell::new(), quick());
    picture(&shell, "shots/a.png", 16, 16);
    shell.succeed(&format!("shots/ {quick} --format jpeg"));
    assert_eq!(shell.names(), ["shots", "shots_2x"]);
    assert_eq!(tree(&shell.path("shots_2x")), ["a.jpg"]);
    // An output within the input, twice: the second run does not enlarge the first one's.
    for _ in 0..2 {
        shell.succeed(&format!("shots -o shots/big {quick}"));
        assert_eq!(tree(&shell.path("shots")), ["a.png", "big/a.png"]);
    }
    assert_eq!(size(&shell.path("shots/big/a.png")), (32, 32));
}

#[test]
fn what_exists_is_left_alone_on_request_only() {
    let (shell, quick) = (Shell::new(), quick());
    picture(&shell, "shots/a.png", 16, 16);
    picture(&shell, "shots/b.png", 16, 16);
    fs::create_dir(shell.path("big")).unwrap();
    fs::write(shell.path("big/a.png"), "here before").unwrap();
    let again = format!("shots -o big --skip-existing {quick}");
    let output = shell.run(&again);
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).starts_with("1 done, 1 skipped, 0 failed"), "{}", stderr(&output));
    assert_eq!(shell.bytes("big/a.png"), b"here before");
    // Nothing left to do has an exit code of its own, and not even the model is looked for.
    let output = shell.run("shots -o big --skip-existing -s 2 --model nowhere");
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).starts_with("0 done, 2 skipped, 0 failed"), "{}", stderr(&output));
    shell.succeed(&format!("shots -o big {quick}"));
    assert_eq!(size(&shell.path("big/a.png")), (32, 32));

    // The same for one file.
    fs::write(shell.path("out.png"), "here before").unwrap();
    let output = shell.run(&format!("shots/a.png -o out.png --skip-existing {quick}"));
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).starts_with("out.png: exists, skipped"), "{}", stderr(&output));
    let output = shell.run(&format!("shots/a.png -o out.png --skip-existing --quiet {quick}"));
    assert_eq!((code(&output), stderr(&output).as_str()), (3, ""));
    assert_eq!(shell.bytes("out.png"), b"here before");
    shell.succeed(&format!("shots/a.png -o new.png --skip-existing {quick}"));
}

#[test]
fn outputs_that_would_take_each_others_place_are_refused_before_any_work() {
    let (shell, quick) = (Shell::new(), quick());
    picture(&shell, "shots/a.png", 16, 16);
    picture(&shell, "shots/a.jpg", 16, 16);
    picture(&shell, "shots/shots/b.png", 16, 16);
    picture(&shell, "shots/b.png", 16, 16);
    let before = shell.bytes("shots/b.png");
    let message = shell.fail(&format!("shots -o big --format png {quick}"), 2);
    for expected in ["shots/a.jpg and shots/a.png", "big/a.png", "--format"] {
        assert!(message.contains(expected), "{message}");
    }
    // `shots/shots/b.png` would become `shots/b.png`, which is an input itself.
    let message = shell.fail(&format!("shots -o . {quick}"), 2);
    assert!(message.contains("take the place of an input"), "{message}");
    let message = shell.fail(&format!("shots -o shots {quick}"), 2);
    assert!(message.contains("is the input folder itself"), "{message}");
    assert_eq!(shell.names(), ["shots"]);
    assert_eq!(shell.bytes("shots/b.png"), before);
    // In their own formats they are two pictures.
    shell.succeed(&format!("shots -o big {quick}"));
    assert_eq!(tree(&shell.path("big")), ["a.jpg", "a.png", "b.png", "shots/b.png"]);
}

#[test]
fn what_cannot_be_meant_of_a_folder_is_refused_in_one_line() {
    let shell = Shell::new();
    picture(&shell, "shots/a.png", 16, 16);
    fs::create_dir(shell.path("empty")).unwrap();
    fs::write(shell.path("empty/notes.txt"), "no picture").unwrap();
    fs::write(shell.path("file"), "a file").unwrap();
    for (arguments, code, expected) in [
        ("shots -o -", 2, "go to a folder"),
        ("shots -o file", 2, "file: is no folder"),
        ("shots --captions captions.json", 2, "describe one picture"),
        ("plan shots", 2, "shots: is a folder; `plan` takes one picture"),
        ("shots --dry-run", 2, "`plan` takes one picture"),
        ("caption shots", 2, "`caption` takes one picture"),
        ("empty", 1, "empty: no pictures in it"),
        ("shots/a.png shots -o x.png", 2, "several inputs: name a folder"),
        ("shots/a.png shots -o file", 2, "file: is no folder, but there are several inputs"),
        ("shots/a.png shots -o -", 2, "several pictures go to a folder"),
        ("shots/a.png shots --resume", 2, "--resume is for one picture"),
        ("shots/a.png shots --captions c.json", 2, "describe one picture"),
        ("plan shots/a.png file", 2, "2 inputs; `plan` takes one picture"),
        // What is wrong with every picture is told once.
        ("shots --model nowhere", 1, "nowhere"),
        ("shots --steps 51 --sampler tcd", 2, "51"),
    ] {
        let message = shell.fail(arguments, code);
        assert!(message.contains(expected), "{arguments}: {message}");
    }
}

#[test]
fn a_picture_too_large_for_its_format_fails_alone() {
    let shell = Shell::new();
    picture(&shell, "shots/a.png", 400, 2);
    picture(&shell, "shots/b.png", 2, 2);
    let output = shell.run("shots -o big -f webp --scale 41 --denoise-steps 1 --rap 0");
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    let text = stderr(&output);
    assert!(
        text.contains("shots/a.png: big/a.webp: WebP holds at most 16383 pixels a side"),
        "{text}"
    );
    assert!(text.contains("write a TIFF"), "{text}");
    assert_eq!(tree(&shell.path("big")), ["b.webp"]);
}

#[test]
fn progress_says_which_file_of_how_many() {
    let (shell, quick) = (Shell::new(), quick());
    picture(&shell, "shots/a.png", 16, 16);
    picture(&shell, "shots/b.png", 16, 16);
    fs::write(shell.path("shots/c.png"), "not a picture").unwrap();
    fs::create_dir(shell.path("big")).unwrap();
    fs::write(shell.path("big/a.png"), "").unwrap();
    let output = shell.run(&format!("shots -o big --skip-existing --progress json {quick}"));
    assert_eq!(code(&output), 1);
    let (events, plain): (Vec<_>, Vec<_>) =
        lines(&output).into_iter().partition(|line| line.starts_with('{'));
    let events: Vec<Value> =
        events.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let files: Vec<_> = (events.iter())
        .filter(|event| event["event"] == "file")
        .map(|event| {
            assert_eq!(event["count"], 3);
            let index = event["index"].as_u64().unwrap();
            (index, event["input"].as_str().unwrap(), event["state"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        files,
        [
            (1, "shots/a.png", "begun"),
            (1, "shots/a.png", "skipped"),
            (2, "shots/b.png", "begun"),
            (2, "shots/b.png", "done"),
            (3, "shots/c.png", "begun"),
            (3, "shots/c.png", "failed"),
        ]
    );
    assert_eq!(events.last().unwrap()["summary"], "1 done, 1 skipped, 1 failed");
    // The stages of a file stand between its beginning and its end.
    let stage = events.iter().position(|event| event["event"] == "stage").unwrap();
    let begun = events.iter().position(|event| event["index"] == 2).unwrap();
    let ended = events.iter().rposition(|event| event["index"] == 2).unwrap();
    assert!(begun < stage && stage < ended);
    assert_eq!(plain.len(), 1, "{plain:?}");
    assert!(plain[0].starts_with("cupscale-fast: shots/c.png: "), "{plain:?}");

    let output = shell.run(&format!("shots -o bar --progress bar {quick}"));
    let lines = lines(&output);
    assert!(lines.iter().any(|line| line.starts_with("1/3 shots/a.png: repainting ")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("2/3 bar/b.png: 32 × 32, ")), "{lines:?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_finished_and_skipping_it_finishes_the_rest() {
    let shell = Shell::new();
    picture(&shell, "shots/a.png", 16, 16);
    picture(&shell, "shots/b.png", 160, 160);
    picture(&shell, "shots/c.png", 16, 16);
    let mut child = shell
        .command("shots -o big -s 2 --denoise-steps 2 --captioner none --progress json")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains(r#""input":"shots/b.png""#)));
    assert!(lines.any(|line| line.contains(r#""stage":"denoise""#)));
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let rest: Vec<_> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    let last = rest.last().unwrap();
    let expected =
        "interrupted: 1 done, 0 skipped, 0 failed, 2 left; the same command with --skip-existing";
    assert!(last.contains(expected), "{last}");
    assert!(tree(&shell.path("big")).contains(&"a.png".to_owned()));
    assert!(!shell.path("big/b.png").exists() && !shell.path("big/c.png").exists());

    let output = shell.run("shots -o big -s 2 --denoise-steps 2 --captioner none --skip-existing");
    let message = stderr(&output);
    assert!(message.contains("2 done, 1 skipped, 0 failed"), "{message}");
    // The picture that was under way went on where it was.
    assert!(message.contains("going on with what is done in "), "{message}");
    assert_eq!(tree(&shell.path("big")), ["a.png", "b.png", "c.png"]);
}

#[test]
fn several_inputs_go_beside_themselves_or_to_one_folder_and_earlier_outputs_are_left_out() {
    let (shell, quick) = (Shell::new(), quick());
    for name in ["a.png", "b.jpg", "shots/c.png"] {
        picture(&shell, name, 16, 16);
    }
    fs::write(shell.path("notes.txt"), "not a picture").unwrap();
    // As the shell writes `*` on a first run, and once more on a second.
    for names in ["a.png b.jpg notes.txt shots", "a.png a_2x.png b.jpg b_2x.jpg a.png"] {
        let output = shell.run(&format!("{names} {quick}"));
        let lines = lines(&output);
        if names.contains("notes") {
            assert_eq!(code(&output), 1, "{lines:?}");
            assert!(lines[0].starts_with("3 done, 0 skipped, 1 failed in "), "{lines:?}");
            assert!(lines[1].starts_with("cupscale-fast: notes.txt: not a readable"), "{lines:?}");
        } else {
            assert_eq!(code(&output), 0, "{lines:?}");
            assert_eq!(lines[0], "a_2x.png: is the output of a.png and left out");
            assert!(lines[2].starts_with("2 done, 0 skipped, 0 failed in "), "{lines:?}");
        }
        let expected = ["a.png", "a_2x.png", "b.jpg", "b_2x.jpg", "notes.txt", "shots", "shots_2x"];
        assert_eq!(shell.names(), expected);
        assert_eq!(size(&shell.path("a_2x.png")), (32, 32));
    }
    shell.succeed(&format!("a.png shots b.jpg -o big {quick}"));
    assert_eq!(tree(&shell.path("big")), ["a_2x.png", "b_2x.jpg", "shots/c.png"]);
    // One picture, as a pattern may match one, goes to a folder as well.
    shell.succeed(&format!("shots/c.png -o big {quick}"));
    shell.succeed(&format!("shots/c.png -o shots {quick}"));
    assert_eq!(tree(&shell.path("big")), ["a_2x.png", "b_2x.jpg", "c_2x.png", "shots/c.png"]);
    assert_eq!(tree(&shell.path("shots")), ["c.png", "c_2x.png"]);
    let message = shell.fail(&format!("shots/c.png big/shots/c.png -o other {quick}"), 2);
    assert!(message.contains("would both become other/c_2x.png"), "{message}");
}
