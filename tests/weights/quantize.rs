//! Quantized models: a file that was written is the same model as weights that are rounded as they
//! are read, and both are as close to the original as their type promises.

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Shape, Tensor, safetensors};
use cupscale::backend::{ParamSource, Params};
use cupscale::model::denoiser::{
    Denoiser,
    unet::{UNet2DConditionModel, UNetConfig},
};
use cupscale::pipeline::Engine;
use cupscale::weights::{ModelFiles, QuantType, WeightsError};
use tempfile::TempDir;

use crate::common::{
    copy_folder,
    models::{self, conditioning, denoiser, predict},
    tensors::{bits, norm_error, values},
};

/// SDXL's architecture with rows that k-quants can take.
const UNET: &str = r#"{"sample_size": 16, "block_out_channels": [64, 256],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1,
    "transformer_layers_per_block": 2, "attention_head_dim": [1, 4],
    "cross_attention_dim": 256, "use_linear_projection": true,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 448}"#;

/// Invents a weight for every name that a model asks for, as torch's layers do (uniform up to
/// 1/√inputs), and keeps them.
#[derive(Default)]
struct Inventor(Mutex<HashMap<String, Tensor>>);

impl ParamSource for Inventor {
    fn get(&self, name: &str, shape: &Shape, dtype: DType, _: &Device) -> Result<Tensor> {
        let seed = name.bytes().fold(7, |seed: u64, byte| seed * 31 % 65_521 + u64::from(byte));
        let inputs: usize = shape.dims()[1..].iter().product();
        let random = (values(seed, shape.dims()) / (3.0 * inputs as f64).sqrt())?;
        let tensor = match (shape.rank(), name.ends_with("weight")) {
            (1, true) => ((random * 0.1)? + 1.0)?,
            (1, false) => (random * 0.1)?,
            _ => random,
        };
        self.0.lock().unwrap().insert(name.to_owned(), tensor.to_dtype(DType::F16)?);
        tensor.to_dtype(DType::F16)?.to_dtype(dtype)
    }

    fn contains(&self, _: &str) -> bool {
        true
    }
}

fn fixture() -> PathBuf {
    crate::common::fixture("img2img/model")
}

/// A whole model whose UNet has f16 weights, invented for `UNET`.
fn model() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    copy_folder(&fixture(), &model);
    let inventor = Arc::new(Inventor::default());
    let params = Params::new(inventor.clone(), DType::F32, &Device::Cpu);
    UNet2DConditionModel::load(UNetConfig::from_json(UNET).unwrap(), &params).unwrap();
    let unet = model.join("unet");
    fs::write(unet.join("config.json"), UNET).unwrap();
    let weights = unet.join("diffusion_pytorch_model.safetensors");
    safetensors::save(&*inventor.0.lock().unwrap(), weights).unwrap();
    (dir, model)
}

fn open(path: &Path) -> ModelFiles {
    models::open(path).unwrap()
}

/// One call of the UNet.
fn call(denoiser: &Denoiser) -> Tensor {
    let time_ids = Tensor::full(128f32, (1, 6), &Device::Cpu).unwrap();
    let (context, pooled) = (values(2, &[1, 77, 256]), values(3, &[1, 256]));
    let cond = conditioning(denoiser, &context, Some(&pooled), Some(&time_ids)).unwrap();
    predict(denoiser, &values(1, &[1, 16, 16, 4]), 499.0, &cond)
}

fn silent(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_written_file_is_the_same_model_as_rounding_on_the_fly_and_as_close_as_its_type_promises() {
    let (dir, model) = model();
    let reference = call(&denoiser(&open(&model).keep_above(usize::MAX)));
    let mut last = 0.0;
    // F16 is how it is stored; the others' bounds are what the README promises.
    for (quant, bound) in [
        (QuantType::F16, 1e-5),
        (QuantType::Q8_0, 0.01),
        (QuantType::Q6K, 0.02),
        (QuantType::Q5K, 0.04),
        (QuantType::Q4K, 0.08),
    ] {
        let file = dir.path().join(format!("{quant}.gguf"));
        let mut calls = Vec::new();
        let mut progress = |done, total| {
            calls.push((done, total));
            ControlFlow::Continue(())
        };
        let summary = open(&model).quantize(quant, &file, &mut progress).unwrap();
        assert!(calls.is_sorted() && calls.last().is_some_and(|(done, total)| done == total));
        assert_eq!(summary.bytes, fs::metadata(&file).unwrap().len());

        for keep_above in [0, usize::MAX] {
            let written = denoiser(&open(&file).keep_above(keep_above));
            let on_the_fly = denoiser(&open(&model).quantized(quant).keep_above(keep_above));
            let ours = call(&written);
            assert_eq!(bits(&ours), bits(&call(&on_the_fly)), "{quant} {keep_above}");
            assert_eq!(written.weight_bytes(), on_the_fly.weight_bytes());
            let error = norm_error(&ours, &reference);
            println!("{quant}: {error:.5}, {} bytes kept", written.weight_bytes());
            assert!(error <= bound, "{quant}: {error:.4}");
            assert!(error >= last || keep_above == 0, "{quant} is better than a finer type");
            if keep_above == usize::MAX {
                last = error;
            }
        }
    }
    assert!(last > 0.0);
}

#[test]
fn what_is_kept_as_stored_takes_as_many_bytes_as_the_file() {
    let (dir, model) = model();
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    let stored = fs::metadata(weights).unwrap().len() as usize;
    let kept = denoiser(&open(&model).keep_above(0)).weight_bytes();
    // Norms and biases are f32.
    assert!(kept < stored + stored / 50, "{kept} of {stored}");
    let dense = denoiser(&open(&model)).weight_bytes();
    assert!(dense > 2 * stored - stored / 50, "a small model is in f32: {dense} of {stored}");
    let file = dir.path().join("q4.gguf");
    open(&model).quantize(QuantType::Q4K, &file, &mut silent).unwrap();
    let quantized = denoiser(&open(&file).keep_above(0)).weight_bytes();
    assert!(quantized < kept * 3 / 4, "{quantized} of {kept}");
}

#[test]
fn a_whole_model_comes_back_from_its_file_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("whole.gguf");
    open(&fixture()).quantize(QuantType::F16, &file, &mut silent).unwrap();
    let (folder, gguf) = (open(&fixture()), open(&file));
    gguf.check_parts().unwrap();
    assert_eq!(gguf.scheduler().unwrap(), folder.scheduler().unwrap());
    let encode = |files: &ModelFiles| {
        let text = files.text(&Device::Cpu, DType::F32).unwrap();
        let text = text.encode(&["an old harbour at dusk"]).unwrap();
        (text.context.into_tensor().unwrap(), text.pooled.unwrap().into_tensor().unwrap())
    };
    let (ours, reference) = (encode(&gguf), encode(&folder.clone().quantized(QuantType::F16)));
    assert_eq!((bits(&ours.0), bits(&ours.1)), (bits(&reference.0), bits(&reference.1)));
    assert!(norm_error(&ours.0, &encode(&folder).0) < 1e-3);
    let decode = |files: &ModelFiles| {
        let vae = files.vae(&Device::Cpu, DType::F32).unwrap();
        vae.decode(&values(1, &[1, 6, 5, vae.latent_channels()]).into()).unwrap()
    };
    assert_eq!(bits(&decode(&gguf)), bits(&decode(&folder)), "the VAE stays as it is");
    let engine = Engine::load(&gguf, &Device::Cpu).unwrap();
    assert_eq!(engine.name(), "whole.gguf");
    assert!(engine.weight_bytes() > 0);
    // A quantized file can be quantized again.
    let again = dir.path().join("again.gguf");
    gguf.quantize(QuantType::Q8_0, &again, &mut silent).unwrap();
    assert!(Engine::load(&open(&again), &Device::Cpu).is_ok());
}

#[test]
fn a_lora_is_merged_before_rounding_in_a_file_as_on_the_fly() {
    let dir = tempfile::tempdir().unwrap();
    let lora = fixture().join("../../lora/hyper.safetensors");
    let merged = || open(&fixture()).with_lora(&lora, 1.0).unwrap();
    let output = |files: &ModelFiles| {
        let denoiser = denoiser(files);
        let text = files.text(&Device::Cpu, DType::F32).unwrap().encode(&["a harbour"]).unwrap();
        let time_ids = Tensor::full(128f32, (1, 6), &Device::Cpu).unwrap();
        let context = text.context.into_tensor().unwrap();
        let pooled = text.pooled.map(|pooled| pooled.into_tensor().unwrap());
        let cond = conditioning(&denoiser, &context, pooled.as_ref(), Some(&time_ids)).unwrap();
        let shape = denoiser.shape().unwrap();
        let channels = shape.channels * if shape.sees_low_resolution { 2 } else { 1 };
        predict(&denoiser, &values(1, &[1, 16, 16, channels]), 499.0, &cond)
    };
    let exact = output(&merged());
    assert!(norm_error(&output(&open(&fixture())), &exact) > 0.01, "the LoRA does nothing");
    for (quant, bound) in [(QuantType::F16, 2e-3), (QuantType::Q8_0, 1e-2)] {
        let file = dir.path().join(format!("{quant}.gguf"));
        merged().quantize(quant, &file, &mut silent).unwrap();
        for keep_above in [0, usize::MAX] {
            let written = output(&open(&file).keep_above(keep_above));
            let on_the_fly = output(&merged().quantized(quant).keep_above(keep_above));
            assert_eq!(bits(&written), bits(&on_the_fly), "{quant} {keep_above}");
            let error = norm_error(&written, &exact);
            assert!(error <= bound, "{quant}: {error:.5}");
        }
    }
}

#[test]
fn a_model_is_never_written_over_itself() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    copy_folder(&fixture(), &folder);
    let file = dir.path().join("a.gguf");
    open(&folder).quantize(QuantType::F16, &file, &mut silent).unwrap();
    let before = fs::read(&file).unwrap();
    let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
    for (model, output) in [(&file, &file), (&folder, &weights)] {
        let error = open(model).quantize(QuantType::Q8_0, output, &mut silent).unwrap_err();
        assert!(error.to_string().starts_with(&output.display().to_string()), "{error}");
    }
    // A part of another model is a part of this one, too.
    let replaced = open(&file).with_vae(&folder).unwrap();
    let error = replaced.quantize(QuantType::Q8_0, &weights, &mut silent).unwrap_err();
    assert!(matches!(error, WeightsError::OntoItself(_)), "{error}");
    assert_eq!(fs::read(&file).unwrap(), before);
    let nowhere = dir.path().join("absent/b.gguf");
    let error = open(&file).quantize(QuantType::F16, &nowhere, &mut silent).unwrap_err();
    assert!(error.to_string().starts_with(&nowhere.display().to_string()), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");
}

#[test]
fn a_file_has_no_name_before_it_is_complete_and_leaves_nothing_when_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.gguf");
    fs::write(&file, "an older one").unwrap();
    for stop_at in [0, 3] {
        let mut calls = 0;
        let mut progress = |_, _| {
            // Nobody can see what is being written where the disk has files without names.
            assert!(!cfg!(target_os = "linux") || fs::read_dir(dir.path()).unwrap().count() == 1);
            calls += 1;
            if calls > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let error = open(&fixture()).quantize(QuantType::Q8_0, &file, &mut progress).unwrap_err();
        assert!(matches!(error, WeightsError::Interrupted), "{error}");
        assert_eq!(calls, stop_at + 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(&file).unwrap(), "an older one");
    }
    open(&fixture()).quantize(QuantType::Q8_0, &file, &mut silent).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    open(&file).check_parts().unwrap();
}

#[cfg(unix)]
#[test]
fn a_name_that_no_file_can_have_is_refused_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let mut never = |done, _| -> ControlFlow<()> {
        assert_eq!(done, 0);
        ControlFlow::Continue(())
    };
    for name in ["", "x/", &"x".repeat(300)] {
        let file = dir.path().join(name);
        let error = open(&fixture()).quantize(QuantType::F16, &file, &mut never).unwrap_err();
        assert!(matches!(error, WeightsError::Write { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let (dir, model) = model();
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    let mut tensors = safetensors::load(&weights, &Device::Cpu).unwrap();
    let name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight";
    let infinite = (&tensors[name] / 0.0).unwrap();
    tensors.insert(name.to_owned(), infinite);
    safetensors::save(&tensors, &weights).unwrap();
    let file = dir.path().join("a.gguf");
    let error = open(&model).quantize(QuantType::Q8_0, &file, &mut silent).unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with(&weights.display().to_string()) && error.contains(name), "{error}");
    assert!(!file.exists());
}
