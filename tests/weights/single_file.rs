//! Models in a single file, and parts in files of their own, against diffusers and transformers
//! (fixtures by tests/make_fixtures/make_single_file_fixtures.py, whose layout diffusers' own conversion
//! reads), and what is said of files that are something else or damaged.

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Device};
use cupscale::pipeline::Engine;
use cupscale::weights::{Part, QuantType, WeightsError};
use safetensors::Dtype;

use crate::common::single_file::{Place, Stored, assert_unet, assert_vae, eps, expected, json};
use crate::common::{
    Shell,
    models::open,
    size, stderr,
    tensors::{bits, largest_error},
};

const FAMILIES: [&str; 3] = ["sdxl", "sd15", "sd2"];
const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";

#[test]
fn every_part_of_a_single_file_computes_what_diffusers_does() {
    let place = Place::new();
    let prompts: Vec<String> =
        serde_json::from_value(json("tokens.json")["prompts"].clone()).unwrap();
    for family in FAMILIES {
        // Neither the file's name nor its place says what it is.
        let files = open(&place.save("a.safetensors", &Stored::family(family))).unwrap();
        files.check_parts().unwrap();
        assert!(files.notes().iter().all(|note| family == "sd2" && note.contains("SD 2")));
        let expected = expected(family);
        assert_unet(&files, &expected);
        assert_vae(&files, &expected);
        let text = files.text(&Device::Cpu, DType::F32).unwrap().encode(&prompts).unwrap();
        assert!(largest_error(&text.context, &expected["text"]) <= 1e-4, "{family}");
        match &text.pooled {
            Some(pooled) => assert!(largest_error(pooled, &expected["text_pooled"]) <= 1e-4),
            None => assert_ne!(family, "sdxl"),
        }
        let scheduler = files.scheduler().unwrap();
        assert_eq!(scheduler["beta_end"], 0.012);
        let euler = scheduler["_class_name"] == "EulerDiscreteScheduler";
        assert_eq!(euler, family == "sdxl");
        assert_eq!(scheduler["prediction_type"], "epsilon");
        let side =
            files.component(Part::Denoiser, &Device::Cpu, DType::F32).unwrap().config["sample_size"]
                .clone();
        assert_eq!(side, if family == "sdxl" { 128 } else { 64 });
    }
}

#[test]
fn f32_and_bf16_files_compute_the_same_as_f16_ones() {
    let place = Place::new();
    let expected = expected("sd15");
    let eps = |stored: &Stored| -> Vec<u32> {
        let files = open(&place.save("a.safetensors", stored)).unwrap();
        bits(&eps(&files, &expected))
    };
    let f16 = eps(&Stored::family("sd15"));
    for dtype in [Dtype::BF16, Dtype::F32] {
        assert_eq!(eps(&Stored::family("sd15").converted(dtype)), f16, "{dtype:?}");
    }
}

#[test]
fn text_encoders_without_the_prefix_of_transformers_are_the_same() {
    let place = Place::new();
    let prompts: Vec<String> =
        serde_json::from_value(json("tokens.json")["prompts"].clone()).unwrap();
    for family in ["sdxl", "sd15"] {
        let mut stored = Stored::family(family);
        let short = |name: String| name.replace(".transformer.text_model.", ".transformer.");
        stored.tensors = stored.tensors.into_iter().map(|(n, tensor)| (short(n), tensor)).collect();
        assert!(!stored.tensors.keys().any(|name| name.contains("text_model")));
        let files = open(&place.save("a.safetensors", &stored)).unwrap();
        assert_eq!(files.notes(), Vec::<String>::new());
        let text = files.text(&Device::Cpu, DType::F32).unwrap().encode(&prompts).unwrap();
        assert!(largest_error(&text.context, &expected(family)["text"]) <= 1e-4, "{family}");
    }
}

#[test]
fn a_file_is_told_by_its_contents_whatever_it_is_called() {
    let place = Place::new();
    let path = place.save("a.safetensors", &Stored::family("sd15"));
    let bytes = fs::read(&path).unwrap();
    // Many files on the web have the name of a pickle and are none.
    for name in ["A.SAFETENSORS", "blob", "model.ckpt", "model.bin"] {
        fs::write(place.0.path().join(name), &bytes).unwrap();
        assert_unet(&open(&place.0.path().join(name)).unwrap(), &expected("sd15"));
    }
    let vae = open(&path).unwrap().with_vae(&place.0.path().join("model.ckpt")).unwrap();
    assert_vae(&vae, &expected("sd15"));
    // PyTorch's archive, and what it wrote before.
    for pickle in [&b"PK\x03\x04 and more"[..], b"\x80\x02}q\x00(X\x00\x00\x00 a", b"\x80\x04\x95"]
    {
        for name in ["renamed.safetensors", "renamed", "renamed.gguf", "MODEL.CKPT"] {
            fs::write(place.0.path().join(name), pickle).unwrap();
            let error = open(&place.0.path().join(name)).unwrap_err();
            assert!(matches!(error, WeightsError::Pickled { .. }), "{error}");
            assert!(line(&error).starts_with(name), "{error}");
        }
    }
}

#[test]
fn what_stands_in_the_place_of_weights_is_named() {
    let place = Place::new();
    let base = place.save("base.safetensors", &Stored::family("sd15"));
    for (contents, reason) in [
        ("<!DOCTYPE html>\n<html lang=\"en\">", "this is an HTML page, not weights"),
        ("\n<html><head><title>Log in</title>", "this is an HTML page, not weights"),
        ("<?xml version=\"1.0\"?><Error>", "a server's answer in XML, not weights"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 6938078334\n",
            "a Git LFS pointer, not weights: run git lfs pull",
        ),
        ("\u{1f}gz", "not a weights file that is known"),
    ] {
        for name in ["a.safetensors", "a.ckpt", "a.gguf", "a"] {
            let path = place.0.path().join(name);
            fs::write(&path, contents).unwrap();
            let known = !contents.starts_with('\u{1f}');
            let files = || open(&base).unwrap();
            if known || matches!(name, "a" | "a.gguf") {
                for error in [
                    open(&path).unwrap_err(),
                    files().with_vae(&path).unwrap_err(),
                    files().with_denoiser(&path).unwrap_err(),
                ] {
                    let error = line(&error);
                    assert!(error.starts_with(&format!("{name}: ")), "{error}");
                    assert!(error.contains(reason), "{error} / {reason}");
                }
            }
            if known {
                let error = line(&files().with_lora(&path, 1.0).unwrap_err());
                assert!(error.contains(reason), "{error}");
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_waited_for() {
    let place = Place::new();
    let base = place.save("base.safetensors", &Stored::family("sd15"));
    let pipe = place.0.path().join("pipe.safetensors");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let files = open(&base).unwrap();
    for error in [
        open(&pipe).unwrap_err(),
        files.clone().with_vae(&pipe).unwrap_err(),
        files.clone().with_denoiser(&pipe).unwrap_err(),
        files.with_lora(&pipe, 1.0).unwrap_err(),
    ] {
        assert_eq!(line(&error), "pipe.safetensors: neither a file nor a folder");
    }
}

#[test]
fn a_single_file_written_as_gguf_is_the_same_model() {
    let place = Place::new();
    let prompts: Vec<String> =
        serde_json::from_value(json("tokens.json")["prompts"].clone()).unwrap();
    let path = place.0.path().join("model.gguf");
    let file = open(&place.save("a.safetensors", &Stored::family("sdxl"))).unwrap();
    file.quantize(QuantType::F16, &path, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let (files, expected) = (open(&path).unwrap(), expected("sdxl"));
    assert_unet(&files, &expected);
    assert_vae(&files, &expected);
    let text = files.text(&Device::Cpu, DType::F32).unwrap().encode(&prompts).unwrap();
    assert!(largest_error(&text.context, &expected["text"]) <= 1e-4);
    assert!(largest_error(&text.pooled.unwrap(), &expected["text_pooled"]) <= 1e-4);
    assert_eq!(files.scheduler().unwrap(), file.scheduler().unwrap());
}

#[test]
fn the_program_runs_sdxl_and_sd15_from_one_file() {
    let shell = Shell::new();
    shell.picture("in.png", 40, 24);
    for family in ["sdxl", "sd15"] {
        Stored::family(family).save(&shell.path("model.safetensors"));
        shell.succeed(&format!(
            "in.png -o {family}.png --model model.safetensors --steps 4 --denoise-steps 2 --rap 0 -s 2 -p sky"
        ));
        assert_eq!(size(&shell.path(&format!("{family}.png"))), (80, 48));
    }
    assert_ne!(shell.bytes("sdxl.png"), shell.bytes("sd15.png"));
    // A note about what is odd is shown, and does not stop the work.
    Stored::family("sd15").with("extra.weight", &[2]).save(&shell.path("model.safetensors"));
    let run = shell.run("plan in.png --model model.safetensors");
    assert!(run.status.success());
    assert!(stderr(&run).contains("tensor `extra.weight` is not used"));
}

#[test]
fn a_whole_model_whose_vae_has_names_of_two_conventions_is_the_same_model() {
    let place = Place::new();
    let decoded = |stored: &Stored| {
        let vae = open(&place.save("a.safetensors", stored)).unwrap();
        let vae = vae.vae(&Device::Cpu, DType::F32).unwrap();
        bits(&vae.decode(&(&expected("sd15")["latent"]).into()).unwrap())
    };
    let known = Stored::family("sd15");
    let renamed = |other: [&str; 4]| {
        known.part("", |name| {
            let modules = ["q", "k", "v", "proj_out"].iter().zip(other);
            modules.fold(name.to_owned(), |name, (known, other)| {
                name.replace(&format!("mid.attn_1.{known}."), &format!("mid.attn_1.{other}."))
            })
        })
    };
    let expected = decoded(&known);
    for other in [["to_q", "to_k", "to_v", "to_out.0"], ["query", "key", "value", "proj_attn"]] {
        let stored = renamed(other);
        assert!(stored.tensors.contains_key(&format!("{VAE}encoder.mid.attn_1.{}.bias", other[0])));
        assert_eq!(decoded(&stored), expected);
    }
}

/// diffusers' names of the tensors of SD 1.5's UNet or VAE, by ldm's.
fn diffusers_names(part: &str) -> HashMap<String, String> {
    let names: HashMap<String, String> =
        serde_json::from_value(json("names.json")[part].clone()).unwrap();
    names.into_iter().map(|(ours, theirs)| (theirs, ours)).collect()
}

/// SD 1.5 with every tensor of a part zero.
fn emptied(prefix: &str) -> Stored {
    let mut stored = Stored::family("sd15");
    for (_, (_, _, data)) in stored.tensors.iter_mut().filter(|(name, _)| name.starts_with(prefix))
    {
        data.fill(0);
    }
    stored
}

#[test]
fn another_vae_in_any_naming_takes_the_place_of_the_models_own() {
    let place = Place::new();
    let expected = expected("sd15");
    let whole = Stored::family("sd15");
    let names = diffusers_names("vae");
    let to_diffusers = |name: &str| names[name].clone();
    let old = |name: &str| {
        to_diffusers(name)
            .replace("to_q", "query")
            .replace("to_k", "key")
            .replace("to_v", "value")
            .replace("to_out.0", "proj_attn")
    };
    let left_by_converters = |others: [&'static str; 5]| {
        move |name: &str| {
            let known =
                ["norm", "q", "k", "v", "proj_out"].map(|module| format!("attn_1.{module}."));
            let mut renamed = name.to_owned();
            for (known, other) in known.iter().zip(others) {
                renamed = renamed.replace(known, &format!("attn_1.{other}."));
            }
            renamed
        }
    };
    let [to_q, query] = [
        left_by_converters(["norm", "to_q", "to_k", "to_v", "to_out.0"]),
        left_by_converters(["group_norm", "query", "key", "value", "proj_attn"]),
    ];
    assert_eq!(to_q("decoder.mid.attn_1.q.bias"), "decoder.mid.attn_1.to_q.bias");
    for (case, file) in [
        ("ldm", whole.part(VAE, str::to_owned)),
        ("ldm with prefix", whole.part(VAE, |name| format!("{VAE}{name}"))),
        ("ldm with diffusers' attention", whole.part(VAE, to_q)),
        ("ldm with old diffusers' attention", whole.part(VAE, query)),
        ("diffusers", whole.part(VAE, to_diffusers)),
        ("diffusers with prefix", whole.part(VAE, |name| format!("vae.{}", to_diffusers(name)))),
        ("diffusers before 0.12", whole.part(VAE, old)),
        ("a whole model", whole.clone()),
    ] {
        let path = place.save("vae.safetensors", &file);
        // In place of another one, and where there was none.
        for base in [emptied(VAE), whole.clone().without(VAE)] {
            let base = open(&place.save("base.safetensors", &base)).unwrap();
            let files = base.with_vae(&path).unwrap();
            files.check_parts().unwrap();
            assert_eq!(files.notes(), Vec::<String>::new(), "{case}");
            assert_vae(&files, &expected);
        }
    }
}

#[test]
fn another_vae_may_be_a_folder_with_its_config_or_a_whole_models() {
    let place = Place::new();
    let whole = Stored::family("sd15");
    let names = diffusers_names("vae");
    let base = place.save("base.safetensors", &whole.clone().without(VAE));
    let folder = place.0.path().join("vae");
    fs::create_dir(&folder).unwrap();
    let error = open(&base).unwrap().with_vae(&folder).unwrap_err().to_string();
    assert!(error.ends_with("the VAE is missing (config.json)"), "{error}");
    let config = r#"{"_class_name": "AutoencoderKL", "block_out_channels": [32, 32], "layers_per_block": 1,
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"], "scaling_factor": 0.18215}"#;
    fs::write(folder.join("config.json"), config).unwrap();
    let file = whole.part(VAE, |name| names[name].clone()).with("odd", &[1]);
    file.save(&folder.join("diffusion_pytorch_model.safetensors"));
    let files = open(&base).unwrap().with_vae(&folder).unwrap();
    assert_vae(&files, &expected("sd15"));
    assert!(files.notes()[0].ends_with("tensor `odd` is not used"), "{:?}", files.notes());

    fs::write(place.0.path().join("model_index.json"), "{}").unwrap();
    assert_vae(&open(&base).unwrap().with_vae(place.0.path()).unwrap(), &expected("sd15"));
}

#[test]
fn another_unet_in_any_naming_takes_the_place_of_the_models_own() {
    let place = Place::new();
    let expected = expected("sd15");
    let whole = Stored::family("sd15");
    let names = diffusers_names("unet");
    for (case, file) in [
        ("ldm", whole.part(UNET, str::to_owned)),
        ("ldm with prefix", whole.part(UNET, |name| format!("{UNET}{name}"))),
        ("diffusers", whole.part(UNET, |name| names[name].clone())),
        ("diffusers with prefix", whole.part(UNET, |name| format!("unet.{}", names[name]))),
    ] {
        let base = open(&place.save("base.safetensors", &emptied(UNET))).unwrap();
        let files = base.with_denoiser(&place.save("unet.safetensors", &file)).unwrap();
        files.check_parts().unwrap();
        assert_eq!(files.notes(), Vec::<String>::new(), "{case}");
        assert_unet(&files, &expected);
    }
    // An SDXL UNet needs to know how wide the pooled embedding is: its model's encoder says it.
    let whole = Stored::family("sdxl");
    let base = open(&place.save("base.safetensors", &whole)).unwrap();
    let path = place.save("unet.safetensors", &whole.part(UNET, str::to_owned));
    assert_unet(&base.with_denoiser(&path).unwrap(), &self::expected("sdxl"));
}

#[test]
fn markers_of_v_prediction_decide_the_schedule() {
    let place = Place::new();
    let scheduler =
        |stored: &Stored| open(&place.save("a.safetensors", stored)).unwrap().scheduler().unwrap();
    let plain = scheduler(&Stored::family("sdxl"));
    assert_eq!(plain["prediction_type"], "epsilon");
    assert!(plain.get("rescale_betas_zero_snr").is_none());

    let marked = scheduler(&Stored::family("sdxl").with("v_pred", &[0]));
    assert_eq!(marked["prediction_type"], "v_prediction");
    assert_eq!(marked["timestep_spacing"], "leading");

    let both = Stored::family("sdxl").with("v_pred", &[0]).with("ztsnr", &[0]);
    let zero = scheduler(&both);
    assert_eq!(zero["rescale_betas_zero_snr"], true);
    assert_eq!(zero["timestep_spacing"], "trailing");

    let mut described = Stored::family("sdxl");
    described.metadata =
        Some(HashMap::from([("modelspec.prediction_type".to_owned(), "v".to_owned())]));
    assert_eq!(scheduler(&described)["prediction_type"], "v_prediction");

    // SD 2 has no mark, but a model that predicts v has larger biases in one place.
    let bias = "model.diffusion_model.output_blocks.3.1.transformer_blocks.0.norm1.bias";
    let mut sd2 = Stored::family("sd2");
    let (_, _, data) = sd2.tensors.get_mut(bias).unwrap();
    *data = [0.1f32, -0.1]
        .repeat(16)
        .into_iter()
        .flat_map(|x| half::f16::from_f32(x).to_le_bytes())
        .collect();
    let files = open(&place.save("a.safetensors", &sd2)).unwrap();
    assert_eq!(files.scheduler().unwrap()["prediction_type"], "v_prediction");
    let unet = files.component(Part::Denoiser, &Device::Cpu, DType::F32).unwrap();
    assert_eq!(unet.config["sample_size"], 96);
    assert!(files.notes()[0].ends_with("from its weights, v"), "{:?}", files.notes());

    // A UNet brings its marks along.
    let base = open(&place.save("base.safetensors", &Stored::family("sdxl"))).unwrap();
    let path = place.save("unet.safetensors", &both.without("conditioner."));
    let files = base.with_denoiser(&path).unwrap();
    assert_eq!(files.scheduler().unwrap(), zero);
}

/// The one line of an error, without the place of the file.
fn line(error: &WeightsError) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text.rsplit_once(std::path::MAIN_SEPARATOR).map_or(text.clone(), |(_, end)| end.to_owned())
}

#[test]
fn a_file_that_is_no_whole_model_is_named_for_what_it_is() {
    let place = Place::new();
    let sd15 = Stored::family("sd15");
    let sdxl = Stored::family("sdxl");
    let refiner = Stored {
        metadata: None,
        tensors: sdxl
            .tensors
            .iter()
            .map(|(name, tensor)| (name.replace("embedders.1", "embedders.0"), tensor.clone()))
            .filter(|(name, _)| !name.contains("embedders.0.transformer"))
            .collect(),
    };
    let empty = Stored::default;
    for (file, what) in [
        (empty().with("lora_unet_x.lora_down.weight", &[1]), "a LoRA"),
        (empty().with("unet.x.lora.up.weight", &[1]), "a LoRA"),
        (empty().with("control_model.time_embed.0.weight", &[1]), "a ControlNet"),
        (empty().with("model.diffusion_model.double_blocks.0.x", &[1]), "a diffusion transformer"),
        (
            empty().with("encoder.layers.0.weight", &[1]).with("decoder.layers.0.weight", &[1]),
            "an AutoencoderTiny alone",
        ),
        (empty().with("text_model.x", &[1]), "a text encoder alone"),
        (empty().with("x", &[1]), "no model of a family that is supported"),
        (empty(), "no model of a family that is supported"),
        (sd15.clone().without("cond_stage_model."), "a UNet without text encoders"),
        (sd15.part(VAE, str::to_owned), "a VAE alone"),
        (refiner, "an SDXL refiner"),
        (sdxl.clone().with("edm_mean", &[4]).with("edm_std", &[4]), "a model with an EDM schedule"),
        (
            sdxl.clone().without("conditioner.embedders.1."),
            "tensor `conditioner.embedders.1.model.token_embedding.weight` is missing",
        ),
        (sd15.clone().without(UNET), "no UNet in it: a VAE alone"),
    ] {
        let path = place.save("a.safetensors", &file);
        let error = line(&open(&path).unwrap_err());
        assert!(error.starts_with(&format!("a.safetensors: {what}")), "{error} / {what}");
    }
    // Without a VAE a model is not whole either, but it can be given one.
    let path = place.save("a.safetensors", &sd15.clone().without(VAE));
    let error = open(&path).unwrap().check_parts().unwrap_err();
    assert!(line(&error).contains("the VAE is missing"), "{error}");

    let base = || open(&place.save("base.safetensors", &sd15)).unwrap();
    let path = place.save("a.safetensors", &sd15.part(VAE, str::to_owned));
    let error = line(&base().with_denoiser(&path).unwrap_err());
    assert!(error.starts_with("a.safetensors: no UNet in it: a VAE alone"), "{error}");
    let path = place.save("a.safetensors", &sd15.part(UNET, str::to_owned));
    let error = line(&base().with_vae(&path).unwrap_err());
    assert!(error.starts_with("a.safetensors: no VAE in it: a UNet without text"), "{error}");
    // SDXL's added conditions have no place in a model without a pooled embedding.
    let path = place.save("a.safetensors", &sdxl.part(UNET, str::to_owned));
    let error = line(&base().with_denoiser(&path).unwrap_err());
    assert!(error.contains("takes 68 added conditions without a pooled text"), "{error}");
    let error = line(&base().with_vae(&place.0.path().join("absent")).unwrap_err());
    assert_eq!(error, "absent: no such model folder or file");
    for name in ["vae.pt", "vae.ckpt", "vae.safetensors"] {
        let path = place.0.path().join(name);
        fs::write(&path, b"PK\x03\x04 and more").unwrap();
        let error = line(&base().with_vae(&path).unwrap_err());
        assert!(error.contains("pickled"), "{error}");
    }
    let path = place.0.path().join("model.onnx");
    fs::write(&path, "no weights").unwrap();
    assert!(line(&open(&path).unwrap_err()).contains("not a weights file that is known"));
}

/// Error message of loading a model.
fn complaint(path: &Path) -> String {
    let error = match open(path) {
        Err(error) => error.to_string(),
        Ok(files) => match Engine::load(&files, &Device::Cpu) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{}: loads", path.display()),
        },
    };
    assert!(!error.contains('\n'), "{error}");
    assert!(error.contains(&path.display().to_string()), "{error}");
    error
}

#[test]
fn a_bad_tensor_is_named_as_the_file_names_it() {
    let place = Place::new();
    let whole = Stored::family("sd15");
    let mut cases = Vec::new();
    for name in [
        "model.diffusion_model.output_blocks.1.0.skip_connection.bias",
        "first_stage_model.decoder.mid.attn_1.proj_out.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc2.bias",
    ] {
        let mut missing = whole.clone();
        missing.tensors.remove(name).unwrap();
        cases.push((missing, format!("tensor `{name}` is missing")));
        cases.push((whole.clone().with(name, &[3]), format!("tensor `{name}` is [3]")));
    }
    let name = "model.diffusion_model.input_blocks.1.0.in_layers.2.bias";
    let mut eight_bits = whole.clone();
    eight_bits.tensors.insert(name.to_owned(), (Dtype::F8_E5M2, vec![32], vec![0; 32]));
    cases.push((eight_bits, format!("tensor `{name}` is stored as F8_E5M2, not in F16")));
    // Nine channels at the input are an inpainting model's.
    let inpainting =
        whole.clone().with("model.diffusion_model.input_blocks.0.0.weight", &[32, 9, 3, 3]);
    cases.push((inpainting, "the UNet takes 9 channels".to_owned()));
    for (file, expected) in cases {
        let complaint = complaint(&place.save("a.safetensors", &file));
        assert!(complaint.contains(&expected), "{complaint} / {expected}");
    }
}

#[test]
fn parts_of_different_families_are_refused_together() {
    let place = Place::new();
    let sdxl = place.save("a.safetensors", &Stored::family("sdxl"));
    let path = place.save("unet.safetensors", &Stored::family("sd15").part(UNET, str::to_owned));
    let files = open(&sdxl).unwrap().with_denoiser(&path).unwrap();
    let error = Engine::load(&files, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("takes text of width 16, the text encoders make 40"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn a_fused_tensor_of_the_second_encoder_is_named_whole() {
    let place = Place::new();
    let name = "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight";
    let mut missing = Stored::family("sdxl");
    missing.tensors.remove(name).unwrap();
    let complaint = complaint(&place.save("a.safetensors", &missing));
    assert!(complaint.ends_with(&format!("tensor `{name}` is missing")), "{complaint}");
}

#[test]
fn a_truncated_file_is_named() {
    let place = Place::new();
    let path = place.save("a.safetensors", &Stored::family("sd15"));
    let bytes = fs::read(&path).unwrap();
    for damaged in [&bytes[..bytes.len() - 1], &bytes[..1000], &bytes[..5], &[]] {
        fs::write(&path, damaged).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, WeightsError::Safetensors { .. } | WeightsError::Read { .. }));
        assert!(line(&error).starts_with("a.safetensors: "), "{error}");
    }
}

#[test]
fn tensors_that_nothing_uses_are_noted_and_known_ones_are_not() {
    let place = Place::new();
    let note = |stored: &Stored| open(&place.save("a.safetensors", stored)).unwrap().notes();
    let whole = Stored::family("sdxl");
    let known = whole
        .clone()
        .with("model_ema.diffusion_modelx", &[1])
        .with("conditioner.embedders.0.transformer.text_projection.weight", &[1])
        .with("denoiser.sigmas", &[1]);
    assert_eq!(note(&known), Vec::<String>::new());
    let one = whole.with("model.diffusion_model.adapter.weight", &[1]);
    let [line] = &note(&one)[..] else { panic!() };
    assert!(
        line.ends_with("a.safetensors: tensor `model.diffusion_model.adapter.weight` is not used")
    );
    let two = one.with("control_model.x", &[1]);
    let [line] = &note(&two)[..] else { panic!() };
    assert!(line.ends_with("a.safetensors: 2 tensors are not used, `control_model.x` the first"));
}
