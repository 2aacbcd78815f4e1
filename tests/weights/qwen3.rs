//! Qwen3 beside a model: what Z-Image reads texts with, from a folder, from a file, and in a file of llama.cpp with its
//! vocabulary; and what does not fit is told.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::{
    pipeline::Engine,
    weights::{ModelFiles, WeightsError},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{
    copy_folder, fixture,
    models::open,
    pixart,
    tensors::{bits, largest_error},
    z_image::{original, tensors, write_folder},
};

/// Texts of which the first three are those of the GGUF file's reference.
fn texts() -> Vec<String> {
    let file = fs::read(fixture("z_image/texts.json")).unwrap();
    let all: Value = serde_json::from_slice(&file).unwrap();
    serde_json::from_value(all["prompts"].clone()).unwrap()
}

fn context(files: &ModelFiles) -> Tensor {
    let text = files.text(&Device::Cpu, DType::F32).unwrap();
    text.encode(&texts()).unwrap().context.into_tensor().unwrap()
}

/// A whole model in a file of ComfyUI, which has no tokenizer.
fn without_tokenizer(place: &TempDir) -> ModelFiles {
    let named = |all: HashMap<String, Tensor>, prefix: &str| {
        all.into_iter()
            .map(|(name, tensor)| (format!("{prefix}{name}"), tensor))
            .collect::<Vec<_>>()
    };
    let mut all: HashMap<_, _> = named(original(), "model.diffusion_model.").into_iter().collect();
    all.extend(named(tensors("text_encoder"), "text_encoders.qwen3_4b.transformer."));
    let path = place.path().join("whole.safetensors");
    safetensors::save(&all, &path).unwrap();
    open(&path).unwrap()
}

/// Writes an encoder with these names into a folder of its own, its tokenizer beside it.
fn save(tensors: &HashMap<String, Tensor>, place: &Path, with_tokenizer: bool) {
    fs::create_dir_all(place).unwrap();
    safetensors::save(tensors, place.join("model.safetensors")).unwrap();
    if with_tokenizer {
        let from = fixture("z_image/tokenizer/tokenizer.json");
        fs::copy(from, place.join("tokenizer.json")).unwrap();
    }
}

#[test]
fn an_encoder_from_a_folder_or_a_file_is_the_models_own() {
    let (place, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write_folder(folder.path());
    let own = context(&open(folder.path()).unwrap());
    let whole = without_tokenizer(&place);
    let lacking = whole.text(&Device::Cpu, DType::F32).unwrap_err();
    assert!(matches!(lacking, WeightsError::MissingPart { .. }), "{lacking}");
    let encoder = folder.path().join("text_encoder");
    let alone = place.path().join("alone");
    copy_folder(&encoder, &alone);
    copy_folder(&fixture("z_image/tokenizer"), &alone);
    let file = place.path().join("file");
    save(&tensors("text_encoder"), &file, true);
    // As transformers saves the class without an output projection.
    let bare = tensors("text_encoder").into_iter();
    let bare = bare.map(|(name, it)| (name.strip_prefix("model.").unwrap().to_owned(), it));
    let bare_file = place.path().join("bare");
    save(&bare.collect(), &bare_file, true);
    for path in [
        folder.path().to_owned(),
        alone,
        file.join("model.safetensors"),
        bare_file.join("model.safetensors"),
    ] {
        let files = whole.clone().with_text_encoder(&path).unwrap();
        assert_eq!(files.notes(), Vec::<String>::new(), "{}", path.display());
        assert_eq!(bits(&context(&files)), bits(&own), "{}", path.display());
    }
    // A file without a vocabulary has the model's.
    let plain = place.path().join("plain");
    save(&tensors("text_encoder"), &plain, false);
    let plain = plain.join("model.safetensors");
    let files = open(folder.path()).unwrap().with_text_encoder(&plain).unwrap();
    assert_eq!(bits(&context(&files)), bits(&own));
    let error =
        whole.with_text_encoder(&plain).unwrap().text(&Device::Cpu, DType::F32).unwrap_err();
    assert!(error.to_string().contains("put its tokenizer.json beside it"), "{error}");
}

#[test]
fn a_file_of_llama_cpp_gives_the_states_of_transformers_with_the_vocabulary_in_it() {
    let place = TempDir::new().unwrap();
    let gguf = fixture("z_image/qwen3.gguf");
    let files = without_tokenizer(&place).with_text_encoder(&gguf).unwrap();
    assert_eq!(files.notes(), Vec::<String>::new());
    let expected = fixture("z_image/qwen3_gguf.safetensors");
    let expected = safetensors::load(expected, &Device::Cpu).unwrap();
    for files in [files.clone(), files.clone().keep_above(0)] {
        let states = context(&files);
        for row in 0..3 {
            let expected = &expected[&row.to_string()];
            let (tokens, _) = expected.dims2().unwrap();
            let ours = states.get(row).unwrap().narrow(0, 0, tokens).unwrap();
            let error = largest_error(&ours, expected);
            println!("{row}: {error:e}");
            assert!(error <= 1e-4, "{row}: {error}");
            // As many tokens as there: all behind them is zero.
            let rest = states.get(row).unwrap().narrow(0, tokens, 512 - tokens).unwrap();
            assert!(bits(&rest.contiguous().unwrap()).iter().all(|&bits| bits == 0), "{row}");
        }
    }
    // Its states are of another width than the transformer takes.
    let folder = TempDir::new().unwrap();
    write_folder(folder.path());
    let other = open(folder.path()).unwrap().with_text_encoder(&gguf).unwrap();
    let error = Engine::load(&other, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("takes text of width 40, the text encoders make 32"), "{error}");
}

#[test]
fn what_does_not_fit_is_told_by_name() {
    let (place, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write_folder(folder.path());
    let fail =
        |path: &Path| open(folder.path()).unwrap().with_text_encoder(path).unwrap_err().to_string();
    let t5 = fail(&fixture("t5/files/t5.gguf"));
    assert!(t5.contains("no Qwen3 text encoder in it: a T5 text encoder alone"), "{t5}");
    let t5 = place.path().join("t5");
    copy_folder(&fixture("t5/gated"), &t5);
    let mut config: Value =
        serde_json::from_slice(&fs::read(t5.join("config.json")).unwrap()).unwrap();
    config["model_type"] = "t5".into();
    fs::write(t5.join("config.json"), config.to_string()).unwrap();
    assert!(fail(&t5).contains("`model_type` is t5, not qwen3"), "{}", fail(&t5));
    config["model_type"] = "qwen3".into();
    fs::write(t5.join("config.json"), config.to_string()).unwrap();
    let error = fail(&t5);
    assert!(error.contains("`architectures` names \"T5EncoderModel\""), "{error}");
    // One layer fewer, of which nobody would see anything.
    let mut fewer = tensors("text_encoder");
    fewer.retain(|name, _| !name.contains(".layers.3."));
    save(&fewer, &place.path().join("fewer"), true);
    let error = fail(&place.path().join("fewer/model.safetensors"));
    assert!(
        error.contains("a Qwen3 of 3 layers, where the model reads texts with one of 4"),
        "{error}"
    );
    // And one where T5 is wanted, or that is taken for a model.
    let gguf = fixture("z_image/qwen3.gguf");
    let other = TempDir::new().unwrap();
    pixart::write_folder(other.path());
    let error = open(other.path()).unwrap().with_text_encoder(&gguf).unwrap_err().to_string();
    assert!(error.contains("no T5 text encoder in it: a Qwen3 text encoder alone"), "{error}");
    let error = open(&gguf).unwrap_err().to_string();
    assert!(error.contains("a Qwen3 text encoder alone, not a model"), "{error}");
}
