//! Stable Diffusion 3 in every form: a folder, a file with the original names and with text encoders, GGUF of the
//! transformer alone, our own GGUF, and LoRAs in both namings. The fixtures are made by
//! `tests/make_fixtures/make_sd3_method_fixture.py`, which brings the original names back with diffusers' own converter.

use std::{collections::HashMap, fs, ops::ControlFlow, path::Path};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::{
    model::text::{TextEncoder, TextEncoding},
    pipeline::Engine,
    weights::{ModelFiles, Part, QuantType, WeightsError},
};
use tempfile::TempDir;

use crate::common::{
    drawn::field,
    fixture,
    models::{conditioning, denoiser, open, predict},
    sd3::{remove_t5, write_folder},
    tensors::{bits, largest_error},
};

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    write_folder(folder.path());
    folder
}

/// A prediction of the transformer.
fn prediction(files: &ModelFiles) -> Tensor {
    let model = denoiser(files);
    let context = field("context", &[2, 9, 40]);
    let pooled = field("pooled", &[2, 26]);
    let conditions = conditioning(&model, &context, Some(&pooled), None).unwrap();
    predict(&model, &field("sample", &[2, 12, 8, 8]), 640.0, &conditions)
}

/// The tensors of the file with the original names.
fn original() -> HashMap<String, Tensor> {
    safetensors::load(fixture("sd3/model/original.safetensors"), &Device::Cpu).unwrap()
}

fn save(tensors: &HashMap<String, Tensor>, place: &TempDir, name: &str) -> std::path::PathBuf {
    let path = place.path().join(name);
    safetensors::save(tensors, &path).unwrap();
    path
}

fn config(files: &ModelFiles, part: Part) -> serde_json::Value {
    files.component(part, &Device::Cpu, DType::F32).unwrap().config
}

/// What the text encoder of this index makes of a few tokens. (The vocabulary that files do without is the real one, and
/// these encoders have another; nor do they have its heads, which `described` knows.)
fn encoded(files: &ModelFiles, described: &ModelFiles, index: usize) -> TextEncoding {
    let part = files.component(Part::TextEncoder(index), &Device::Cpu, DType::F32).unwrap();
    let config = config(described, Part::TextEncoder(index));
    for field in ["vocab_size", "hidden_size", "intermediate_size", "projection_dim", "hidden_act"]
    {
        assert_eq!(part.config[field], config[field], "{field}");
    }
    let encoder = TextEncoder::load(&part.class, &config, &[], &part.params).unwrap();
    encoder.encode(&[vec![557, 3, 4, 90, 558]], None).unwrap()
}

#[test]
fn a_file_with_the_original_names_is_the_model_of_the_folder() {
    let (place, whole) = (TempDir::new().unwrap(), folder());
    remove_t5(whole.path());
    let (single, whole) =
        (open(&save(&original(), &place, "anything")).unwrap(), open(whole.path()).unwrap());
    assert_eq!(bits(&prediction(&single)), bits(&prediction(&whole)));
    let [ours, theirs] = [&single, &whole].map(|files| config(files, Part::Denoiser));
    for (field, value) in theirs.as_object().unwrap() {
        // No file says for which size its model was trained.
        if !field.starts_with('_') && field != "sample_size" {
            assert_eq!(&ours[field], value, "{field}");
        }
    }
    for index in 0..2 {
        let [ours, theirs] = [&single, &whole].map(|files| encoded(files, &whole, index));
        // The folder's encoders are f32, the file's f16.
        assert!(largest_error(&ours.last, theirs.last.tensor().unwrap()) <= 5e-3);
        let pooled = theirs.pooled.unwrap();
        assert!(largest_error(&ours.pooled.unwrap(), pooled.tensor().unwrap()) <= 5e-3);
    }
    assert!(single.notes().iter().any(|note| note.contains("without T5")), "{:?}", single.notes());
    assert_eq!(single.scheduler().unwrap()["_class_name"], "FlowMatchEulerDiscreteScheduler");
    let missing = single.check_parts().unwrap_err().to_string();
    assert!(missing.contains("the VAE is missing"), "{missing}");
}

#[test]
fn a_projection_that_the_file_leaves_out_is_the_identity() {
    let place = TempDir::new().unwrap();
    let projection = "text_encoders.clip_l.transformer.text_projection.weight";
    let mut tensors = original();
    let width = tensors[projection].dim(1).unwrap();
    tensors.insert(projection.to_owned(), Tensor::eye(width, DType::F16, &Device::Cpu).unwrap());
    // As wide as it is tall, so that leaving it out is the same.
    let pooled = |tensors: &HashMap<String, Tensor>, name: &str| {
        let files = open(&save(tensors, &place, name)).unwrap();
        encoded(&files, &files, 0).pooled.unwrap()
    };
    let own = pooled(&tensors, "own");
    tensors.remove(projection);
    assert_eq!(bits(&pooled(&tensors, "none")), bits(&own));
}

#[test]
fn the_transformer_of_a_gguf_file_takes_the_place_of_a_models_own() {
    let whole = folder();
    let files = open(whole.path()).unwrap();
    let expected = prediction(&files);
    let file = fixture("sd3/model/transformer.gguf");
    let replaced = open(whole.path()).unwrap().with_denoiser(&file).unwrap();
    assert_eq!(replaced.notes(), files.notes());
    let error = largest_error(&prediction(&replaced), &expected);
    assert!((1e-4..3e-2).contains(&error), "q8_0: {error}");
    // Kept as it is stored, swapped halves included, it computes the same.
    let kept = largest_error(&prediction(&replaced.keep_above(0)), &expected);
    assert!((kept - error).abs() < 1e-3, "{kept} {error}");
    let alone = open(&file).unwrap_err().to_string();
    assert!(alone.ends_with("use it as the transformer of a whole model"), "{alone}");
}

#[test]
fn a_file_of_the_transformer_alone_is_named_for_what_it_is() {
    let place = TempDir::new().unwrap();
    let mut tensors = original();
    tensors.retain(|name, _| name.starts_with("model.diffusion_model."));
    let path = save(&tensors, &place, "alone.safetensors");
    let alone = open(&path).unwrap_err().to_string();
    assert!(
        alone.ends_with(
            "a transformer without text encoders; use it as the transformer of a whole model"
        ),
        "{alone}"
    );
    let whole = folder();
    let replaced = open(whole.path()).unwrap().with_denoiser(&path).unwrap();
    assert_eq!(bits(&prediction(&replaced)), bits(&prediction(&open(whole.path()).unwrap())));
    // One encoder is not enough, and a table of positions that is no square is none.
    let mut one = original();
    one.retain(|name, _| !name.starts_with("text_encoders.clip_g."));
    let error = open(&save(&one, &place, "one.safetensors")).unwrap_err().to_string();
    assert!(error.contains("clip_g") && error.ends_with("is missing"), "{error}");
    let mut table = original();
    let name = "model.diffusion_model.pos_embed";
    table.insert(name.to_owned(), table[name].narrow(1, 0, 255).unwrap());
    let error = open(&save(&table, &place, "table.safetensors")).unwrap_err().to_string();
    assert!(error.contains("no square"), "{error}");
}

#[test]
fn a_model_written_into_one_file_and_read_again_is_the_same() {
    let (place, whole) = (TempDir::new().unwrap(), folder());
    let files = open(whole.path()).unwrap();
    let output = place.path().join("whole.gguf");
    let mut go_on = |_, _| ControlFlow::Continue(());
    files.quantize(QuantType::F16, &output, &mut go_on).unwrap();
    let again = open(&output).unwrap();
    again.check_parts().unwrap();
    assert_eq!(bits(&prediction(&again)), bits(&prediction(&files)));
    let text = |files: &ModelFiles| {
        let text = files.clone().quantized(QuantType::F16).text(&Device::Cpu, DType::F32).unwrap();
        text.encode(&["wet cobblestones, 35mm"]).unwrap().context
    };
    assert_eq!(bits(&text(&again)), bits(&text(&files)));
    assert!(Engine::load(&again, &Device::Cpu).is_ok());
    files.quantize(QuantType::Q8_0, &output, &mut go_on).unwrap();
    let error = largest_error(&prediction(&open(&output).unwrap()), &prediction(&files));
    assert!((1e-4..3e-2).contains(&error), "{error}");
}

/// A LoRA's file with these modules: name, rows, columns. `up` is made by name, `down` is the same for all.
fn lora(
    place: &TempDir,
    name: &str,
    modules: Vec<(&str, [&str; 2], Tensor, Tensor)>,
) -> std::path::PathBuf {
    let tensors = modules.into_iter().flat_map(|(module, [down, up], a, b)| {
        [(format!("{module}.{down}.weight"), a), (format!("{module}.{up}.weight"), b)]
    });
    save(&tensors.collect(), place, name)
}

#[test]
fn a_lora_in_both_namings_changes_the_same_weights() {
    let (place, whole) = (TempDir::new().unwrap(), folder());
    let plain = prediction(&open(whole.path()).unwrap());
    let [down, up] = [field("down", &[3, 32]), field("up", &[32, 3])];
    let [mod_down, mod_up] = [field("mod.down", &[2, 32]), field("mod.up", &[64, 2])];
    let peft = lora(
        &place,
        "peft.safetensors",
        vec![
            (
                "transformer.transformer_blocks.0.attn.to_k",
                ["lora_A", "lora_B"],
                down.clone(),
                up.clone(),
            ),
            ("transformer.norm_out.linear", ["lora_A", "lora_B"], mod_down.clone(), mod_up.clone()),
        ],
    );
    let nothing = up.zeros_like().unwrap();
    let fused = Tensor::cat(&[&nothing, &up, &nothing], 0).unwrap();
    let halves = [mod_up.narrow(0, 32, 32).unwrap(), mod_up.narrow(0, 0, 32).unwrap()];
    let swapped = Tensor::cat(&halves, 0).unwrap();
    let kohya = lora(
        &place,
        "kohya.safetensors",
        vec![
            ("lora_unet_joint_blocks_0_x_block_attn_qkv", ["lora_down", "lora_up"], down, fused),
            (
                "lora_unet_final_layer_adaLN_modulation_1",
                ["lora_down", "lora_up"],
                mod_down,
                swapped,
            ),
        ],
    );
    let with = |path: &Path| {
        let files = open(whole.path()).unwrap().with_lora(path, 0.5).unwrap();
        assert!(files.notes().iter().all(|note| !note.contains("left out")), "{:?}", files.notes());
        prediction(&files)
    };
    let changed = with(&peft);
    assert!(largest_error(&changed, &plain) > 1e-2);
    assert_eq!(bits(&with(&kohya)), bits(&changed));
}

#[test]
fn t5_in_a_file_needs_its_vocabulary_beside_it() {
    let place = TempDir::new().unwrap();
    let mut tensors = original();
    let t5 = fixture("t5/pipelines/text_encoder_3/model.safetensors");
    for (name, tensor) in safetensors::load(t5, &Device::Cpu).unwrap() {
        tensors.insert(format!("text_encoders.t5xxl.transformer.{name}"), tensor);
    }
    let path = save(&tensors, &place, "whole.safetensors");
    let files = open(&path).unwrap().with_vae(&fixture("sd3/model/vae")).unwrap();
    let Err(WeightsError::MissingPart { part, file, .. }) = files.check_parts() else {
        panic!("a vocabulary out of nothing")
    };
    assert!(part.contains("T5") && file.contains("spiece.model"), "{part} {file}");
    fs::copy(fixture("t5/json/tokenizer.json"), place.path().join("tokenizer.json")).unwrap();
    files.check_parts().unwrap();
    let whole = folder();
    let theirs = open(whole.path()).unwrap();
    let [ours, theirs] = [&files, &theirs].map(|files| {
        let part = files.component(Part::TextEncoder(2), &Device::Cpu, DType::F32).unwrap();
        let encoder = TextEncoder::load(&part.class, &part.config, &[], &part.params).unwrap();
        encoder.encode(&[vec![5, 9, 300, 1]], None).unwrap().last
    });
    assert_eq!(bits(&ours), bits(&theirs));
}
