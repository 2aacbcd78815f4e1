//! Z-Image in every form: a folder, a file with the original names and a text encoder, the transformer alone in a file and
//! in GGUF, our own GGUF, and LoRAs in both namings. The fixtures are made by
//! `tests/make_fixtures/make_z_image_method_fixture.py`, which brings the original names back with diffusers' own converter.

use std::{collections::HashMap, fs, ops::ControlFlow, path::PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::{
    model::denoiser::MicroConditioning,
    model::text::TextConditioning,
    pipeline::Engine,
    weights::{ModelFiles, Part, QuantType, WeightsError},
};
use tempfile::TempDir;

use crate::common::{
    drawn::field,
    fixture,
    models::{denoiser, open, predict},
    tensors::{bits, largest_error},
    z_image::{original, tensors, write_folder},
};

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    write_folder(folder.path());
    folder
}

/// A prediction of the transformer for texts of two lengths.
fn prediction(files: &ModelFiles) -> Tensor {
    let model = denoiser(files);
    let text = TextConditioning {
        context: field("context", &[2, 40, 40]).into(),
        pooled: None,
        lengths: Some(vec![9, 40]),
    };
    let nothing = MicroConditioning { original: (0, 0), crop: (0, 0), target: (0, 0) };
    let conditions = model.condition(&text, nothing).unwrap();
    predict(&model, &field("sample", &[2, 12, 8, 8]), 640.0, &conditions)
}

fn save(tensors: &HashMap<String, Tensor>, place: &TempDir, name: &str) -> PathBuf {
    let path = place.path().join(name);
    safetensors::save(tensors, &path).unwrap();
    path
}

fn with_prefix(tensors: HashMap<String, Tensor>, prefix: &str) -> HashMap<String, Tensor> {
    tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}

/// A whole model as ComfyUI saves it.
fn whole() -> HashMap<String, Tensor> {
    let mut all = with_prefix(original(), "model.diffusion_model.");
    all.extend(with_prefix(tensors("text_encoder"), "text_encoders.qwen3_4b.transformer."));
    let name = "model.diffusion_model.norm_final.weight".to_owned();
    all.insert(name, Tensor::ones(32, DType::F32, &Device::Cpu).unwrap());
    all
}

fn context(files: &ModelFiles) -> Tensor {
    let text = files.text(&Device::Cpu, DType::F32).unwrap();
    text.encode(&["wet cobblestones, 35mm", ""]).unwrap().context.into_tensor().unwrap()
}

#[test]
fn the_folder_is_a_whole_model() {
    let folder = folder();
    let files = open(folder.path()).unwrap();
    files.check_parts().unwrap();
    assert_eq!(files.notes(), Vec::<String>::new());
    let engine = Engine::load(&files, &Device::Cpu).unwrap();
    assert_eq!(engine.shape().region, 12);
    let text = files.text(&Device::Cpu, DType::F32).unwrap();
    assert_eq!((text.tokens(), text.widths()), (512, (40, None)));
}

#[test]
fn a_file_with_the_original_names_is_the_model_of_the_folder() {
    let (place, folder) = (TempDir::new().unwrap(), folder());
    let path = save(&whole(), &place, "anything.safetensors");
    let (single, whole) = (open(&path).unwrap(), open(folder.path()).unwrap());
    assert_eq!(bits(&prediction(&single)), bits(&prediction(&whole)));
    let config =
        |files: &ModelFiles, part| files.component(part, &Device::Cpu, DType::F32).unwrap().config;
    let [ours, theirs] = [&single, &whole].map(|files| config(files, Part::Denoiser));
    for (field, value) in theirs.as_object().unwrap() {
        if !field.starts_with('_') && !value.is_null() {
            assert_eq!(&ours[field], value, "{field}");
        }
    }
    assert_eq!(single.scheduler().unwrap()["shift"], 3.0);
    assert_eq!(single.notes(), Vec::<String>::new());
    let Err(WeightsError::MissingPart { part, file, .. }) = single.text(&Device::Cpu, DType::F32)
    else {
        panic!("a tokenizer out of nothing")
    };
    assert!(part.contains("Qwen") && file.contains("tokenizer.json"), "{part} {file}");
    let tokenizer = fixture("z_image/tokenizer/tokenizer.json");
    fs::copy(tokenizer, place.path().join("tokenizer.json")).unwrap();
    assert_eq!(bits(&context(&single)), bits(&context(&whole)));
    let missing = single.check_parts().unwrap_err().to_string();
    assert!(missing.contains("the VAE is missing"), "{missing}");
}

#[test]
fn a_file_of_the_transformer_alone_takes_the_place_of_a_models_own() {
    let (place, folder) = (TempDir::new().unwrap(), folder());
    let expected = bits(&prediction(&open(folder.path()).unwrap()));
    let diffusers = with_prefix(tensors("transformer"), "transformer.");
    for (name, tensors) in [
        ("plain", original()),
        ("prefixed", with_prefix(original(), "model.diffusion_model.")),
        ("diffusers", diffusers),
    ] {
        let path = save(&tensors, &place, &format!("{name}.safetensors"));
        let replaced = open(folder.path()).unwrap().with_denoiser(&path).unwrap();
        assert_eq!(bits(&prediction(&replaced)), expected, "{name}");
        let alone = open(&path).unwrap_err().to_string();
        assert!(alone.ends_with("use it as the transformer of a whole model"), "{alone}");
    }
    // Lumina 2's has no such token.
    let mut other = original();
    other.remove("cap_pad_token");
    let path = save(&other, &place, "other.safetensors");
    assert!(open(folder.path()).unwrap().with_denoiser(&path).is_err());
    let mut odd = original();
    let norm = "layers.0.attention.q_norm.weight";
    odd.insert(norm.to_owned(), odd[norm].narrow(0, 0, 15).unwrap());
    let path = save(&odd, &place, "odd.safetensors");
    let error = open(folder.path()).unwrap().with_denoiser(&path).unwrap_err().to_string();
    assert!(error.contains("heads of 15 numbers"), "{error}");
}

#[test]
fn the_transformer_of_a_gguf_file_takes_the_place_of_a_models_own() {
    let folder = folder();
    let files = open(folder.path()).unwrap();
    let file = fixture("z_image/model/transformer.gguf");
    let replaced = open(folder.path()).unwrap().with_denoiser(&file).unwrap();
    assert_eq!(replaced.notes(), files.notes());
    let expected = fixture("z_image/model/gguf.safetensors");
    let expected = &safetensors::load(expected, &Device::Cpu).unwrap()["output"];
    assert!(largest_error(&prediction(&files), expected) > 1e-2, "rounding that nobody sees");
    // In the working precision, and kept as it is stored, parts of one tensor included.
    for files in [replaced.clone(), replaced.keep_above(0)] {
        let error = largest_error(&prediction(&files), expected);
        assert!(error <= 1e-4, "{error}");
    }
}

#[test]
fn a_model_written_into_one_file_and_read_again_is_the_same() {
    let (place, folder) = (TempDir::new().unwrap(), folder());
    let files = open(folder.path()).unwrap();
    let output = place.path().join("whole.gguf");
    let mut go_on = |_, _| ControlFlow::Continue(());
    files.quantize(QuantType::F16, &output, &mut go_on).unwrap();
    let again = open(&output).unwrap();
    again.check_parts().unwrap();
    let rounded = files.clone().quantized(QuantType::F16);
    assert_eq!(bits(&prediction(&again)), bits(&prediction(&rounded)));
    assert_eq!(bits(&context(&again)), bits(&context(&rounded)));
    assert!(Engine::load(&again, &Device::Cpu).is_ok());
    files.quantize(QuantType::Q8_0, &output, &mut go_on).unwrap();
    let error = largest_error(&prediction(&open(&output).unwrap()), &prediction(&files));
    assert!((1e-4..3e-2).contains(&error), "{error}");
}

#[test]
fn a_lora_in_both_namings_changes_the_same_weights() {
    let (place, folder) = (TempDir::new().unwrap(), folder());
    let plain = prediction(&open(folder.path()).unwrap());
    let [down, up] = [field("down", &[3, 32]), field("up", &[32, 3])];
    let nothing = up.zeros_like().unwrap();
    let fused = Tensor::cat(&[&nothing, &up, &nothing], 0).unwrap();
    let lora = |name: &str, down_name: String, up_name: String, up: Tensor| {
        save(&HashMap::from([(down_name, down.clone()), (up_name, up)]), &place, name)
    };
    let peft = "transformer.layers.1.attention.to_k";
    let peft = lora(
        "peft.safetensors",
        format!("{peft}.lora_A.weight"),
        format!("{peft}.lora_B.weight"),
        up.clone(),
    );
    let comfy = "diffusion_model.layers.1.attention.qkv";
    let comfy = lora(
        "comfy.safetensors",
        format!("{comfy}.lora_A.weight"),
        format!("{comfy}.lora_B.weight"),
        fused.clone(),
    );
    let kohya = "lora_unet_layers_1_attention_qkv";
    let kohya = lora(
        "kohya.safetensors",
        format!("{kohya}.lora_down.weight"),
        format!("{kohya}.lora_up.weight"),
        fused,
    );
    let with = |path: &PathBuf| {
        let files = open(folder.path()).unwrap().with_lora(path, 0.5).unwrap();
        assert!(files.notes().iter().all(|note| !note.contains("left out")), "{:?}", files.notes());
        prediction(&files)
    };
    let changed = with(&peft);
    assert!(largest_error(&changed, &plain) > 1e-3);
    assert_eq!(bits(&with(&comfy)), bits(&changed));
    assert_eq!(bits(&with(&kohya)), bits(&changed));
}
