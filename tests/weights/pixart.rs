//! PixArt's files: folders, files with the names of its own code, GGUF, LoRAs. The fixtures are made by
//! `tests/make_fixtures/make_pixart_fixtures.py` and `make_pixart_job_fixture.py`.

use std::{
    collections::HashMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::{
    model::{
        denoiser::{MicroConditioning, Prior},
        text::TextConditioning,
    },
    weights::{ModelFiles, Part, QuantType},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{
    copy_folder,
    drawn::{assert_close, field},
    fixture,
    models::{denoiser, open},
    tensors::largest_error,
};

fn fixtures(name: &str) -> PathBuf {
    fixture("pixart").join(name)
}

/// A whole model in diffusers' layout.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    copy_folder(&fixture("pixart_job/model"), folder.path());
    copy_folder(&fixture("img2img/model/vae"), &folder.path().join("vae"));
    copy_folder(&fixture("t5/json"), &folder.path().join("tokenizer"));
    folder
}

/// The output of the transformer in `original.safetensors`, whichever form it is in.
fn output(files: &ModelFiles) -> Tensor {
    let denoiser = denoiser(files);
    let text = TextConditioning {
        context: field("context", &[1, 7, 16]).into(),
        pooled: None,
        lengths: Some(vec![5]),
    };
    let micro = MicroConditioning { original: (48, 48), crop: (0, 0), target: (48, 48) };
    let cond = denoiser.condition(&text, micro).unwrap();
    let sample = field("sample", &[1, 4, 12, 12]).permute((0, 2, 3, 1)).unwrap();
    let sample = sample.contiguous().unwrap();
    denoiser.forward(&sample.into(), 499.0, &cond, Prior::None).unwrap().into_tensor().unwrap()
}

fn expected() -> Tensor {
    let path = fixtures("original_expected.safetensors");
    safetensors::load(path, &Device::Cpu).unwrap().remove("output").unwrap()
}

fn original() -> HashMap<String, Tensor> {
    safetensors::load(fixtures("original.safetensors"), &Device::Cpu).unwrap()
}

fn save(tensors: &HashMap<String, Tensor>, path: &Path) {
    safetensors::save(tensors, path).unwrap();
}

#[test]
fn a_transformer_in_any_naming_and_container_takes_the_place_of_the_models_own() {
    let folder = folder();
    let prefixed = folder.path().join("prefixed.safetensors");
    let tensors = original().into_iter();
    save(
        &tensors.map(|(name, tensor)| (format!("model.diffusion_model.{name}"), tensor)).collect(),
        &prefixed,
    );
    let base = open(folder.path()).unwrap();
    let forms = [fixtures("original.safetensors"), fixtures("original.gguf"), prefixed];
    for path in forms {
        let files = base.clone().with_denoiser(&path).unwrap();
        assert_close(&path.display().to_string(), &output(&files), &expected(), 1e-4);
        assert_eq!(files.notes(), Vec::<String>::new(), "{}", path.display());
        let config = files.component(Part::Denoiser, &Device::Cpu, DType::F32).unwrap().config;
        assert_eq!(config["sample_size"], 12);
        assert_eq!(config["use_additional_conditions"], true);
    }
}

#[test]
fn a_whole_model_written_as_gguf_is_the_same_model() {
    let folder = folder();
    let base = open(folder.path()).unwrap();
    let files = base.with_denoiser(&fixtures("original.safetensors")).unwrap();
    let written = folder.path().join("model.gguf");
    files.quantize(QuantType::F16, &written, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let again = open(&written).unwrap();
    assert_eq!(largest_error(&output(&again), &output(&files)), 0.0);
    assert_eq!(again.scheduler().unwrap(), files.scheduler().unwrap());
    let encode = |files: &ModelFiles| {
        let text = files.text(&Device::Cpu, DType::F32).unwrap();
        text.encode(&["An old harbour at dusk", ""]).unwrap()
    };
    let (ours, theirs) = (encode(&again), encode(&files));
    assert_eq!(ours.lengths, theirs.lengths);
    assert_eq!(ours.context.dims(), [2, 120, 16]);
    // The encoder is stored in f32.
    assert!(largest_error(&ours.context, theirs.context.tensor().unwrap()) <= 2e-3);
    // What acts on one vector of the whole picture keeps 16 bits.
    let q8 = folder.path().join("q8.gguf");
    let summary = files.quantize(QuantType::Q8_0, &q8, &mut |_, _| ControlFlow::Continue(()));
    assert!(summary.unwrap().formats.contains_key("f16"));
    assert_close("q8_0", &output(&open(&q8).unwrap()), &expected(), 5e-2);
}

#[test]
fn the_pipeline_says_how_long_texts_are_and_where_it_does_not_the_configuration_does() {
    let folder = folder();
    let path = folder.path().join("model_index.json");
    let tokens = |pipeline: Option<&str>, conditioned: Option<bool>| {
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        index["_class_name"] = pipeline.into();
        fs::write(&path, index.to_string()).unwrap();
        let config_path = folder.path().join("transformer/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&config_path).unwrap()).unwrap();
        config["use_additional_conditions"] = conditioned.into();
        fs::write(config_path, config.to_string()).unwrap();
        let files = open(folder.path()).unwrap();
        files.text(&Device::Cpu, DType::F32).unwrap().tokens()
    };
    assert_eq!(tokens(Some("PixArtAlphaPipeline"), Some(false)), 120);
    assert_eq!(tokens(Some("PixArtSigmaPipeline"), Some(false)), 300);
    assert_eq!(tokens(None, Some(false)), 300);
    assert_eq!(tokens(None, Some(true)), 120);
    assert_eq!(tokens(None, None), 120);
}

#[test]
fn a_folder_with_nothing_but_the_transformers_takes_the_place_of_the_models_own() {
    let (folder, other) = (folder(), TempDir::new().unwrap());
    copy_folder(&folder.path().join("transformer"), &other.path().join("transformer"));
    let base = open(folder.path()).unwrap();
    let files = base.clone().with_denoiser(other.path()).unwrap();
    let name = "transformer_blocks.1.attn2.to_k.weight";
    let weight = |files: &ModelFiles| {
        let part = files.component(Part::Denoiser, &Device::Cpu, DType::F32).unwrap();
        part.params.get((24, 24), name).unwrap()
    };
    assert_eq!(largest_error(&weight(&files), &weight(&base)), 0.0);
    fs::remove_file(other.path().join("transformer/config.json")).unwrap();
    let error = base.with_denoiser(other.path()).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
}

#[test]
fn loras_change_the_projections_that_they_name_and_the_fused_ones_of_the_own_code() {
    let folder = folder();
    let base =
        open(folder.path()).unwrap().with_denoiser(&fixtures("original.safetensors")).unwrap();
    let (down, up) = (field("down", &[2, 48]), field("up", &[144, 2]));
    let rows = |from: usize| up.narrow(0, from, 48).unwrap().contiguous().unwrap();
    let path = folder.path().join("lora.safetensors");
    let weight = |files: &ModelFiles, name: &str| {
        let part = files.component(Part::Denoiser, &Device::Cpu, DType::F32).unwrap();
        part.params.get((48, 48), name).unwrap()
    };
    let (query, value) =
        ("transformer_blocks.0.attn1.to_q.weight", "transformer_blocks.0.attn1.to_v.weight");
    let check = |files: &ModelFiles, name: &str, change: &Tensor| {
        let changed = (weight(&base, name) + change).unwrap();
        let error = largest_error(&weight(files, name), &changed);
        assert!(error <= 1e-6, "{name}: {error:e}");
    };
    let product = |up: Tensor| up.matmul(&down).unwrap();

    // peft's names, as diffusers saves them.
    let module = "transformer.transformer_blocks.0.attn1.to_q";
    let pair = [("lora_A", down.clone()), ("lora_B", rows(0))];
    save(&pair.map(|(kind, it)| (format!("{module}.{kind}.weight"), it)).into(), &path);
    let files = base.clone().with_lora(&path, 0.5).unwrap();
    assert_eq!(files.notes(), Vec::<String>::new());
    check(&files, query, &(product(rows(0)) * 0.5).unwrap());
    check(&files, value, &product((rows(0) * 0.0).unwrap()));

    // kohya's, of the own code's names: one module for queries, keys and values.
    let module = "lora_unet_blocks_0_attn_qkv";
    let pair = [("lora_down", down.clone()), ("lora_up", up.clone())];
    save(&pair.map(|(kind, it)| (format!("{module}.{kind}.weight"), it)).into(), &path);
    let files = base.clone().with_lora(&path, 1.0).unwrap();
    check(&files, query, &product(rows(0)));
    check(&files, value, &product(rows(96)));
}

#[test]
fn a_transformer_alone_is_no_model_and_a_unet_is_no_transformer() {
    let error = open(&fixtures("original.safetensors")).unwrap_err().to_string();
    assert!(error.contains("a transformer without text encoders"), "{error}");
    let folder = folder();
    let pickle = folder.path().join("PixArt-XL-2-1024-MS.pth");
    fs::write(&pickle, b"PK\x03\x04and more").unwrap();
    let error = open(folder.path()).unwrap().with_denoiser(&pickle).unwrap_err().to_string();
    assert!(error.contains("PixArt-XL-2-1024-MS.pth") && error.contains("pickle"), "{error}");
}
