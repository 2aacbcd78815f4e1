//! `models pull` from a hub on the loopback that misbehaves in every way that hubs and networks do,
//! and what lies in the models folder afterwards.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::common::{
    hub_server::{COMMIT, HubServer, sha256},
    models_bench::{Bench, LARGE, UNET, noise, one_line, part, wait_until},
    stderr,
};

#[test]
fn a_pull_brings_every_file_and_writes_down_what_it_brought() {
    let bench = Bench::new();
    assert_eq!(bench.state("tiny-fast"), "known");
    let output = bench.run("pull tiny-fast");
    for (repository, path) in [
        ("tests/tiny", "model_index.json"),
        ("tests/tiny", UNET),
        ("tests/lora", "fast.safetensors"),
        ("tests/vae", "config.json"),
    ] {
        let expected = bench.hub.behaviour().files[&format!("{repository}/{path}")].clone();
        assert!(fs::read(bench.stored(repository, path)).unwrap() == expected, "{path}");
        assert!(!part(&bench.stored(repository, path)).exists());
    }
    let manifest = bench.manifest("tiny-fast");
    let sources = manifest["sources"].as_array().unwrap();
    let roles: Vec<_> = sources.iter().map(|source| source["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["model", "lora", "vae"]);
    for source in sources {
        assert_eq!(source["revision"], COMMIT);
        for file in source["files"].as_array().unwrap() {
            let name = format!(
                "{}/{}",
                source["repository"].as_str().unwrap(),
                file["path"].as_str().unwrap()
            );
            let bytes = bench.hub.behaviour().files[&name].clone();
            assert_eq!(file["sha256"], sha256(&bytes), "{name}");
            assert_eq!(file["size"], bytes.len(), "{name}");
        }
    }
    assert_eq!(bench.state("tiny-fast"), "installed");
    // The terms of use are told before anything comes, and only then.
    let told = "tiny-fast: licence MIT (https://licence.example)";
    assert!(stderr(&output).contains(told), "{}", stderr(&output));
    // What is here is not asked for again, not even of a hub that has moved on.
    bench.hub.behaviour().log.clear();
    bench.hub.behaviour().commit = Some("f".repeat(40));
    assert!(!stderr(&bench.run("pull tiny-fast")).contains("licence"));
    assert_eq!(bench.state("tiny-fast"), "installed");
    assert!(bench.hub.behaviour().log.is_empty());
}

/// Attempts have pauses between them, in which a processor has nothing to do: at once, then.
#[test]
fn connections_that_break_and_hubs_that_are_busy() {
    std::thread::scope(|scope| {
        scope.spawn(a_connection_that_never_brings_a_byte_is_given_up_and_what_came_before_is_kept);
        scope.spawn(a_busy_hub_is_asked_again_when_it_says);
        scope.spawn(a_dead_hub_is_given_up);
        for seed in 1..=3 {
            scope.spawn(move || {
                a_connection_cut_anywhere_is_taken_up_again_without_a_byte_sent_twice(seed);
            });
        }
    });
}

fn a_connection_cut_anywhere_is_taken_up_again_without_a_byte_sent_twice(seed: u64) {
    let bench = Bench::new();
    let random = noise(seed + 100, 16);
    let cuts: Vec<usize> = random
        .chunks(4)
        .map(|four| u32::from_le_bytes(four.try_into().unwrap()) as usize % (LARGE / 5) + 1)
        .collect();
    // The small files come first, and take cuts that have no effect on them.
    bench.hub.behaviour().cuts = [vec![usize::MAX; 2], cuts.clone()].concat().into();
    let output = bench.run("pull tiny");
    assert!(output.status.success(), "{cuts:?}: {}", stderr(&output));
    assert!(fs::read(bench.stored("tests/tiny", UNET)).unwrap() == noise(1, LARGE));
    let requests = bench.hub.requests_for(UNET);
    let mut at = 0;
    for (request, cut) in requests.iter().zip(&cuts) {
        assert_eq!(request.from.unwrap_or(0), at);
        at += cut;
    }
    assert_eq!(requests.len(), cuts.len() + 1);
    assert_eq!(requests.iter().map(|request| request.sent).sum::<usize>(), LARGE);
}

#[test]
fn a_hub_that_ignores_ranges_sends_the_file_from_its_beginning() {
    let bench = Bench::new();
    bench.hub.behaviour().ignores_ranges = true;
    bench.hub.behaviour().cuts = [usize::MAX, usize::MAX, 700_000].into();
    bench.succeed("pull tiny");
    assert!(fs::read(bench.stored("tests/tiny", UNET)).unwrap() == noise(1, LARGE));
    let requests = bench.hub.requests_for(UNET);
    assert_eq!(
        requests.iter().map(|request| request.from).collect::<Vec<_>>(),
        [None, Some(700_000)]
    );
}

fn a_connection_that_never_brings_a_byte_is_given_up_and_what_came_before_is_kept() {
    let bench = Bench::new();
    bench.hub.behaviour().cuts = [vec![usize::MAX; 2], vec![300_000], vec![0; 10]].concat().into();
    let line = bench.fail("pull tiny");
    assert!(
        line.contains("tests/tiny/unet/") && line.contains("to go on where it ended"),
        "{line}"
    );
    let part = part(&bench.stored("tests/tiny", UNET));
    assert_eq!(fs::metadata(part).unwrap().len(), 300_000);
    assert_eq!(bench.state("tiny"), "known");
    bench.hub.behaviour().cuts.clear();
    bench.succeed("pull tiny");
    assert_eq!(bench.hub.requests_for(UNET).last().unwrap().from, Some(300_000));
    bench.succeed("verify tiny");
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_arrived_and_the_next_pull_goes_on_there() {
    let bench = Bench::new();
    bench.hub.behaviour().pause = Duration::from_millis(20);
    let child = bench.command("pull tiny").stderr(Stdio::piped()).spawn().unwrap();
    let part = part(&bench.stored("tests/tiny", UNET));
    wait_until(|| part.metadata().is_ok_and(|part| part.len() > 100_000));
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let line = one_line(&child.wait_with_output().unwrap(), 130);
    assert!(line.contains("interrupted"), "{line}");
    let kept = fs::metadata(&part).unwrap().len();
    assert!(kept > 100_000 && kept < LARGE as u64);
    bench.hub.behaviour().pause = Duration::ZERO;
    bench.succeed("pull tiny");
    assert_eq!(bench.hub.requests_for(UNET)[1].from, Some(kept as usize));
    assert!(fs::read(bench.stored("tests/tiny", UNET)).unwrap() == noise(1, LARGE));
}

#[test]
fn wrong_bytes_of_the_right_size_are_deleted_and_both_hashes_named() {
    let bench = Bench::new();
    bench.hub.behaviour().flips_a_bit = true;
    let line = bench.fail("pull tiny");
    let mut wrong = noise(1, LARGE);
    wrong[LARGE / 2] ^= 1;
    for text in ["wrong bytes", UNET, &sha256(&wrong), &sha256(&noise(1, LARGE))] {
        assert!(line.contains(text), "{line}");
    }
    let file = bench.stored("tests/tiny", UNET);
    assert!(!file.exists() && !part(&file).exists());
    assert_eq!(bench.state("tiny"), "known");
    bench.hub.behaviour().flips_a_bit = false;
    bench.succeed("pull tiny");
}

#[test]
fn a_part_that_is_not_the_files_beginning_is_found_out_by_its_hash() {
    let bench = Bench::new();
    let file = bench.stored("tests/tiny", UNET);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(part(&file), vec![0; 1000]).unwrap();
    assert!(bench.fail("pull tiny").contains("wrong bytes"));
    bench.succeed("pull tiny");
}

#[test]
fn a_wrong_size_is_refused_before_any_of_its_bytes() {
    let bench = Bench::new();
    bench.hub.behaviour().excess = 10;
    let output = bench.run("pull tiny --progress json");
    let stages = stderr(&output);
    let downloads: Vec<_> =
        stages.lines().filter(|line| line.contains(r#""stage":"download""#)).collect();
    assert!(!downloads.is_empty() && downloads.iter().all(|line| !line.contains(UNET)), "{stages}");
    let line = one_line(&output, 1);
    assert!(line.contains("wrong size (1500000 bytes expected, 1500010 got)"), "{line}");
    let file = bench.stored("tests/tiny", UNET);
    assert!(!file.exists() && !part(&file).exists());
}

#[test]
fn a_hub_whose_file_is_not_the_registrys_is_refused_before_any_download() {
    let bench = Bench::new();
    let pinned = |sha: String, size: Value| {
        move |registry: &mut Value| {
            registry["models"][1]["sources"][0]["revision"] = COMMIT.into();
            registry["models"][1]["sources"][0]["files"][0]["sha256"] = sha.clone().into();
            registry["models"][1]["sources"][0]["files"][0]["size"] = size.clone();
        }
    };
    for size in [Value::Null, json!(200_000)] {
        bench.registry(&pinned(sha256(b"another"), size));
        let line = bench.fail("pull tiny-lora");
        assert!(
            line.contains("another one than the registry's") && line.contains(&sha256(b"another")),
            "{line}"
        );
    }
    let file = bench.stored("tests/lora", "fast.safetensors");
    assert!(!file.exists() && !part(&file).exists());
    // The registry's own hash counts even where the hub declares none.
    bench.hub.behaviour().declares_nothing = true;
    let line = bench.fail("pull tiny-lora");
    assert!(line.contains("wrong bytes") && line.contains(&sha256(b"another")), "{line}");
    bench.registry(&pinned(sha256(&noise(2, 200_000)), json!(200_000)));
    bench.succeed("pull tiny-lora");
}

#[test]
fn a_revision_of_ones_own_takes_the_place_of_the_pinned_one() {
    let bench = Bench::new();
    bench.registry(&|registry| {
        registry["models"][1]["sources"][0]["revision"] = "e".repeat(40).into();
        registry["models"][1]["sources"][0]["files"][0]["sha256"] = sha256(b"old").into();
    });
    let line = bench.fail("pull tiny-lora");
    assert!(line.contains("tests/lora@eeee") && line.contains("(404)"), "{line}");
    bench.succeed("pull tiny-lora --revision main");
    assert_eq!(bench.manifest("tiny-lora")["sources"][0]["revision"], COMMIT);
    let line = bench.fail("pull tiny-fast --revision main");
    assert!(line.contains("tiny-lora"), "{line}");
}

#[test]
fn the_token_goes_to_the_hub_and_never_where_a_redirect_leads() {
    let bench = Bench::new();
    let elsewhere = HubServer::start();
    elsewhere.behaviour().files.clone_from(&bench.hub.behaviour().files);
    bench.hub.behaviour().token = Some("hf_secret".to_owned());
    bench.hub.behaviour().redirect = Some(elsewhere.origin.clone());
    // Cut once: what follows goes through the redirect again, from where it ended.
    elsewhere.behaviour().cuts = [usize::MAX, usize::MAX, 500_000].into();
    let output = bench.command("pull tiny").env("HF_TOKEN", "hf_secret").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(fs::read(bench.stored("tests/tiny", UNET)).unwrap() == noise(1, LARGE));
    let asked = elsewhere.requests_for(UNET);
    assert_eq!(asked.iter().map(|request| request.from).collect::<Vec<_>>(), [None, Some(500_000)]);
    let log = elsewhere.behaviour().log.clone();
    assert!(log.len() >= 4 && log.iter().all(|request| request.authorization.is_none()));
    let log = bench.hub.behaviour().log.clone();
    assert!(log.iter().all(|it| it.authorization.as_deref() == Some("Bearer hf_secret")));
}

#[test]
fn a_token_never_goes_unencrypted_over_a_network_unless_that_is_asked_for() {
    let bench = Bench::new();
    let pull = |arguments: &str, set: [(&str, &str); 2]| {
        let mut command = bench.command(&format!("pull tiny-lora {arguments}"));
        command.envs(set).output().unwrap()
    };
    let hub = "http://hub.invalid";
    // Offline, so that a token that is allowed goes nowhere either.
    let token = [("HF_TOKEN", "hf_secret"), ("HF_HUB_OFFLINE", "1")];
    for arguments in ["", "--endpoint http://hub.invalid:8080/x", "--endpoint HTTP://10.0.0.1"] {
        let line = one_line(&pull(arguments, [("HF_ENDPOINT", hub), token[0]]), 1);
        assert!(line.contains("the connection is not encrypted"), "{arguments}: {line}");
        assert!(line.contains("--insecure") && !line.contains("hf_secret"), "{line}");
    }
    for (arguments, set) in [
        ("--endpoint http://hub.invalid --insecure", token),
        ("--endpoint https://hub.invalid", token),
        ("--endpoint http://localhost:1", token),
        ("--endpoint http://hub.invalid", [("HF_TOKEN", ""), token[1]]),
    ] {
        let line = one_line(&pull(arguments, set), 1);
        assert!(line.contains("HF_HUB_OFFLINE is set"), "{arguments}: {line}");
    }
    // A proxy would see what goes to this machine itself: it is left out, though none answers here.
    bench.hub.behaviour().token = Some("hf_secret".to_owned());
    let output = pull("", [("http_proxy", "http://127.0.0.1:1"), token[0]]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_refused_pull_says_which_licence_to_accept_and_where_the_token_goes() {
    let bench = Bench::new();
    bench.hub.behaviour().token = Some("hf_secret".to_owned());
    let line = bench.fail("pull tiny");
    for text in ["401", "restricted", "HF_TOKEN", &format!("{}/tests/tiny", bench.hub.origin)] {
        assert!(line.contains(text), "{line}");
    }
    assert!(!line.contains("hf_secret"));
    // The token may be in a file of the user's choice, or in that of the hub's own tools.
    fs::write(bench.dir.path().join("token"), "hf_secret\n").unwrap();
    bench.succeed("pull tiny-lora --token-file token");
    fs::create_dir(bench.dir.path().join("hf")).unwrap();
    fs::write(bench.dir.path().join("hf").join("token"), "hf_secret").unwrap();
    bench.succeed("pull tiny");
    let line = bench.fail("pull tiny-vae --token-file nowhere");
    assert!(line.contains("nowhere: "), "{line}");
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let bench = Bench::new();
    bench.hub.behaviour().files.remove("tests/lora/fast.safetensors");
    let line = bench.fail("pull tiny-lora");
    assert!(line.contains("tests/lora@main: not on the hub") && line.contains("404"), "{line}");
    bench.hub.put("tests/lora/other.safetensors", b"x");
    let line = bench.fail("pull tiny-lora");
    assert!(line.contains("lists no file `fast.safetensors` in tests/lora"), "{line}");
    let line = bench.fail("pull nothing-like-it");
    assert!(line.contains("nothing-like-it: ") && line.contains("models list"), "{line}");
    let line = bench.fail("pull tiny-fas");
    assert!(line.contains("did you mean tiny-fast"), "{line}");
}

fn a_busy_hub_is_asked_again_when_it_says() {
    let bench = Bench::new();
    bench.hub.behaviour().answers = [(503, "0"), (429, "0"), (500, "0")].into();
    bench.succeed("pull tiny");
    bench.hub.behaviour().answers = [(503, "1")].into();
    let started = Instant::now();
    bench.succeed("pull tiny-lora");
    assert!(started.elapsed() >= Duration::from_secs(1));
}

fn a_dead_hub_is_given_up() {
    let bench = Bench::new();
    bench.hub.behaviour().answers = vec![(503, "0"); 50].into();
    let line = bench.fail("pull tiny-vae");
    assert!(line.contains("tests/vae/config.json") && line.contains("503"), "{line}");
    // Not a hub at all: a server that does not speak TLS is no reason to try again.
    let other = bench.hub.origin.replace("http:", "https:");
    let line = bench.fail(&format!("pull tiny-vae --endpoint {other}"));
    assert!(line.contains("tests/vae@main: "), "{line}");
    let line = bench.fail("pull tiny-vae --endpoint ftp://hub.example");
    assert!(line.contains("ftp://hub.example: not the address of a hub"), "{line}");
}

#[test]
fn two_processes_pull_the_same_model_and_every_file_comes_once() {
    let bench = Bench::new();
    bench.hub.behaviour().pause = Duration::from_millis(10);
    let spawn = || bench.command("pull tiny").stderr(Stdio::piped()).spawn().unwrap();
    let first = spawn();
    wait_until(|| part(&bench.stored("tests/tiny", UNET)).exists());
    let second = spawn();
    let outputs = [first, second].map(|child| child.wait_with_output().unwrap());
    for output in &outputs {
        assert!(output.status.success(), "{}", stderr(output));
    }
    assert!(stderr(&outputs[1]).contains("waiting for another process"), "{}", stderr(&outputs[1]));
    for name in ["model_index.json", "unet/config.json", UNET] {
        assert_eq!(bench.hub.requests_for(name).len(), 1, "{name}");
    }
    bench.succeed("verify tiny");
}

#[test]
fn two_processes_that_start_at_once_both_succeed() {
    let bench = Bench::new();
    let spawn = || bench.command("pull tiny-fast").stderr(Stdio::piped()).spawn().unwrap();
    for child in [spawn(), spawn(), spawn()] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(bench.hub.requests_for(UNET).len(), 1);
    assert_eq!(bench.hub.requests_for("fast.safetensors").len(), 1);
}

/// A limit on the size of files stands for the full disk: the system refuses the write in the same
/// way, in the middle of a file.
#[cfg(unix)]
#[test]
fn a_full_disk_ends_in_one_line_and_the_pull_goes_on_when_there_is_room() {
    let bench = Bench::new();
    let program = assert_cmd::cargo::cargo_bin!("cupscale-fast");
    let mut shell = Command::new("sh");
    bench.environment(&mut shell);
    // Blocks are 512 or 1024 bytes, by the shell: both are less than the file.
    let script =
        format!("trap '' XFSZ; ulimit -f 1000 && exec {} models pull tiny", program.display());
    let line = one_line(&shell.args(["-c", &script]).output().unwrap(), 1);
    assert!(line.contains("the disk is full") && line.contains("kept"), "{line}");
    let kept = fs::metadata(part(&bench.stored("tests/tiny", UNET))).unwrap().len();
    assert!(kept > 0 && kept < LARGE as u64, "{kept}");
    assert_eq!(bench.state("tiny"), "known");
    bench.succeed("pull tiny");
    assert_eq!(bench.hub.requests_for(UNET).last().unwrap().from, Some(kept as usize));
    bench.succeed("verify tiny");
}

#[test]
fn a_model_larger_than_the_disk_is_refused_before_it_is_asked_for() {
    let bench = Bench::new();
    bench.registry(&|registry| {
        let source = &mut registry["models"][1]["sources"][0];
        source["revision"] = COMMIT.into();
        source["files"][0]["size"] = json!(4_000_000_000_000_000u64);
        source["files"][0]["sha256"] = sha256(b"x").into();
    });
    let line = bench.fail("pull tiny-lora");
    assert!(
        line.contains("tiny-lora: 3725290.3 GiB needed in ") && line.contains(" free"),
        "{line}"
    );
    assert!(bench.hub.behaviour().log.is_empty());
}

#[test]
fn offline_nothing_is_asked_of_the_network_and_everything_else_works() {
    let bench = Bench::new();
    let offline =
        |arguments: &str| bench.command(arguments).env("HF_HUB_OFFLINE", "1").output().unwrap();
    let line = one_line(&offline("pull tiny"), 1);
    assert!(line.contains("HF_HUB_OFFLINE"), "{line}");
    assert!(bench.hub.behaviour().log.is_empty());
    bench.succeed("pull tiny");
    bench.hub.behaviour().log.clear();
    for arguments in ["list", "verify", "pull tiny", "remove tiny"] {
        let output = offline(arguments);
        assert!(output.status.success(), "{arguments}: {}", stderr(&output));
    }
    assert!(bench.hub.behaviour().log.is_empty());
}

#[test]
fn progress_is_json_lines_for_programs() {
    let bench = Bench::new();
    let output = bench.run("pull tiny --progress json");
    let lines: Vec<Value> =
        stderr(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stages =
        lines.iter().filter(|line| line["event"] == "stage" && line["stage"] == "download");
    let files: Vec<_> = stages.map(|line| line["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["model_index.json", "unet/config.json", UNET]);
    let last = lines.iter().rfind(|line| line["event"] == "progress").unwrap();
    assert_eq!((&last["done"], &last["total"]), (&json!(LARGE), &json!(LARGE)));
    assert_eq!(lines.last().unwrap()["event"], "done");
    assert_eq!(stderr(&bench.run("pull tiny --quiet")), "");
}

#[test]
fn no_file_name_of_the_hub_leaves_the_models_folder() {
    let bench = Bench::new();
    for name in ["../../evil.txt", "/evil.txt", "a/../../../evil.txt", "C:\\evil.txt"] {
        bench.hub.behaviour().extra_name = Some(name.to_owned());
        let line = bench.fail("pull tiny");
        assert!(line.contains("cannot be stored under that name"), "{line}");
    }
    bench.hub.behaviour().extra_name = None;
    bench.registry(&|registry| {
        registry["models"][0]["sources"][0]["files"][0]["path"] = "../x".into()
    });
    let line = bench.fail("pull tiny");
    assert!(line.contains("registry.json") && line.contains("`../x`"), "{line}");
}
