//! Shares of a folder: every picture in one of them, the same bytes as from one process, and what becomes of processes that
//! are killed, stopped, or meet each other.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::common::{Shell, pause, quick, stderr, test_picture};

const VARIABLES: [&str; 6] = [
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_MAX",
    "SLURM_ARRAY_TASK_COUNT",
    "JOB_COMPLETION_INDEX",
    "PARALLEL_SEQ",
];

fn picture(shell: &Shell, name: &str, side: u32) {
    let path = shell.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    pictures::save(test_picture(side, side).into(), &path);
}

/// Twelve pictures in a folder and one below it.
fn shots(shell: &Shell) {
    for number in 0..12 {
        let below = if number % 3 == 0 { "day 1/" } else { "" };
        picture(shell, &format!("shots/{below}{number}.png"), 16);
    }
}

/// Runs without the variables of an engine that runs this test, and with these.
fn run(shell: &Shell, arguments: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = shell.command(arguments);
    for name in VARIABLES {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// The pictures of a share.
fn listed(shell: &Shell, arguments: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let output = run(shell, &format!("{arguments} --dry-run"), variables);
    assert_eq!(code(&output), 0, "{arguments}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Names and bytes of the pictures below a folder.
fn outputs(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(path) = folders.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            if name.starts_with(".cupscale-shares") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((name, fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The status as JSON, and its exit code.
fn status(shell: &Shell, folder: &str) -> (Value, i32) {
    let output = shell.run(&format!("status {folder} --json"));
    let json = serde_json::from_slice(&output.stdout);
    (json.unwrap_or_else(|_| panic!("{}", stderr(&output))), code(&output))
}

#[test]
fn every_picture_is_in_one_share_wherever_the_folder_lies_and_however_it_is_named() {
    let shell = Shell::new();
    shots(&shell);
    fs::create_dir(shell.path("elsewhere")).unwrap();
    let whole: BTreeSet<_> = listed(&shell, "shots -o big --shard 1/1", &[]).into_iter().collect();
    assert_eq!(whole.len(), 12);
    let shares = |folder: &str, of: u32| -> Vec<Vec<String>> {
        let list = |share| listed(&shell, &format!("{folder} -o big --shard {share}/{of}"), &[]);
        (1..=of).map(list).collect()
    };
    let before = [2, 5, 20].map(|of| (of, shares("shots", of)));
    for (_, shares) in &before {
        let all: Vec<_> = shares.iter().flatten().cloned().collect();
        assert_eq!(all.len(), 12);
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), whole);
    }
    // Twenty shares of twelve pictures: some are empty.
    assert!(before[2].1.iter().any(Vec::is_empty));
    // Another place, and pictures that have come and gone.
    fs::rename(shell.path("shots"), shell.path("elsewhere/moved")).unwrap();
    fs::remove_file(shell.path("elsewhere/moved/1.png")).unwrap();
    picture(&shell, "elsewhere/moved/0 new.png", 16);
    for (of, before) in &before {
        let after = shares("elsewhere/moved/", *of);
        for (before, after) in before.iter().zip(after) {
            let kept = |name: &&String| !name.ends_with("/1.png") && !name.ends_with("/0 new.png");
            let here =
                before.iter().filter(kept).map(|name| name.replacen("shots", "elsewhere/moved", 1));
            let there: Vec<_> = after.iter().filter(kept).cloned().collect();
            assert_eq!(here.collect::<Vec<_>>(), there);
        }
    }
    // Named one by one, in any order.
    let named = "elsewhere/moved/8.png elsewhere/moved/2.png elsewhere/moved/7.png";
    for share in 1..=5 {
        let alone = listed(&shell, &format!("{named} -o big --shard {share}/5"), &[]);
        let all = listed(&shell, &format!("elsewhere/moved -o big --shard {share}/5"), &[]);
        assert!(alone.iter().all(|name| all.contains(name)), "{alone:?} of {all:?}");
    }
    // As JSON, by the verb.
    let output = run(&shell, "plan elsewhere/moved -o big --shard 1/1 --json", &[]);
    assert_eq!(serde_json::from_slice::<Vec<String>>(&output.stdout).unwrap().len(), 12);
    assert!(!shell.path("big").exists());
}

#[test]
fn pages_of_a_file_are_shared_as_pictures_are() {
    let shell = Shell::new();
    let frames = crate::common::fixture("image/inputs/frames.gif");
    fs::copy(frames, shell.path("frames.gif")).unwrap();
    let list = |share: &str| listed(&shell, &format!("frames.gif --frames --shard {share}"), &[]);
    let whole = list("1/1");
    assert_eq!(whole.len(), 4);
    let mut all: Vec<_> = ["1/3", "2/3", "3/3"].into_iter().flat_map(list).collect();
    all.sort();
    assert_eq!(all, whole);
}

#[test]
fn an_engine_says_which_share_it_is() {
    let shell = Shell::new();
    shots(&shell);
    let named = |share: &str| listed(&shell, &format!("shots -o big --shard {share}"), &[]);
    let slurm = |id, first, last, count| {
        vec![
            ("SLURM_ARRAY_TASK_ID", id),
            ("SLURM_ARRAY_TASK_MIN", first),
            ("SLURM_ARRAY_TASK_MAX", last),
            ("SLURM_ARRAY_TASK_COUNT", count),
        ]
    };
    for (choice, variables, share) in [
        ("auto", slurm("2", "0", "4", "5"), "3/5"),
        ("auto", slurm("3", "1", "5", "5"), "3/5"),
        ("auto/5", slurm("3", "3", "3", "1"), "3/5"),
        ("auto/5", vec![("JOB_COMPLETION_INDEX", "2")], "3/5"),
        ("auto/5", vec![("PARALLEL_SEQ", "3")], "3/5"),
    ] {
        let arguments = format!("shots -o big --shard {choice}");
        assert_eq!(listed(&shell, &arguments, &variables), named(share), "{variables:?}");
    }
    for (choice, variables, said) in [
        ("auto", vec![], "no engine says which share this is"),
        ("auto", slurm("3", "3", "7", "2"), "auto/N"),
        ("auto", vec![("JOB_COMPLETION_INDEX", "2")], "auto/N"),
        ("auto/5", vec![("PARALLEL_SEQ", "6")], "PARALLEL_SEQ is 6"),
        ("auto/5", vec![("PARALLEL_SEQ", "1"), ("SLURM_ARRAY_TASK_ID", "1")], "are both set"),
        ("6/5", vec![], "there is no share 6"),
    ] {
        let output = run(&shell, &format!("shots -o big --shard {choice}"), &variables);
        let line = stderr(&output);
        assert_eq!((code(&output), line.lines().count()), (2, 1), "{line}");
        assert!(line.contains(said), "{line}");
    }
}

#[test]
fn all_shares_together_make_what_one_process_makes_and_run_again_for_nothing() {
    let (shell, quick) = (Shell::new(), quick());
    shots(&shell);
    fs::write(shell.path("shots/broken.png"), "not a picture").unwrap();
    shell.run(&format!("shots -o one {quick}"));
    let mut failed = 0;
    for share in 1..=20 {
        let output = run(&shell, &format!("shots -o many --shard {share}/20 {quick}"), &[]);
        let line = stderr(&output);
        match code(&output) {
            0 if line.contains("none of 13 pictures is in it") => {}
            0 => assert!(line.contains("0 skipped, 0 failed in "), "{line}"),
            code => {
                assert_eq!(code, 1, "{line}");
                assert!(line.contains("shots/broken.png: not a readable"), "{line}");
                failed += 1;
            }
        }
    }
    assert_eq!(failed, 1);
    assert_eq!(outputs(&shell.path("many")), outputs(&shell.path("one")));
    let (json, code_of_status) = status(&shell, "many");
    assert_eq!(code_of_status, 1);
    assert_eq!([&json["pictures"], &json["done"], &json["failed"], &json["left"]], [13, 12, 1, 0]);
    assert_eq!(json["not_begun"], 0);
    assert_eq!(json["failures"][0]["picture"], "shots/broken.png");
    // A share that an engine runs once more has nothing to do, which is no failure; without the model, even.
    fs::remove_file(shell.path("shots/broken.png")).unwrap();
    for share in 1..=3 {
        let again = format!("shots -o many --shard {share}/3 -s 2 --model nowhere");
        let output = run(&shell, &again, &[]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stderr(&output).contains("0 done, "), "{}", stderr(&output));
        // Shares of another list lie there.
        assert!(stderr(&output).contains("has records of 20 shares too"), "{}", stderr(&output));
    }
    let output = shell.run("status many");
    let notes = stderr(&output);
    assert!(notes.contains("shares of different lists: of 3, of 20"), "{notes}");
    assert!(notes.contains("settings differ: "), "{notes}");
}

#[test]
fn what_has_no_shares_refuses_them() {
    let shell = Shell::new();
    shots(&shell);
    for (arguments, said) in [
        ("- --shard 1/2", "a share is one of pictures that have names"),
        ("shots/1.png shots/2.png --shard 1/2", "name a folder for the outputs, -o DIR/"),
        ("caption shots/1.png --shard 1/2", "no --shard"),
        ("edit shots/1.png --shard 1/2", "no --shard"),
        ("generate fox -o fox.png --shard 1/2", "no --shard"),
        ("shots --shard 0/2", "there is no share 0"),
        ("shots --shard half", "not I/N"),
    ] {
        let output = run(&shell, arguments, &[]);
        assert_eq!((code(&output), stderr(&output).lines().count()), (2, 1), "{}", stderr(&output));
        assert!(stderr(&output).contains(said), "{arguments}: {}", stderr(&output));
    }
    assert_eq!(shell.names(), ["shots"]);
}

/// A job of a few steps on the tiny model, and the pictures for it.
fn slow(shell: &Shell) -> String {
    picture(shell, "shots/a.png", 16);
    picture(shell, "shots/b.png", 200);
    picture(shell, "shots/c.png", 16);
    let quick = quick().replace("--denoise-steps 1", "--denoise-steps 4 --batch 1");
    format!("shots {quick} --shard 1/1")
}

/// Starts a run, and returns when it repaints the large picture.
fn started(shell: &Shell, arguments: &str) -> Child {
    let mut child = shell.command(arguments).stderr(Stdio::piped()).spawn().unwrap();
    let journal = shell.path("big/.b.png.cupscale/journal");
    while fs::metadata(&journal).map_or(0, |file| file.len()) < 200 {
        assert!(child.try_wait().unwrap().is_none(), "the run is over");
        pause();
    }
    child
}

#[test]
fn a_share_that_was_killed_goes_on_where_it_was() {
    let shell = Shell::new();
    let job = slow(&shell);
    shell.succeed(&format!("{job} -o one"));
    let mut child = started(&shell, &format!("{job} -o big"));
    let (json, code_of_status) = status(&shell, "big");
    assert_eq!(code_of_status, 3);
    assert_eq!([&json["done"], &json["running"], &json["left"]], [1, 1, 1]);
    child.kill().unwrap();
    child.wait().unwrap();
    let (json, code_of_status) = status(&shell, "big");
    assert_eq!(code_of_status, 3);
    assert_eq!([&json["done"], &json["running"], &json["left"]], [1, 0, 2]);
    assert_eq!(json["shares"][0]["code"], Value::Null);
    let begun = Instant::now();
    let output = run(&shell, &format!("{job} -o big"), &[]);
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).contains("going on with what is done in "), "{}", stderr(&output));
    assert!(stderr(&output).contains("2 done, 1 skipped, 0 failed"), "{}", stderr(&output));
    // The lock of the killed process told at once that it is gone.
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    assert_eq!(outputs(&shell.path("big")), outputs(&shell.path("one")));
    let (json, code_of_status) = status(&shell, "big");
    assert_eq!((code_of_status, &json["done"], &json["left"]), (0, &3.into(), &0.into()));
    assert_eq!(json["shares"][0]["runs"], 2);
}

fn signal(child: &Child, name: &str) {
    let kill = std::process::Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
}

#[test]
fn sigterm_ends_a_share_with_130_after_the_work_at_hand_or_the_time_of_grace() {
    let shell = Shell::new();
    let job = slow(&shell);
    shell.succeed(&format!("{job} -o one"));
    for (grace, said) in [
        ("", "interrupted: 1 done, 0 skipped, 0 failed, 2 left; the same command goes on"),
        ("--grace 0", "interrupted, and ended after 0 s (--grace)"),
    ] {
        let child = started(&shell, &format!("{job} -o big {grace}"));
        signal(&child, "-TERM");
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 130, "{}", stderr(&output));
        if grace.is_empty() {
            assert!(stderr(&output).contains(said), "{}", stderr(&output));
        } else {
            // Either the batch or the time was over first.
            let both = [said, "interrupted: "];
            assert!(both.iter().any(|said| stderr(&output).contains(said)), "{}", stderr(&output));
        }
        let output = run(&shell, &format!("{job} -o big"), &[]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stderr(&output).contains("going on with what is done in "), "{}", stderr(&output));
        assert_eq!(outputs(&shell.path("big")), outputs(&shell.path("one")));
        fs::remove_dir_all(shell.path("big")).unwrap();
    }
}

#[test]
fn two_processes_on_one_share_do_each_picture_once() {
    let (shell, quick) = (Shell::new(), quick());
    shots(&shell);
    shell.succeed(&format!("shots -o one {quick}"));
    let job = format!("shots -o big --shard 1/1 {quick}");
    let both: Vec<_> = (0..2)
        .map(|_| shell.command(&job).stderr(Stdio::piped()).spawn().unwrap())
        .map(|child| std::thread::spawn(|| child.wait_with_output().unwrap()))
        .collect();
    let mut done = 0;
    for output in both.into_iter().map(|thread| thread.join().unwrap()) {
        let text = stderr(&output);
        assert_eq!(code(&output), 0, "{text}");
        let tally = text.lines().find(|line| line.contains(" done, ")).unwrap();
        done += tally.split(' ').next().unwrap().parse::<usize>().unwrap();
    }
    assert_eq!(done, 12);
    assert_eq!(outputs(&shell.path("big")), outputs(&shell.path("one")));
    assert_eq!(status(&shell, "big").1, 0);
}

/// The lock of the work folder of an output, as a process holds it that works there.
fn locked(shell: &Shell, output: &str) -> File {
    let path = shell.path(output);
    let name = path.file_name().unwrap().to_str().unwrap();
    let folder = path.with_file_name(format!(".{name}.cupscale"));
    fs::create_dir_all(&folder).unwrap();
    let file = File::create(folder.join("lock")).unwrap();
    file.try_lock().unwrap();
    file
}

#[test]
fn a_picture_that_another_process_works_on_is_skipped_or_comes_last() {
    let (shell, quick) = (Shell::new(), quick());
    for name in ["a", "b", "c"] {
        picture(&shell, &format!("shots/{name}.png"), 16);
    }
    let job = format!("shots -o big {quick}");
    let held = locked(&shell, "big/a.png");
    let output = run(&shell, &format!("{job} --skip-locked --progress json"), &[]);
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).contains("2 done, 1 skipped, 0 failed"), "{}", stderr(&output));
    assert!(stderr(&output).contains(r#""text":"another process works on it""#));
    // Nothing but that picture: nothing was done, of a share neither.
    for share in ["", "--shard 1/1"] {
        let again = format!("{job} --skip-existing --skip-locked {share}");
        let output = run(&shell, &again, &[]);
        assert_eq!(code(&output), 3, "{}", stderr(&output));
    }
    let (json, code_of_status) = status(&shell, "big");
    assert_eq!((code_of_status, &json["running"]), (3, &1.into()));

    let mut child = shell
        .command(&format!("{job} --shard 1/1 --progress json"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let waiting = "shots/a.png: another process works on it; waiting for it to end";
    assert!(lines.any(|line| line.contains(r#""state":"waiting""#)));
    assert!(lines.any(|line| line.contains(waiting)));
    // Ctrl-C ends the wait.
    signal(&child, "-INT");
    let rest: Vec<_> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");

    let mut child =
        shell.command(&format!("{job} --shard 1/1")).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains(waiting)));
    drop(held);
    let rest: Vec<_> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest:?}");
    assert!(rest.last().unwrap().starts_with("1 done, 2 skipped, 0 failed"), "{rest:?}");
    assert_eq!(outputs(&shell.path("big")).len(), 3);
    assert_eq!(status(&shell, "big").1, 0);
}

/// Its lock says nothing here, and its line is new.
#[test]
fn a_picture_that_another_host_works_on_is_left_to_it() {
    let (shell, quick) = (Shell::new(), quick());
    picture(&shell, "a.png", 16);
    let folder = shell.path(".big.png.cupscale");
    fs::create_dir(&folder).unwrap();
    let line = r#"{"word":"00112233445566778899aabbccddeeff","lock":"elsewhere:1","host":"node7","pid":4711,"beat":"000000000001"}"#;
    fs::write(folder.join("lease"), line).unwrap();
    let output = run(&shell, &format!("a.png -o big.png --skip-locked {quick}"), &[]);
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let mut child =
        shell.command(&format!("a.png -o big.png {quick}")).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told = lines.next().unwrap();
    assert!(told.contains("process 4711 on node7 is at work on this job"), "{told}");
    // It ends.
    fs::remove_file(folder.join("lease")).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(shell.path("big.png").exists() && !folder.exists());
}
