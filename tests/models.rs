//! `models` as a person meets it: downloads from a hub on the loopback that misbehaves in every way
//! that hubs and networks do, and what lies in the models folder afterwards.

#[path = "common/hub_server.rs"]
mod hub_server;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use cupscale::weights::registry::{Kind, ModelError, Store};
use hub_server::{COMMIT, HubServer, sha256};
use serde_json::{Value, json};
use tempfile::TempDir;

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
/// Large enough for many chunks, small enough for many tests.
const LARGE: usize = 1_500_000;

/// A hub, a models folder of its own, and the program.
struct Bench {
    dir: TempDir,
    hub: HubServer,
}

impl Bench {
    /// The hub has a model of three files, a LoRA and a VAE; the registry pins nothing.
    fn new() -> Self {
        let bench = Self { dir: TempDir::new().unwrap(), hub: HubServer::start() };
        bench.hub.put("tests/tiny/model_index.json", br#"{"_class_name": "X"}"#);
        bench.hub.put("tests/tiny/unet/config.json", b"{}");
        bench.hub.put(&format!("tests/tiny/{UNET}"), &noise(1, LARGE));
        bench.hub.put("tests/lora/fast.safetensors", &noise(2, 200_000));
        bench.hub.put("tests/vae/config.json", b"{\"vae\": 1}");
        bench.hub.put("tests/vae/diffusion_pytorch_model.safetensors", &noise(3, 90_000));
        bench.registry(&|_| {});
        bench
    }

    /// Writes the registry of the models folder, after `change`.
    fn registry(&self, change: &dyn Fn(&mut Value)) {
        let file = |path: &str| json!({ "path": path, "size": null, "sha256": null });
        let licence = json!({ "name": "MIT", "url": "https://licence.example", "commercial": true, "accept": null });
        let mut registry = json!({ "version": 1, "models": [
            { "name": "tiny", "title": "A model", "kind": "diffusion", "licence": licence,
              "sources": [{ "repository": "tests/tiny", "revision": null, "role": "model",
                            "files": [file("model_index.json"), file("unet/*"), {"path": "*.txt", "size": null, "sha256": null, "optional": true}] }],
              "run": { "sampler": "ddim", "steps": 50, "native_size": 64 } },
            { "name": "tiny-lora", "title": "A LoRA", "kind": "lora", "licence": licence,
              "sources": [{ "repository": "tests/lora", "revision": null, "role": "lora",
                            "files": [file("fast.safetensors")] }] },
            { "name": "tiny-vae", "title": "A VAE", "kind": "vae", "licence": licence,
              "sources": [{ "repository": "tests/vae", "revision": null, "role": "vae",
                            "files": [file("config.json"), file("diffusion_pytorch_model.safetensors")] }] },
            { "name": "tiny-fast", "title": "Fewer steps", "kind": "diffusion", "licence": licence,
              "base": "tiny", "sources": [],
              "run": { "sampler": "tcd", "steps": 8, "native_size": 64, "vae": "tiny-vae",
                       "loras": [{ "model": "tiny-lora", "scale": 0.5 }] } },
        ]});
        change(&mut registry);
        fs::create_dir_all(self.models()).unwrap();
        fs::write(self.models().join("registry.json"), registry.to_string()).unwrap();
    }

    fn models(&self) -> PathBuf {
        self.dir.path().join("models")
    }

    /// Where the files of a repository of the hub lie.
    fn stored(&self, repository: &str, path: &str) -> PathBuf {
        self.models().join("files").join(repository.replace('/', "--")).join(COMMIT).join(path)
    }

    fn environment(&self, command: &mut Command) {
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        for name in ["HF_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command
            .env("CUPSCALE_MODELS", self.models())
            .env("HF_ENDPOINT", &self.hub.origin)
            .env("HF_HOME", self.dir.path().join("hf"))
            .env("HOME", self.dir.path());
    }

    /// `cupscale-fast models` with these arguments, split at spaces.
    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cupscale-fast"));
        self.environment(&mut command);
        command.arg("models").args(arguments.split_whitespace());
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn succeed(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Expects exit code 1 and one line, which is returned.
    fn fail(&self, arguments: &str) -> String {
        one_line(&self.run(arguments), 1)
    }

    fn list(&self) -> Value {
        serde_json::from_str(&self.succeed("list --json")).unwrap()
    }

    fn state(&self, name: &str) -> String {
        let list = self.list();
        let mut models = list["models"].as_array().unwrap().iter();
        let model = models.find(|model| model["name"] == name).unwrap();
        model["state"].as_str().unwrap().to_owned()
    }

    fn manifest(&self, name: &str) -> Value {
        let file = self.models().join(name).join("manifest.json");
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }
}

/// Expects this exit code, and one clean last line besides notes; returns the line.
fn one_line(output: &Output, code: i32) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("cupscale-fast: ")).collect();
    assert!(lines.len() == 1 && text.ends_with(&format!("{}\n", lines[0])), "{text}");
    lines[0].to_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Bytes without a pattern, the same ones for the same seed (xorshift).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

fn part(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.part", file.display()))
}

#[test]
fn a_pull_brings_every_file_and_writes_down_what_it_brought() {
    let bench = Bench::new();
    assert_eq!(bench.state("tiny-fast"), "known");
    bench.succeed("pull tiny-fast");
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
    // What is here is not asked for again, not even of a hub that has moved on.
    bench.hub.behaviour().log.clear();
    bench.hub.behaviour().commit = Some("f".repeat(40));
    bench.succeed("pull tiny-fast");
    assert!(bench.hub.behaviour().log.is_empty());
}

#[test]
fn models_share_the_files_of_their_base_and_removing_one_keeps_what_the_other_needs() {
    let bench = Bench::new();
    bench.succeed("pull tiny");
    bench.succeed("pull tiny-fast");
    assert_eq!(bench.hub.requests_for(UNET).len(), 1);
    bench.succeed("remove tiny");
    assert!(bench.stored("tests/tiny", UNET).is_file());
    assert_eq!(
        (bench.state("tiny"), bench.state("tiny-fast")),
        ("known".into(), "installed".into())
    );
    bench.succeed("verify");
    bench.succeed("remove tiny-fast");
    assert!(!bench.models().join("files").exists() && !bench.models().join("tiny-fast").exists());
    let line = bench.fail("remove tiny-fast");
    assert!(line.contains("tiny-fast: not installed"), "{line}");
}

#[test]
fn a_connection_cut_anywhere_is_taken_up_again_without_a_byte_sent_twice() {
    for seed in 1..=3 {
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

#[test]
fn a_connection_that_never_brings_a_byte_is_given_up_and_what_came_before_is_kept() {
    let bench = Bench::new();
    bench.hub.behaviour().cuts = [vec![usize::MAX; 2], vec![300_000], vec![0; 10]].concat().into();
    let line = bench.fail("pull tiny");
    assert!(line.contains("tests/tiny/unet/") && line.contains("what arrived is kept"), "{line}");
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

fn wait_until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain");
        sleep(Duration::from_millis(5));
    }
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

#[test]
fn a_busy_hub_is_asked_again_when_it_says_and_a_dead_one_is_given_up() {
    let bench = Bench::new();
    bench.hub.behaviour().answers = [(503, "0"), (429, "0"), (500, "0")].into();
    bench.succeed("pull tiny");
    bench.hub.behaviour().answers = [(503, "1")].into();
    let started = Instant::now();
    bench.succeed("pull tiny-lora");
    assert!(started.elapsed() >= Duration::from_secs(1));
    bench.hub.behaviour().answers = vec![(503, "0"); 50].into();
    let line = bench.fail("pull tiny-vae");
    assert!(line.contains("tests/vae/config.json") && line.contains("503"), "{line}");
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
        line.contains("tiny-lora: 4000000.0 GB needed in ") && line.contains(" free"),
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
fn verify_finds_a_flipped_bit_and_a_pull_mends_it() {
    let bench = Bench::new();
    bench.succeed("pull tiny-fast");
    let report = bench.succeed("verify");
    assert!(report.contains("tiny-fast: 6 files, 1.8 MB: good"), "{report}");
    let file = bench.stored("tests/tiny", UNET);
    let mut bytes = fs::read(&file).unwrap();
    bytes[777] ^= 4;
    fs::write(&file, &bytes).unwrap();
    // A missing file is another fault, in the same report.
    fs::remove_file(bench.stored("tests/vae", "config.json")).unwrap();
    let output = bench.run("verify tiny-fast");
    let report = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(report.contains("BAD") && report.contains(&sha256(&bytes)), "{report}");
    assert!(report.contains("config.json: missing"), "{report}");
    let line = one_line(&output, 1);
    assert!(
        line.contains("2 files of 1 models bad: cupscale-fast models pull tiny-fast"),
        "{line}"
    );
    bench.succeed("pull tiny-fast");
    bench.succeed("verify");
    assert_eq!(bench.hub.requests_for(UNET).len(), 2);
}

#[test]
fn the_list_is_json_of_a_fixed_form() {
    let bench = Bench::new();
    bench.succeed("pull tiny-fast");
    let list = bench.list();
    assert_eq!(list["folder"], bench.models().to_str().unwrap());
    let models = list["models"].as_array().unwrap();
    for model in models {
        let keys: Vec<_> = model.as_object().unwrap().keys().map(String::as_str).collect();
        let expected =
            ["kind", "licence", "name", "own", "path", "size", "size_is_exact", "state", "title"];
        assert_eq!(keys, expected);
        assert!(["installed", "incomplete", "known"].contains(&model["state"].as_str().unwrap()));
    }
    assert_eq!(models[0]["name"], "tiny-fast");
    assert_eq!(models[0]["size"], 20 + 2 + LARGE + 200_000 + 10 + 90_000);
    assert_eq!(models[0]["licence"]["commercial"], true);
    let known: Vec<_> = models.iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert!(known.contains(&"sdxl-base") && known.contains(&"hyper-sdxl"));
    // The same for people.
    let text = bench.succeed("list");
    assert!(text.lines().nth(1).unwrap().starts_with("tiny-fast "), "{text}");
    fs::remove_file(bench.stored("tests/tiny", UNET)).unwrap();
    assert_eq!(bench.state("tiny-fast"), "incomplete");
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

#[test]
fn ones_own_weights_get_a_name_and_are_never_touched() {
    let bench = Bench::new();
    let own = bench.dir.path().join("own.safetensors");
    let lora = bench.dir.path().join("style:2.safetensors");
    fs::write(&own, noise(7, 5000)).unwrap();
    fs::write(&lora, noise(8, 100)).unwrap();
    bench.succeed("pull tiny-lora");
    bench.succeed("pull tiny-vae");
    bench.succeed(
        "add mine own.safetensors --lora style:2.safetensors:0.7 --lora tiny-lora --vae tiny-vae \
         --sampler lcm --timesteps 800 --guidance 1 --native-size 1024",
    );
    let model = Store::at(bench.models()).resolve("mine".as_ref()).unwrap();
    assert_eq!(model.kind, Some(Kind::Diffusion));
    assert_eq!(model.weights, own);
    let fast = bench.stored("tests/lora", "fast.safetensors");
    assert_eq!(model.loras, [(lora.clone(), 0.7), (fast.clone(), 1.0)]);
    assert_eq!(model.vae, Some(bench.stored("tests/vae", "")));
    assert_eq!(model.run.sampler.as_deref(), Some("lcm"));
    assert_eq!(model.run.timesteps, Some(vec![800]));
    assert_eq!((model.run.native_size, model.run.guidance), (Some(1024), Some(1.0)));
    // What it shares with an installed model stays for as long as it needs it.
    bench.succeed("remove tiny-lora");
    assert!(fast.is_file());
    bench.succeed("verify mine");
    fs::write(&own, noise(9, 5000)).unwrap();
    let output = bench.run("verify mine");
    assert!(one_line(&output, 1).contains("models remove mine, then add mine again"));
    let line = bench.fail("pull mine");
    assert!(line.contains("your own weights"), "{line}");
    bench.succeed("remove mine");
    assert!(own.is_file() && lora.is_file() && !fast.exists());
}

#[test]
fn what_cannot_be_added_is_told_why() {
    let bench = Bench::new();
    fs::write(bench.dir.path().join("a.ckpt"), b"x").unwrap();
    fs::write(bench.dir.path().join("a.safetensors"), b"x").unwrap();
    fs::write(bench.dir.path().join("a.gguf"), b"x").unwrap();
    fs::create_dir(bench.dir.path().join("folder")).unwrap();
    for (arguments, reason) in [
        ("add mine nowhere", "nowhere: no such file or folder"),
        ("add mine a.ckpt", "pickled weights"),
        ("add mine folder", "folder: not a model in diffusers layout (no model_index.json)"),
        ("add mine a.safetensors --vae a.gguf", "not a file of weights"),
        ("add mine a.safetensors --lora folder", "name the file in it"),
        ("add hyper-sdxl a.safetensors", "taken by a known model"),
        ("add a/b a.safetensors", "a model's name has letters"),
        (
            "add mine a.safetensors --lora hyper-sdxl-8step-lora",
            "models pull hyper-sdxl-8step-lora",
        ),
    ] {
        let line = bench.fail(arguments);
        assert!(line.contains(reason), "{arguments}: {line}");
    }
    assert!(!bench.models().join("mine").exists());
    bench.succeed("add mine a.gguf");
    assert!(bench.fail("add mine a.safetensors").contains("remove it first"));
}

#[test]
fn a_folder_of_ones_own_is_measured_and_linked_to() {
    let bench = Bench::new();
    let folder = bench.dir.path().join("sdxl");
    fs::create_dir_all(folder.join("unet/.cache")).unwrap();
    fs::write(folder.join("model_index.json"), b"{}").unwrap();
    fs::write(folder.join("unet/model.safetensors"), noise(1, 1000)).unwrap();
    fs::write(folder.join("unet/notes.md"), b"not part of it").unwrap();
    fs::write(folder.join("unet/.cache/x.json"), b"not part of it").unwrap();
    bench.succeed("add mine sdxl");
    let manifest = bench.manifest("mine");
    let files = manifest["sources"][0]["files"].as_array().unwrap();
    let names: Vec<_> = files.iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["model_index.json", "unet/model.safetensors"]);
    assert_eq!(Store::at(bench.models()).resolve("mine".as_ref()).unwrap().weights, folder);
}

#[test]
fn a_name_resolves_to_what_the_pipeline_loads_or_to_the_command_that_brings_it() {
    let bench = Bench::new();
    let store = Store::at(bench.models());
    let line = store.resolve("tiny-fast".as_ref()).unwrap_err().to_string();
    assert!(line.contains("tiny-fast: not downloaded yet (size unknown, licence MIT): cupscale-fast models pull tiny-fast"), "{line}");
    let line = store.resolve("hyper-sdxl".as_ref()).unwrap_err().to_string();
    assert!(
        line.starts_with("hyper-sdxl: not downloaded yet (8.1 GB, licence CreativeML"),
        "{line}"
    );
    assert!(matches!(store.resolve("tiny-fart".as_ref()), Err(ModelError::Unknown { .. })));
    bench.succeed("pull tiny-fast");
    let model = store.resolve("tiny-fast".as_ref()).unwrap();
    assert_eq!(model.weights, bench.stored("tests/tiny", ""));
    assert_eq!(model.loras, [(bench.stored("tests/lora", "fast.safetensors"), 0.5)]);
    assert_eq!(model.vae, Some(bench.stored("tests/vae", "")));
    assert_eq!((model.unet, model.run.steps), (None, Some(8)));
    fs::remove_file(bench.stored("tests/tiny", UNET)).unwrap();
    let line = store.resolve("tiny-fast".as_ref()).unwrap_err().to_string();
    assert!(line.contains("is missing: cupscale-fast models pull tiny-fast"), "{line}");
    // What exists as a path is that path, whatever models there are.
    let path = bench.models();
    let model = store.resolve(path.as_os_str()).unwrap();
    assert_eq!((model.weights, model.kind), (path, None));
}

#[test]
fn an_unfinished_download_can_be_removed() {
    let bench = Bench::new();
    bench.hub.behaviour().flips_a_bit = true;
    bench.fail("pull tiny");
    assert!(bench.stored("tests/tiny", "model_index.json").exists());
    bench.succeed("remove tiny");
    assert!(!bench.models().join("files").exists());
}

#[test]
fn a_manifest_that_is_none_is_named() {
    let bench = Bench::new();
    fs::create_dir(bench.models().join("broken")).unwrap();
    fs::write(bench.models().join("broken").join("manifest.json"), b"{").unwrap();
    let line = bench.fail("list");
    assert!(
        line.contains("manifest.json: not a manifest") && line.contains("delete its folder"),
        "{line}"
    );
}
