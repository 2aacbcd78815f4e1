//! `--captioner llava` as a user runs it, on the small random models of
//! tests/make_fixtures/make_llava_fixtures.py and the tiny diffusion model of make_img2img_fixture.py.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::common::{Shell, copy_folder, fixture, pause, pixart, random_llava, stderr, z_image};

const MODELS: [&str; 4] =
    ["llava15_llama", "llava16_mistral", "llava15_llama_gguf", "llava16_mistral_gguf"];

/// A shell with a picture, `in.png`.
fn shell() -> Shell {
    let shell = Shell::new();
    shell.picture("in.png", 30, 22);
    shell
}

/// The program with these arguments, the tiny diffusion model, and caches and models of its own.
fn command(shell: &Shell, arguments: &str) -> Command {
    let mut command = shell.command(arguments);
    if !arguments.starts_with("models") {
        command.arg("--model").arg(fixture("img2img/model"));
    }
    command
        .env("HOME", shell.path("home"))
        .env("XDG_CACHE_HOME", shell.path("home/cache"))
        .env("CUPSCALE_MODELS", shell.path("home/models"));
    command
}

/// The same with a LLaVA model.
fn llava(shell: &Shell, arguments: &str, model: &Path) -> Command {
    let mut command = command(shell, arguments);
    command.args(["--captioner", "llava", "--caption-model"]).arg(model);
    command
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    output
}

fn fail(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let line = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{line}");
    assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    line
}

fn document(shell: &Shell, arguments: &str, model: &Path) -> Value {
    let output = succeed(&mut llava(shell, &format!("caption in.png {arguments}"), model));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn texts(document: &Value) -> Vec<String> {
    let regions = document["regions"].as_array().unwrap().iter();
    regions.map(|region| region["caption"].as_str().unwrap().to_owned()).collect()
}

fn pixels(shell: &Shell, name: &str) -> Vec<u8> {
    pictures::open(shell.path(name)).to_rgb8().into_raw()
}

fn settings(shell: &Shell, name: &str) -> Value {
    let settings = cupscale::image::read_settings(&shell.path(name)).unwrap().unwrap();
    serde_json::from_str(&settings).unwrap()
}

fn events(output: &Output) -> Vec<Value> {
    stderr(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn cached(shell: &Shell) -> usize {
    fs::read_dir(shell.path("home/cache/cupscale/captions")).map_or(0, Iterator::count)
}

#[test]
fn captions_taken_out_and_given_back_make_the_picture_that_the_captioner_makes() {
    for name in MODELS {
        let shell = shell();
        let model = fixture("llava").join(name);
        let own = "in.png -o own.png --prompt fog --no-caption-cache";
        succeed(&mut llava(&shell, own, &model));
        let output = succeed(&mut llava(&shell, "caption in.png --prompt fog", &model));
        fs::write(shell.path("captions.json"), &output.stdout).unwrap();
        succeed(&mut command(&shell, "in.png -o back.png --captions captions.json"));
        assert!(pixels(&shell, "own.png") == pixels(&shell, "back.png"), "{name}");

        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&document["captioner"], &document["prompt"]), (&"llava".into(), &"fog".into()));
        assert_eq!(document["model"], name);
        assert!(document["instruction"].as_str().unwrap().contains("\"fog\""), "{document}");
        assert_eq!(texts(&document).len(), 12);
        let made = settings(&shell, "own.png");
        assert_eq!((&made["captioner"], &made["caption_model"]), (&"llava".into(), &name.into()));
        // Another captioner makes another picture.
        succeed(&mut command(&shell, "in.png -o none.png --prompt fog --captioner none"));
        assert!(pixels(&shell, "own.png") != pixels(&shell, "none.png"), "{name}");
    }
}

#[test]
fn without_a_prompt_the_captioner_says_what_the_whole_picture_shows() {
    let shell = shell();
    let model = fixture("llava/llava15_llama");
    let output = succeed(&mut llava(&shell, "in.png -o own.png", &model));
    let said = settings(&shell, "own.png")["prompt"].as_str().unwrap().to_owned();
    assert!(!said.is_empty());
    let note = format!("no prompt is given, the captioner's is \"{said}\"");
    assert!(stderr(&output).contains(&note), "{}", stderr(&output));
    let document = document(&shell, "", &model);
    assert_eq!(document["prompt"], said.as_str());
    assert!(document["instruction"].as_str().unwrap().contains(&format!("\"{said}\"")));
    fs::write(shell.path("captions.json"), document.to_string()).unwrap();
    succeed(&mut command(&shell, "in.png -o back.png --captions captions.json"));
    assert!(pixels(&shell, "own.png") == pixels(&shell, "back.png"));
    // It is the global prompt of a job whose regions have no captions of their own, too.
    succeed(&mut llava(&shell, "in.png -o global.png --rsp 0", &model));
    assert_eq!(settings(&shell, "global.png")["prompt"], said.as_str());
    let mut given = command(&shell, "in.png -o given.png --captioner none");
    succeed(given.args(["--prompt", said.as_str()]));
    assert!(pixels(&shell, "global.png") == pixels(&shell, "given.png"));
}

#[test]
fn the_batch_changes_no_caption_and_chance_follows_its_seed() {
    let shell = shell();
    let model = fixture("llava/llava16_mistral");
    let run = |options: &str| {
        texts(&document(&shell, &format!("--prompt fog --no-caption-cache {options}"), &model))
    };
    let plain = run("");
    for batch in [1, 5, 12] {
        assert_eq!(run(&format!("--caption-batch {batch}")), plain, "{batch} at once");
    }
    let chance = run("--caption-temperature 1.5");
    assert_ne!(chance, plain);
    assert_eq!(run("--caption-temperature 1.5 --caption-batch 2"), chance);
    assert_ne!(run("--caption-temperature 1.5 --caption-seed 7"), chance);
    assert_eq!(run("--caption-temperature 1.5 --caption-top-p 0"), plain);
    assert_eq!(run("--caption-temperature 0"), plain);
    assert_eq!(cached(&shell), 0);
}

#[test]
fn another_seed_asks_the_model_nothing_and_another_question_does() {
    let shell = shell();
    let model = shell.path("tiny");
    copy_folder(&fixture("llava/llava15_llama"), &model);
    let first = document(&shell, "", &model);
    assert_eq!(cached(&shell), 13);
    let entries = || {
        let folder = fs::read_dir(shell.path("home/cache/cupscale/captions")).unwrap();
        let mut entries: Vec<_> = folder
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), entry.metadata().unwrap().modified().unwrap()))
            .collect();
        entries.sort();
        entries
    };
    let before = entries();
    assert_eq!(document(&shell, "--seed 4 --strength 0.2 --caption-batch 1", &model), first);
    succeed(&mut llava(&shell, "in.png -o out.png --seed 5", &model));
    assert!(entries() == before, "something was asked again");
    for other in ["--prompt fog", "--caption-quantize q8_0", "--caption-temperature 1", "-s 3"] {
        let known = cached(&shell);
        assert_ne!(texts(&document(&shell, other, &model)), texts(&first), "{other}");
        assert!(cached(&shell) > known, "{other}");
    }
    // Other weights are another model, although their file has the same size and time.
    let file = model.join("model.safetensors");
    let changed = fs::metadata(&file).unwrap().modified().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].fill(0xff);
    fs::write(&file, bytes).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(changed).unwrap();
    let said = llava(&shell, "caption in.png", &model).output().unwrap();
    let said = serde_json::from_slice(&said.stdout).map_or(Vec::new(), |it| texts(&it));
    assert_ne!(said, texts(&first));
    // A cache that is a file is no cache, and no reason to fail.
    let shell = self::shell();
    fs::create_dir_all(shell.path("home")).unwrap();
    fs::write(shell.path("home/cache"), "").unwrap();
    assert_eq!(document(&shell, "", &fixture("llava/llava15_llama"))["regions"], first["regions"]);
}

#[test]
fn a_job_killed_after_its_captions_goes_on_without_the_captioner() {
    let shell = shell();
    let model = fixture("llava/llava15_llama");
    let job = |shell: &Shell| {
        llava(shell, "in.png -o out.png --no-caption-cache --progress json", &model)
    };
    let undisturbed = succeed(&mut job(&shell));
    let asks = |output: &Output| events(output).iter().any(|event| event["stage"] == "caption");
    assert!(asks(&undisturbed));
    let expected = shell.bytes("out.png");
    fs::remove_file(shell.path("out.png")).unwrap();
    let work = shell.path(".out.png.cupscale");
    let mut killed = 0;
    while killed < 3 {
        let mut child = job(&shell).stderr(Stdio::null()).spawn().unwrap();
        while !work.join("captions.json").exists() && child.try_wait().unwrap().is_none() {
            pause();
        }
        let _ = child.kill();
        if child.wait().unwrap().success() {
            continue;
        }
        killed += 1;
        // Other captions would be another job.
        for other in ["--caption-quantize q8_0", "--caption-temperature 1"] {
            let other = format!("in.png -o out.png --no-caption-cache {other}");
            let line = fail(&mut llava(&shell, &other, &model), 2);
            assert!(line.contains("unfinished work of another job"), "{line}");
        }
        let resumed = succeed(&mut job(&shell));
        assert!(!asks(&resumed), "{}", stderr(&resumed));
        assert_eq!(shell.bytes("out.png"), expected);
        fs::remove_file(shell.path("out.png")).unwrap();
    }
}

#[test]
fn a_model_has_a_name_and_the_only_one_needs_none() {
    let shell = shell();
    let expected = document(&shell, "", &fixture("llava/llava15_llama"));
    let by_name = |name: &[&str]| {
        let mut job = command(&shell, "caption in.png --captioner llava");
        let output = succeed(job.args(name));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let none = fail(&mut command(&shell, "in.png --captioner llava"), 2);
    assert!(none.contains("models pull") && none.contains("--caption-model"), "{none}");

    let folder = fixture("llava/llava15_llama");
    let added = succeed(command(&shell, "models add seer").arg(&folder));
    assert!(!stderr(&added).contains("cannot be run"), "{}", stderr(&added));
    assert_eq!(by_name(&[])["model"], "seer");
    assert_eq!(texts(&by_name(&[])), texts(&expected));
    // A pair of files in two places.
    let gguf = fixture("llava/llava15_llama_gguf");
    fs::create_dir(shell.path("apart")).unwrap();
    fs::copy(gguf.join("model-f16.gguf"), shell.path("apart/model.gguf")).unwrap();
    let mmproj = gguf.join("mmproj-model-f16.gguf");
    let line = fail(&mut command(&shell, "models add pair apart/model.gguf"), 1);
    assert!(
        line.contains("0 GGUF files with a vision tower") && line.contains("--mmproj"),
        "{line}"
    );
    succeed(command(&shell, "models add pair apart/model.gguf --mmproj").arg(&mmproj));
    let several = fail(&mut command(&shell, "in.png --captioner llava"), 2);
    assert!(several.contains("choose one of pair, seer"), "{several}");
    assert_eq!(texts(&by_name(&["--caption-model", "pair"])), texts(&expected));
    let mut apart =
        command(&shell, "caption in.png --captioner llava --caption-model apart/model.gguf");
    let output = succeed(apart.arg("--caption-mmproj").arg(&mmproj));
    assert_eq!(texts(&serde_json::from_slice(&output.stdout).unwrap()), texts(&expected));
    // One kind of model never stands in for another.
    let line = fail(
        shell.command("in.png --model seer").env("CUPSCALE_MODELS", shell.path("home/models")),
        2,
    );
    assert!(line.contains("a model of kind captioner, where one of kind diffusion"), "{line}");
    for (options, reason) in [
        ("models add other --steps 4", "no LoRA, UNet, text encoder, VAE, or sampling"),
        ("models add other --mmproj in.png", "goes with a decoder in a .gguf file"),
    ] {
        let line = fail(command(&shell, options).arg(&folder), 1);
        assert!(line.contains(reason), "{line}");
    }
}

#[test]
fn options_of_the_captioner_without_it_are_refused() {
    let shell = shell();
    for option in [
        "--caption-model x",
        "--caption-batch 2",
        "--no-caption-cache",
        "--captioner none --caption-temperature 1",
    ] {
        let line = fail(&mut command(&shell, &format!("in.png {option}")), 2);
        assert!(line.contains("is for --captioner llava"), "{option}: {line}");
    }
    for option in ["--caption-seed 1", "--caption-top-p 0.5", "--caption-mmproj x"] {
        fail(&mut command(&shell, &format!("in.png --captioner llava {option}")), 2);
    }
}

#[test]
fn a_folders_captions_are_made_ahead_where_both_models_do_not_fit_at_once() {
    let shell = Shell::new();
    fs::create_dir(shell.path("shots")).unwrap();
    for name in ["a", "b", "c"] {
        shell.picture(&format!("shots/{name}.png"), 30, 22 + u32::from(name.as_bytes()[0] % 3));
    }
    let model = shell.path("large");
    let decoder = random_llava::Decoder { hidden: 256, inner: 512, layers: 2, vocabulary: 1024 };
    random_llava::write(&model, decoder, candle_core::DType::F32);
    let run = |shell: &Shell, options: &str| {
        let job = format!("-i shots -o out --no-caption-cache --progress json {options}");
        let output = succeed(&mut llava(shell, &job, &model));
        let bytes: Vec<_> =
            ["a", "b", "c"].iter().map(|name| shell.bytes(&format!("out/{name}.png"))).collect();
        fs::remove_dir_all(shell.path("out")).unwrap();
        (events(&output), bytes)
    };
    let (free, expected) = run(&shell, "");
    let states = |events: &[Value]| -> Vec<String> {
        let files = events.iter().filter(|event| event["event"] == "file");
        files.map(|event| event["state"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(states(&free)[..2], ["captions", "begun"]);
    // Just less than both models at once.
    let plan = String::from_utf8(succeed(&mut llava(&shell, "plan shots/a.png", &model)).stdout);
    let plan = plan.unwrap();
    let peak = plan.lines().find_map(|line| line.strip_prefix("memory ")).unwrap();
    let peak: f64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    let budget = format!("--max-memory {}KiB", ((peak - 1.0) * 1024.0) as usize);
    let plan = succeed(&mut llava(&shell, &format!("plan shots/a.png {budget}"), &model));
    let plan = String::from_utf8(plan.stdout).unwrap();
    assert!(plan.contains("freed before the denoiser is loaded"), "{plan}");
    let (bound, same) = run(&shell, &budget);
    assert_eq!(same, expected);
    assert_eq!(states(&bound)[..4], ["captions", "captions", "captions", "begun"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_job_within_a_second_while_its_captions_are_made() {
    let shell = shell();
    let model = shell.path("large");
    let decoder = random_llava::Decoder { hidden: 768, inner: 2048, layers: 6, vocabulary: 8192 };
    random_llava::write(&model, decoder, candle_core::DType::F32);
    let mut job = llava(&shell, "in.png -o out.png --prompt fog --progress json", &model);
    let mut child = job.stderr(Stdio::piped()).spawn().unwrap();
    let work = shell.path(".out.png.cupscale");
    while !work.join("job.json").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the job is over");
        pause();
    }
    std::thread::sleep(Duration::from_millis(700));
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let asked = Instant::now();
    let status = child.wait().unwrap();
    let taken = asked.elapsed();
    let output = child.wait_with_output().unwrap();
    assert_eq!(status.code(), Some(130), "{}", stderr(&output));
    assert!(taken < Duration::from_secs(1), "{taken:?}");
    assert!(!work.join("captions.json").exists(), "the captions were made already");
    let line = stderr(&output).lines().last().unwrap().to_owned();
    assert!(line.contains("interrupted") && line.contains("goes on from here"), "{line}");
}

#[test]
fn captions_are_asked_for_as_long_as_the_model_reads_them_and_each_length_is_cached_by_itself() {
    let shell = shell();
    pixart::write_folder(&shell.path("pixart"));
    z_image::write_folder(&shell.path("z-image"));
    let model = fixture("llava").join(MODELS[0]);
    let tiny = fixture("img2img/model");
    let [pixart, z_image] = ["pixart", "z-image"].map(|name| shell.path(name));
    // CLIP; T5 with the 120 tokens of PixArt-α; Qwen3.
    let mut before = 0;
    for (diffusion, tokens) in [(&tiny, 60), (&pixart, 100), (&z_image, 180)] {
        let mut command = shell.command("caption in.png --prompt fog --captioner llava");
        command.env("XDG_CACHE_HOME", shell.path("home/cache")).arg("--model").arg(diffusion);
        let output = succeed(command.arg("--caption-model").arg(&model));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let question = document["instruction"].as_str().unwrap();
        assert!(question.contains(&format!("of at most {tokens} tokens")), "{question}");
        assert!(cached(&shell) > before, "{tokens}");
        before = cached(&shell);
    }
}
