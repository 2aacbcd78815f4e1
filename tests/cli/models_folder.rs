//! The models folder: what is listed, added, checked, removed, and what a name stands for.

use std::fs;

use cupscale::weights::registry::{Kind, ModelError, Store};

use crate::common::{
    hub_server::sha256,
    models_bench::{Bench, LARGE, UNET, noise, one_line},
    stderr,
};

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
fn what_changes_nothing_makes_nothing() {
    let bench = Bench::new();
    fs::remove_dir_all(bench.models()).unwrap();
    fs::write(bench.dir.path().join("a.ckpt"), b"x").unwrap();
    for (arguments, reason) in [
        ("remove NOPE", "NOPE: no such file or folder, and no such model"),
        ("remove hyper-sdxl", "hyper-sdxl: not installed"),
        ("pull NOPE", "NOPE: no such file or folder, and no such model"),
        ("pull hyper-sdxl", "HF_HUB_OFFLINE is set"),
        ("pull hyper-sdxl-8step-lora --revision main", "HF_HUB_OFFLINE is set"),
        ("verify NOPE", "NOPE: no such file or folder, and no such model"),
        ("add mine nowhere", "nowhere: no such file or folder"),
        ("add mine a.ckpt", "pickled weights"),
    ] {
        let mut command = bench.command(arguments);
        let output = command.env("HF_HUB_OFFLINE", "1").output().unwrap();
        let line = one_line(&output, 1);
        assert!(line.contains(reason), "{arguments}: {line}");
        assert!(!bench.models().exists(), "{arguments}");
    }
    assert_eq!(bench.succeed("verify"), "");
    bench.succeed("list");
    assert!(!bench.models().exists());
}

#[test]
fn verify_finds_a_flipped_bit_and_a_pull_mends_it() {
    let bench = Bench::new();
    bench.succeed("pull tiny-fast");
    let report = bench.succeed("verify");
    assert!(report.contains("tiny-fast: 6 files, 1.7 MiB: good"), "{report}");
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
fn ones_own_weights_get_a_name_and_are_never_touched() {
    let bench = Bench::new();
    let own = bench.dir.path().join("own.safetensors");
    let lora = bench.dir.path().join("style:2.safetensors");
    fs::write(&own, noise(7, 5000)).unwrap();
    fs::write(&lora, noise(8, 100)).unwrap();
    let unet = bench.dir.path().join("unet.gguf");
    fs::write(&unet, noise(10, 100)).unwrap();
    // A LoRA's folder stands for the file in it.
    let saved = bench.dir.path().join("saved/pytorch_lora_weights.safetensors");
    fs::create_dir(saved.parent().unwrap()).unwrap();
    fs::write(&saved, noise(11, 100)).unwrap();
    bench.succeed("pull tiny-lora");
    bench.succeed("pull tiny-vae");
    bench.succeed(
        "add mine own.safetensors --lora style:2.safetensors:0.7 --lora tiny-lora --lora saved:0.5 \
         --unet unet.gguf --vae tiny-vae --sampler lcm --timesteps 800 --guidance 1 --native-size 1024",
    );
    let model = Store::at(bench.models()).resolve("mine".as_ref()).unwrap();
    assert_eq!(model.kind, Some(Kind::Diffusion));
    assert_eq!(model.weights, own);
    let fast = bench.stored("tests/lora", "fast.safetensors");
    let expected = [(lora.clone(), 0.7.into()), (fast.clone(), 1.0.into()), (saved, 0.5.into())];
    assert_eq!(model.loras, expected);
    assert_eq!(model.denoiser, Some(unet));
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
    fs::write(bench.dir.path().join("a.xyz"), b"x").unwrap();
    fs::write(bench.dir.path().join("page.safetensors"), b"<!DOCTYPE html><html>").unwrap();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n";
    fs::write(bench.dir.path().join("lfs.safetensors"), pointer).unwrap();
    fs::create_dir(bench.dir.path().join("folder")).unwrap();
    for (arguments, reason) in [
        ("add mine nowhere", "nowhere: no such file or folder"),
        ("add mine a.ckpt", "pickled weights"),
        ("add mine page.safetensors", "page.safetensors: this is an HTML page, not weights"),
        ("add mine lfs.safetensors", "lfs.safetensors: a Git LFS pointer, not weights"),
        ("add registry.json a.safetensors", "a model's name has letters"),
        ("add mine folder", "folder: not a model in diffusers layout (no model_index.json)"),
        ("add mine a.safetensors --vae a.xyz", "not a file of weights (.safetensors, .sft, .gguf)"),
        ("add mine a.safetensors --lora a.gguf", "not a file of weights (.safetensors, .sft)"),
        ("add mine a.safetensors --unet folder", "no config.json"),
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
    // What may be mended later gets its name, and is told of.
    let output = bench.run("add mine a.gguf");
    assert!(output.status.success(), "{}", stderr(&output));
    let note = "mine cannot be run as it is: ";
    assert!(stderr(&output).contains(note) && stderr(&output).contains("a.gguf: not a weights"));
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
    // The library says what is wrong, and the program what to type.
    let said =
        |line: &str| bench.fail("quantize tiny-fast -o x.gguf -q f16").replace(line, "<line>");
    let line = store.resolve("tiny-fast".as_ref()).unwrap_err().to_string();
    assert_eq!(line, "tiny-fast: not downloaded yet (size unknown, licence MIT)");
    assert!(said(&line).contains("<line>: cupscale-fast models pull tiny-fast"));
    let line = store.resolve("hyper-sdxl".as_ref()).unwrap_err().to_string();
    assert!(
        line.starts_with("hyper-sdxl: not downloaded yet (7.5 GiB, licence CreativeML"),
        "{line}"
    );
    assert!(matches!(store.resolve("tiny-fart".as_ref()), Err(ModelError::Unknown { .. })));
    bench.succeed("pull tiny-fast");
    let model = store.resolve("tiny-fast".as_ref()).unwrap();
    assert_eq!(model.weights, bench.stored("tests/tiny", ""));
    assert_eq!(model.loras, [(bench.stored("tests/lora", "fast.safetensors"), 0.5.into())]);
    assert_eq!(model.vae, Some(bench.stored("tests/vae", "")));
    assert_eq!((model.denoiser, model.run.steps), (None, Some(8)));
    fs::remove_file(bench.stored("tests/tiny", UNET)).unwrap();
    let line = store.resolve("tiny-fast".as_ref()).unwrap_err().to_string();
    assert!(line.ends_with("is missing"), "{line}");
    assert!(said(&line).contains("<line>: cupscale-fast models pull tiny-fast"));
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
