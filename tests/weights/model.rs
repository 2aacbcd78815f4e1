//! A whole model folder as users have them: every part loads to what diffusers makes of it, and
//! every part that is missing is named (fixture by tests/make_fixtures/make_img2img_fixture.py).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::pipeline::{Engine, Error};
use cupscale::weights::{Part, WeightsError};
use serde_json::Value;

use crate::common::{copy_folder, models::open, tensors::norm_error};

fn fixture(name: &str) -> PathBuf {
    crate::common::fixture("img2img").join(name)
}

/// Loads a whole model, as the program does.
fn load(folder: &Path) -> Result<Engine, Error> {
    Engine::load(&open(folder)?, &Device::Cpu)
}

fn expected(region: &str) -> HashMap<String, Tensor> {
    safetensors::load(fixture(&format!("expected_{region}.safetensors")), &Device::Cpu).unwrap()
}

#[test]
fn vae_text_and_scheduler_of_a_folder_are_what_diffusers_makes_of_them() {
    let model = open(&fixture("model")).unwrap();
    let text = model.text(&Device::Cpu, DType::F32).unwrap();
    let vae = model.vae(&Device::Cpu, DType::F32).unwrap();
    let settings: Value =
        serde_json::from_slice(&fs::read(fixture("settings.json")).unwrap()).unwrap();
    let conditioning = text.encode(&[settings["prompt"].as_str().unwrap()]).unwrap();
    for region in ["wide", "square"] {
        let expected = expected(region);
        let one = |name: &str| expected[name].unsqueeze(0).unwrap();
        assert!(norm_error(&conditioning.context, &expected["context"]) <= 1e-4);
        assert!(norm_error(conditioning.pooled.as_ref().unwrap(), &expected["pooled"]) <= 1e-4);
        let low = vae.encode(&one("image").into()).unwrap();
        assert!(norm_error(&low, &one("zL")) <= 1e-4);
        let last = expected["z"].narrow(0, 4, 1).unwrap();
        assert!(norm_error(&vae.decode(&last.into()).unwrap(), &one("decoded")) <= 1e-4);
    }
    assert_eq!(model.scheduler().unwrap()["beta_schedule"], "scaled_linear");
    let unet = model.component(Part::Denoiser, &Device::Cpu, DType::F32).unwrap();
    assert_eq!(unet.config["addition_embed_type"], "text_time");
    let weight = unet.params.get((8, 8, 3, 3), "conv_in.weight").unwrap();
    assert_eq!(weight.dtype(), DType::F32);
}

#[test]
fn f16_conditioning_is_close_to_f32() {
    let model = open(&fixture("model")).unwrap();
    let text = model.text(&Device::Cpu, DType::F16).unwrap();
    let vae = model.vae(&Device::Cpu, DType::F16).unwrap();
    let settings: Value =
        serde_json::from_slice(&fs::read(fixture("settings.json")).unwrap()).unwrap();
    let conditioning = text.encode(&[settings["prompt"].as_str().unwrap()]).unwrap();
    assert_eq!(conditioning.context.dtype(), DType::F16);
    let context = conditioning.context.to_dtype(DType::F32).unwrap();
    assert!(norm_error(&context, &expected("wide")["context"]) <= 5e-3);
    // AutoencoderTiny's configuration says that it stands f16; results leave it in f32 anyway.
    assert_eq!(vae.dtype(), DType::F16);
    let low = vae.encode(&expected("wide")["image"].unsqueeze(0).unwrap().into()).unwrap();
    assert_eq!(low.dtype(), DType::F32);
    assert!(norm_error(&low, &expected("wide")["zL"].unsqueeze(0).unwrap()) <= 1e-2);
}

#[test]
fn whichever_part_is_missing_is_named_with_its_file() {
    for (file, part) in [
        ("scheduler/scheduler_config.json", "the scheduler"),
        ("unet/config.json", "the UNet"),
        ("unet/diffusion_pytorch_model.safetensors", "the UNet"),
        ("vae/config.json", "the VAE"),
        ("vae/diffusion_pytorch_model.safetensors", "the VAE"),
        ("text_encoder/config.json", "the text encoder"),
        ("text_encoder_2/model.safetensors", "the text encoder"),
        ("tokenizer/merges.txt", "the tokenizer"),
        ("tokenizer_2/vocab.json", "the tokenizer"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        copy_folder(&fixture("model"), dir.path());
        fs::remove_file(dir.path().join(file)).unwrap();
        let error = load(dir.path()).err().unwrap();
        assert!(matches!(error, Error::Weights(WeightsError::MissingPart { .. })), "{error}");
        let expected = format!("{}: {part} is missing ({file})", dir.path().display());
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn any_damaged_text_file_is_one_line_that_names_it() {
    for file in [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder_2/config.json",
        "tokenizer/vocab.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer_2/special_tokens_map.json",
        "tokenizer_2/merges.txt",
    ] {
        for damage in [&b"{\"a\":\n["[..], b"[1, 2]", b"\xff\xfe", b"3"] {
            let dir = tempfile::tempdir().unwrap();
            copy_folder(&fixture("model"), dir.path());
            fs::write(dir.path().join(file), damage).unwrap();
            // A file that still parses may leave everything at its defaults; it must not panic.
            if let Err(error) = load(dir.path()) {
                let text = error.to_string();
                assert!(!text.contains('\n'), "{text}");
                assert!(text.starts_with(&dir.path().display().to_string()), "{text}");
            } else {
                assert!(damage.starts_with(b"[1") || damage.starts_with(b"3"), "{file}");
            }
        }
    }
}
