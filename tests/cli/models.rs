//! Models by name as a user runs them: a manifest gives the picture that its options would give, LoRAs
//! and VAEs have names, and what is wrong with a model is told with advice that fits.

use std::{collections::HashMap, fs, process::Output};

use candle_core::{Device, Tensor, safetensors};
use serde_json::{Value, json};

use crate::common::{
    self, copy_folder, fixture,
    models_bench::{Bench, one_line},
    stderr, test_picture,
};

const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

fn tiny() -> String {
    common::tiny().display().to_string()
}

/// A LoRA for [`tiny`], as a path.
fn lora() -> String {
    fixture("lora/hyper.safetensors").display().to_string()
}

/// The tensors of the tiny model's VAE after a change of the last layer's weights.
fn changed_vae(change: impl Fn(&Tensor) -> Tensor) -> HashMap<String, Tensor> {
    let mut tensors = safetensors::load(fixture("img2img/model").join(VAE), &Device::Cpu).unwrap();
    let last = (0..).map(|i| format!("decoder.layers.{i}.weight"));
    let last = last.take(40).filter(|name| tensors.contains_key(name)).last().unwrap();
    let changed = change(&tensors[&last]);
    tensors.insert(last, changed);
    tensors
}

/// A bench with a picture, `in.png`.
fn bench() -> Bench {
    let bench = Bench::new();
    pictures::save(test_picture(24, 20).into(), &bench.dir.path().join("in.png"));
    bench
}

/// `cupscale-fast` with these arguments, split at spaces.
fn run(bench: &Bench, arguments: &str) -> Output {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("cupscale-fast"));
    bench.environment(&mut command);
    command.args(arguments.split_whitespace()).output().unwrap()
}

/// Enlarges `in.png`; the pixels, and the settings in the file.
fn picture(bench: &Bench, options: &str) -> (Vec<u8>, Value) {
    let output = run(bench, &format!("in.png -o out.png -s 2 --seed 3 {options}"));
    assert!(output.status.success(), "{options}: {}", stderr(&output));
    let file = bench.dir.path().join("out.png");
    let settings = cupscale::image::read_settings(&file).unwrap().unwrap();
    let pixels = pictures::open(file).to_rgb8().into_raw();
    (pixels, serde_json::from_str(&settings).unwrap())
}

fn plan(bench: &Bench, options: &str) -> String {
    let output = run(bench, &format!("plan in.png -s 4 --max-memory 4GiB {options}"));
    assert!(output.status.success(), "{options}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_name_runs_what_its_manifest_says_and_options_go_before_it() {
    let bench = bench();
    let (model, lora) = (tiny(), lora());
    let run_as = "--sampler tcd --eta 0.2 --steps 4 --first-share 0.6 --sharpen 0.4 --grain 3 --fidelity 0.5 --coherence 0.75 --texture 0.25 --denoise-steps 3 --guidance 2";
    bench.succeed(&format!("add mine {model} --lora {lora}:0.7 {run_as}"));
    let explicit = format!("--model {model} --lora {lora}:0.7 {run_as}");
    let (by_name, mut recorded) = picture(&bench, "--model mine");
    let (by_options, mut expected) = picture(&bench, &explicit);
    assert!(by_name == by_options);
    for (key, value) in [
        ("sampler", json!("tcd")),
        ("eta", json!(0.2)),
        ("steps", json!(4)),
        ("denoise_steps", json!(3)),
        ("guidance", json!(2.0)),
        ("sharpen", json!(0.4)),
        ("grain", json!(3.0)),
        ("fidelity", json!(0.5)),
        ("coherence", json!(0.75)),
        ("texture", json!(0.25)),
        ("loras", json!([["hyper.safetensors", 0.7]])),
    ] {
        assert_eq!(recorded[key], value, "{key} in {recorded}");
    }
    // Only the name tells them apart.
    assert_eq!(recorded["model"].take(), "mine");
    assert_eq!(expected["model"].take(), "model");
    assert_eq!(recorded, expected);

    // An option takes the place of what the manifest says of the same thing, and of that alone.
    let (other, recorded) = picture(&bench, "--model mine --denoise-steps 1 --guidance 1");
    assert_eq!((&recorded["denoise_steps"], &recorded["steps"]), (&json!(1), &json!(4)));
    assert_eq!(recorded["sampler"], "tcd");
    let options = explicit.replace("--denoise-steps 3 --guidance 2", "--denoise-steps 1");
    assert!(other == picture(&bench, &options).0 && other != by_name);
    // The manifest's own LoRA stays below the user's.
    let (twice, recorded) = picture(&bench, &format!("--model mine --lora {lora}:0.1"));
    assert_eq!(recorded["loras"], json!([["hyper.safetensors", 0.7], ["hyper.safetensors", 0.1]]));
    assert!(twice != by_name);
}

#[test]
fn a_manifests_native_size_is_the_side_of_the_regions() {
    let bench = bench();
    let model = tiny();
    bench.succeed(&format!("add plain {model}"));
    bench.succeed(&format!("add wide {model} --native-size 128"));
    let output = bench.run(&format!("add odd {model} --native-size 129"));
    let told = stderr(&output);
    assert!(output.status.success() && told.contains("odd cannot be run as it is: "), "{told}");
    assert!(told.contains("a native size of 129 pixels is no multiple of"), "{told}");
    let own = plan(&bench, &format!("--model {model}"));
    assert_eq!(plan(&bench, "--model plain"), own);
    let wide = plan(&bench, "--model wide");
    assert!(wide.contains(" of 128 px, overlap 64 px") && !own.contains(" of 128 px"), "{wide}");
    let line = one_line(&run(&bench, "plan in.png --model odd"), 1);
    assert!(line.contains("odd: a native size of 129 pixels is no multiple of"), "{line}");
}

#[test]
fn a_model_installed_under_the_embedded_ones_name_is_that_model_when_settings_are_reused() {
    let bench = bench();
    let (embedded, recorded) = picture(&bench, "--denoise-steps 1");
    assert_eq!(recorded["model"], "mini");
    bench.succeed(&format!("add mini {}", tiny()));
    let (installed, recorded) = picture(&bench, "--denoise-steps 1 --model mini");
    assert_eq!(recorded["model"], "mini");
    assert!(installed != embedded);
    fs::rename(bench.dir.path().join("out.png"), bench.dir.path().join("first.png")).unwrap();
    assert_eq!(picture(&bench, "--reuse first.png").0, installed);
}

#[test]
fn a_manifests_profile_is_the_row_of_its_jobs_unless_another_is_named() {
    let bench = bench();
    bench.succeed(&format!("add quick {} --profile fast", tiny()));
    assert!(plan(&bench, "--model quick").contains("profile       fast: 3 of 8 steps"));
    assert!(plan(&bench, "--model quick --profile faithful").contains("profile       faithful: "));
    let balanced = plan(&bench, "--model quick --profile balanced");
    assert!(
        balanced.contains("balanced: sets nothing") && balanced.contains("4 of 8"),
        "{balanced}"
    );
}

#[test]
fn loras_and_vaes_have_names_and_one_kind_never_stands_in_for_another() {
    let bench = bench();
    let model = tiny();
    let vae = bench.dir.path().join("other_vae");
    fs::create_dir(&vae).unwrap();
    fs::copy(fixture("img2img/model/vae/config.json"), vae.join("config.json")).unwrap();
    let weights = vae.join("diffusion_pytorch_model.safetensors");
    safetensors::save(&changed_vae(|weight| (weight * 1.5).unwrap()), &weights).unwrap();
    bench.hub.put("tests/vae/config.json", &fs::read(vae.join("config.json")).unwrap());
    let on_hub = "tests/vae/diffusion_pytorch_model.safetensors";
    bench.hub.put(on_hub, &fs::read(&weights).unwrap());
    bench.hub.put("tests/lora/fast.safetensors", &fs::read(lora()).unwrap());
    bench.succeed("pull tiny-lora");
    bench.succeed("pull tiny-vae");
    bench.succeed(&format!("add mine {model}"));

    let plain = picture(&bench, "--model mine").0;
    let (named, recorded) = picture(&bench, "--model mine --lora tiny-lora:0.5 --vae tiny-vae");
    let paths = format!("--model {model} --lora {}:0.5 --vae {}", lora(), vae.display());
    assert!(named == picture(&bench, &paths).0);
    assert_eq!(recorded["loras"], json!([["fast.safetensors", 0.5]]));
    let with_lora = picture(&bench, "--model mine --lora tiny-lora:0.5").0;
    let with_vae = picture(&bench, "--model mine --vae tiny-vae").0;
    let all = [&plain, &named, &with_lora, &with_vae];
    assert!((0..4).all(|a| (0..a).all(|b| all[a] != all[b])), "each changes the picture");

    for (options, is, wanted) in [
        ("--model tiny-lora", "lora", "diffusion"),
        ("--model tiny-vae", "vae", "diffusion"),
        ("--lora tiny-vae", "vae", "lora"),
        ("--lora mine:0.5", "diffusion", "lora"),
        ("--vae mine", "diffusion", "vae"),
        ("--vae tiny-lora", "lora", "vae"),
    ] {
        let line = one_line(&run(&bench, &format!("in.png -o no.png {options}")), 2);
        let expected = format!("a model of kind {is}, where one of kind {wanted} is wanted");
        assert!(line.contains(&expected), "{options}: {line}");
    }
    let line = one_line(&run(&bench, "in.png -o no.png --model tiny"), 1);
    assert!(line.contains("models pull tiny"), "{line}");
    assert!(!bench.dir.path().join("no.png").exists());
}

#[test]
fn a_model_is_quantized_by_name_with_the_loras_of_its_manifest() {
    let bench = bench();
    let (model, lora) = (tiny(), lora());
    bench.succeed(&format!("add mine {model} --lora {lora}:0.7"));
    let printed = bench.succeed("quantize mine -o mine.gguf --type q8_0");
    assert!(printed.starts_with("mine.gguf: ") && printed.contains("q8_0"), "{printed}");
    bench.succeed(&format!("quantize {model} --lora {lora}:0.7 -o path.gguf --type q8_0"));
    bench.succeed(&format!("quantize {model} -o plain.gguf --type q8_0"));
    let pixels = |options: &str| picture(&bench, options).0;
    let by_name = pixels("--model mine.gguf");
    assert!(by_name == pixels("--model path.gguf"));
    assert!(by_name == pixels("--model mine --quantize q8_0"));
    assert!(by_name != pixels("--model plain.gguf"));
    let line = bench.fail("quantize tiny -o tiny.gguf --type q8_0");
    assert!(line.contains("models pull tiny"), "{line}");
    bench.succeed("pull tiny-lora");
    let line = one_line(&bench.run("quantize tiny-lora -o tiny.gguf --type q8_0"), 2);
    assert!(line.contains("a model of kind lora, where one of kind diffusion"), "{line}");
    assert!(!bench.dir.path().join("tiny.gguf").exists());
}

#[test]
fn what_makes_a_model_compute_no_numbers_is_named() {
    let bench = bench();
    let broken = bench.dir.path().join("broken");
    copy_folder(&fixture("img2img/model"), &broken);
    let nan = changed_vae(|weight| (weight * f64::NAN).unwrap());
    safetensors::save(&nan, broken.join(VAE)).unwrap();
    let line = one_line(&run(&bench, "in.png -o no.png --model broken --device cpu"), 1);
    assert!(line.contains("decoding: the model produced values that are not numbers"), "{line}");
    assert!(line.contains("broken/vae/diffusion_pytorch_model.safetensors: tensor `"), "{line}");
    assert!(line.ends_with("` has such values"), "{line}");
    assert!(!bench.dir.path().join("no.png").exists());
    let mut tensors = safetensors::load(lora(), &Device::Cpu).unwrap();
    for (_, weight) in tensors.iter_mut().filter(|(name, _)| name.ends_with("lora_up.weight")) {
        *weight = (&*weight * f64::INFINITY).unwrap();
    }
    safetensors::save(&tensors, bench.dir.path().join("infinite.safetensors")).unwrap();
    let _ = fs::remove_dir_all(bench.dir.path().join(".no.png.cupscale"));
    let options = format!("in.png -o no.png --model {} --device cpu", tiny());
    let line = one_line(&run(&bench, &format!("{options} --lora infinite.safetensors")), 1);
    assert!(line.contains("repainting: ") && line.contains("infinite.safetensors: "), "{line}");
    // Where the weights are numbers the advice is not to go to the device that this is.
    let line = one_line(&run(&bench, &format!("{options} --fresh --lora {}:1e38", lora())), 1);
    assert!(line.contains("models verify") && !line.contains("--device cpu"), "{line}");
}

#[test]
fn what_a_prompt_has_beyond_the_encoders_length_is_noted_once() {
    let bench = bench();
    let model = tiny();
    let text = |words: &str, end: &str| format!("{}{end}", words.repeat(100));
    let notes = |options: &[&str]| {
        let mut command =
            std::process::Command::new(assert_cmd::cargo::cargo_bin!("cupscale-fast"));
        bench.environment(&mut command);
        command.args(["in.png", "-o", "out.png", "-s", "4", "--denoise-steps", "1"]);
        let output = command.args(["--model", &model]).args(options).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let text = stderr(&output);
        text.lines().filter(|line| line.contains("takes")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(notes(&["--prompt", "an old harbour at dusk", "--captioner", "none"]), [""; 0]);
    let long = text("a ", "harbour");
    let own = notes(&["--prompt", &long, "--captioner", "none"]);
    assert_eq!(own.len(), 1, "{own:?}");
    assert!(own[0].starts_with("the prompt has 10"), "{own:?}");
    let expected = "tokens and the model takes 75: cut before \"a a a a a";
    assert!(own[0].contains(expected) && own[0].ends_with("…\""), "{own:?}");
    // Without guidance nobody reads the negative prompt.
    assert_eq!(notes(&["--negative-prompt", &long, "--captioner", "none"]), [""; 0]);
    let negative = notes(&["--negative-prompt", &long, "--guidance", "2", "--captioner", "none"]);
    assert_eq!(negative.len(), 1, "{negative:?}");
    assert!(negative[0].starts_with("the negative prompt has 10"), "{negative:?}");

    // Captions of regions are counted.
    let options = format!("caption in.png -s 4 --model {model}");
    let mut document: Value = serde_json::from_slice(&run(&bench, &options).stdout).unwrap();
    let regions = document["regions"].as_array_mut().unwrap();
    assert!(regions.len() > 3);
    for (index, region) in regions.iter_mut().enumerate() {
        region["caption"] = if index < 3 { long.as_str() } else { "a wall" }.into();
    }
    let file = bench.dir.path().join("captions.json");
    fs::write(&file, document.to_string()).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(
        notes(&["--captions", file]),
        ["3 captions are cut to the 75 tokens that the model takes"]
    );
    assert_eq!(notes(&["--captions", file, "--rsp", "0"]), [""; 0]);
}
