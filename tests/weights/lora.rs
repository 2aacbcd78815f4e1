//! LoRAs of every naming against diffusers and peft (fixtures by
//! `tests/make_fixtures/make_lora_fixtures.py`), and the files that are refused.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use cupscale::weights::{ModelFiles, Part, WeightsError};
use serde_json::Value;

use crate::common::{
    Shell, fixture,
    models::{conditioning, denoiser, open, predict},
    stderr,
    tensors::largest_error,
};

const PROMPT: &str = "a photo of the old harbour at dusk, blue sky!";
const TIMESTEP: f64 = 499.0;

fn lora(name: &str) -> PathBuf {
    fixture(&format!("lora/{name}.safetensors"))
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(lora(name), &Device::Cpu).unwrap()
}

pub fn sdxl() -> ModelFiles {
    open(&fixture("img2img/model")).unwrap()
}

fn sd15() -> ModelFiles {
    open(&fixture("lora/sd15")).unwrap()
}

/// The files and scales of a case, over this model.
fn with_case(case: &str, model: ModelFiles) -> ModelFiles {
    let cases: Value =
        serde_json::from_slice(&fs::read(fixture("lora/cases.json")).unwrap()).unwrap();
    cases[case].as_array().unwrap().iter().fold(model, |model, pair| {
        let path = lora(pair[0].as_str().unwrap());
        model.with_lora(&path, pair[1].as_f64().unwrap()).unwrap()
    })
}

pub fn weight(model: &ModelFiles, name: &str, shape: &[usize], dtype: DType) -> Tensor {
    let (part, name) = name.split_once('/').unwrap();
    let part = match part {
        "unet" => Part::Denoiser,
        "vae" => Part::Vae,
        "text_encoder" => Part::TextEncoder(0),
        "text_encoder_2" => Part::TextEncoder(1),
        other => panic!("{other} is no part"),
    };
    model.component(part, &Device::Cpu, dtype).unwrap().params.get(shape, name).unwrap()
}

/// Checks every fused weight of the expectation, in f32.
fn check_weights(case: &str, model: &ModelFiles) {
    let expected = tensors(&format!("expected_{case}"));
    let weights: Vec<_> = expected.iter().filter(|(name, _)| name.contains('/')).collect();
    assert!(!weights.is_empty());
    for (name, expected) in weights {
        let ours = weight(model, name, expected.dims(), DType::F32);
        let error = largest_error(&ours, expected);
        assert!(error <= 1e-6, "{case}, {name}: {error:.2e}");
    }
}

/// Checks the text conditioning and one call of the UNet with it.
fn check_results(case: &str, model: &ModelFiles) {
    let (expected, input) = (tensors(&format!("expected_{case}")), tensors("input"));
    let encoded = model.text(&Device::Cpu, DType::F32).unwrap().encode(&[PROMPT]).unwrap();
    let context = encoded.context.into_tensor().unwrap();
    let pooled = encoded.pooled.unwrap().into_tensor().unwrap();
    let denoiser = denoiser(model);
    let conditioning =
        conditioning(&denoiser, &context, Some(&pooled), Some(&input["time_ids"])).unwrap();
    let eps = predict(&denoiser, &input["sample"], TIMESTEP, &conditioning);
    for (name, ours) in [("context", &context), ("pooled", &pooled), ("eps", &eps)] {
        let error = largest_error(ours, &expected[name]);
        assert!(error <= 1e-4, "{case}, {name}: {error:.2e}");
    }
}

fn equals_diffusers(case: &str) {
    let model = with_case(case, sdxl());
    assert_eq!(model.notes(), Vec::<String>::new());
    check_weights(case, &model);
    check_results(case, &model);
}

#[test]
fn the_keys_of_hyper_sdxl_equal_diffusers() {
    equals_diffusers("hyper");
}

#[test]
fn ldm_names_with_a_rank_for_each_layer_equal_diffusers() {
    equals_diffusers("ldm");
}

#[test]
fn modules_named_as_in_a_whole_checkpoint_are_no_full_weight_difference() {
    let rename = |key: &str| {
        let key = key.replace("lora_unet_", "model.diffusion_model.");
        key.replace("lora_down", "lora_A").replace("lora_up", "lora_B")
    };
    let renamed: HashMap<_, _> =
        tensors("ldm").iter().map(|(key, tensor)| (rename(key), tensor.clone())).collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ldm.safetensors");
    candle_core::safetensors::save(&renamed, &file).unwrap();
    check_weights("ldm", &sdxl().with_lora(&file, 0.7).unwrap());
}

#[test]
fn a_file_of_diffusers_with_its_metadata_equals_diffusers() {
    equals_diffusers("pipeline");
}

#[test]
fn the_names_before_peft_equal_diffusers() {
    equals_diffusers("old");
}

#[test]
fn two_at_once_add_up_as_in_diffusers() {
    equals_diffusers("two");
    let model = with_case("two", sdxl());
    let loras: Vec<_> = model.loras().collect();
    let expected = [("hyper.safetensors", &0.8.into()), ("ldm.safetensors", &(-0.4).into())];
    assert_eq!(loras, expected);
}

#[test]
fn an_adapter_of_peft_with_its_configuration_equals_peft() {
    check_weights("adapter", &with_case("adapter", sdxl()));
}

#[test]
fn a_folder_as_peft_or_diffusers_save_it_is_the_lora_in_it() {
    let model = sdxl().with_lora(&fixture("lora/adapter"), 1.0).unwrap();
    assert_eq!(model.notes(), Vec::<String>::new());
    check_weights("adapter", &model);
    let dir = tempfile::tempdir().unwrap();
    fs::copy(lora("hyper"), dir.path().join("pytorch_lora_weights.safetensors")).unwrap();
    check_weights("hyper", &sdxl().with_lora(dir.path(), 1.0).unwrap());
}

#[test]
fn a_tucker_core_equals_its_three_convolutions() {
    check_weights("tucker", &with_case("tucker", sdxl()));
}

#[test]
fn stable_diffusion_1_with_projections_as_convolutions_equals_the_definition() {
    check_weights("sd15", &with_case("sd15", sd15()));
}

#[test]
fn the_expectations_are_far_from_the_plain_model() {
    for case in ["hyper", "ldm", "pipeline", "old", "two", "adapter", "tucker", "sd15"] {
        let model = if case == "sd15" { sd15() } else { sdxl() };
        let expected = tensors(&format!("expected_{case}"));
        let weights = expected.iter().filter(|(name, _)| name.contains('/'));
        let errors = weights.map(|(name, expected)| {
            largest_error(&weight(&model, name, expected.dims(), DType::F32), expected)
        });
        assert!(errors.fold(0.0, f64::max) > 0.05, "{case}");
    }
}

#[test]
fn scale_0_is_the_plain_model_and_untouched_tensors_stay_as_they_are() {
    let (plain, zero) = (sdxl(), sdxl().with_lora(&lora("hyper"), 0.0).unwrap());
    let changed = sdxl().with_lora(&lora("hyper"), 1.0).unwrap();
    let bytes = |model: &ModelFiles, name: &str, shape: &[usize]| {
        let values = weight(model, name, shape, DType::F16).flatten_all().unwrap();
        values.to_vec1::<half::f16>().unwrap()
    };
    let (conv, name) = (&[8, 8, 3, 3][..], "unet/down_blocks.0.resnets.0.conv1.weight");
    assert_eq!(bytes(&plain, name, conv), bytes(&zero, name, conv));
    assert_ne!(bytes(&plain, name, conv), bytes(&changed, name, conv));
    // Hyper-SDXL leaves the first convolution alone.
    let name = "unet/conv_in.weight";
    assert_eq!(bytes(&plain, name, conv), bytes(&changed, name, conv));
}

#[test]
fn the_sum_is_rounded_once() {
    let model = with_case("two", sdxl());
    let (shape, name) = (&[8, 8, 3, 3][..], "unet/down_blocks.0.resnets.0.conv1.weight");
    let exact = weight(&model, name, shape, DType::F32);
    let rounded = weight(&model, name, shape, DType::F16);
    let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<half::f16>().unwrap();
    assert_eq!(flat(&rounded), flat(&exact.to_dtype(DType::F16).unwrap()));
}

/// A LoRA made from another: `edit` gets its tensors.
fn edited(
    name: &str,
    edit: impl FnOnce(&mut HashMap<String, Tensor>),
) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edited.safetensors");
    let mut tensors = tensors(name);
    edit(&mut tensors);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    (dir, path)
}

/// The one line that a LoRA is refused with, less the file's name.
#[track_caller]
pub fn refusal(model: ModelFiles, path: &Path, scale: f64) -> String {
    let text = model.with_lora(path, scale).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    let prefix = format!("{}: ", path.display());
    text.strip_prefix(&prefix).unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[test]
fn a_lora_of_another_family_is_told_by_the_width_of_its_text() {
    let message = refusal(sdxl(), &lora("sd15"), 1.0);
    assert_eq!(message, "made for one with 12-wide text, this model is one with 20-wide text");
    let message = refusal(sd15(), &lora("hyper"), 1.0);
    assert_eq!(message, "made for one with 20-wide text, this model is one with 12-wide text");
    for (width, family) in [
        (768, "Stable Diffusion 1.x (768-wide text)"),
        (1024, "Stable Diffusion 2.x (1024-wide text)"),
        (2048, "SDXL (2048-wide text)"),
    ] {
        for key in [
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
            "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k.lora_down.weight",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight",
        ] {
            let (_dir, path) = edited("tucker", |tensors| {
                let down = Tensor::zeros((2, width), DType::F32, &Device::Cpu).unwrap();
                tensors.insert(key.to_owned(), down);
            });
            let message = refusal(sdxl(), &path, 1.0);
            let expected = format!("made for {family}, this model is one with 20-wide text");
            assert_eq!(message, expected);
        }
    }
}

#[test]
fn modules_that_the_model_lacks_are_an_error_if_all_and_a_note_if_some() {
    let rename = |tensors: &mut HashMap<String, Tensor>, all: bool| {
        for (key, tensor) in tensors.clone() {
            if all || key.contains("mid_block_attentions_0_proj_in") {
                tensors.remove(&key);
                tensors.insert(key.replace("lora_unet_", "lora_unet_no_such_"), tensor);
            }
        }
    };
    let (_dir, path) = edited("hyper", |tensors| rename(tensors, true));
    let message = refusal(sdxl(), &path, 1.0);
    let expected = "none of its 119 modules is in this model (the first: `lora_unet_no_such_down_blocks_0_downsamplers_0_conv`)";
    assert_eq!(message, expected);
    let (_dir, path) = edited("hyper", |tensors| rename(tensors, false));
    let model = sdxl().with_lora(&path, 1.0).unwrap();
    let expected = format!(
        "{}: 1 of its 119 modules are not in this model and are left out (the first: `lora_unet_no_such_mid_block_attentions_0_proj_in`)",
        path.display()
    );
    assert_eq!(model.notes(), [expected]);
}

#[test]
fn tensors_that_belong_to_no_lora_are_noted() {
    let (_dir, path) = edited("hyper", |tensors| {
        let tensor = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
        tensors.insert("bundle_emb.harbour.string_to_param.*".to_owned(), tensor);
    });
    let model = sdxl().with_lora(&path, 1.0).unwrap();
    let expected = format!(
        "{}: 1 of its tensors are no part of a LoRA and are left out (the first: `bundle_emb.harbour.string_to_param.*`)",
        path.display()
    );
    assert_eq!(model.notes(), [expected]);
    check_weights("hyper", &model);
}

#[test]
fn an_adapter_without_its_configuration_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter_model.safetensors");
    fs::copy(lora("adapter/adapter_model"), &path).unwrap();
    let notes = sdxl().with_lora(&path, 1.0).unwrap().notes();
    let expected = format!(
        "{}: no adapter_config.json beside it, so alpha is taken to be the rank, and OFT to be exact",
        path.display()
    );
    assert_eq!(notes, [expected]);
    for (text, reason) in [
        ("{", "not valid JSON"),
        ("{\"peft_type\": \"VERA\"}", "VERA is not supported (LORA, LOHA, LOKR, OFT are)"),
    ] {
        let config = dir.path().join("adapter_config.json");
        fs::write(&config, text).unwrap();
        let message = sdxl().with_lora(&path, 1.0).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{}: {reason}", config.display())), "{message}");
    }
    // What nobody has written is not read to its end.
    let config = fs::File::create(dir.path().join("adapter_config.json")).unwrap();
    config.set_len(1 << 40).unwrap();
    let message = sdxl().with_lora(&path, 1.0).unwrap_err().to_string();
    assert!(message.contains("longer than 16.0 MiB"), "{message}");
}

#[test]
fn a_pair_that_is_not_whole_names_what_is_missing() {
    let module = "lora_unet_mid_block_attentions_0_proj_in";
    for (end, missing) in
        [("lora_up.weight", "lora_up (lora_B)"), ("lora_down.weight", "lora_down (lora_A)")]
    {
        let (_dir, path) = edited("hyper", |tensors| {
            tensors.remove(&format!("{module}.{end}")).unwrap();
        });
        assert_eq!(refusal(sdxl(), &path, 1.0), format!("`{module}` has no {missing}"));
    }
}

#[test]
fn matrices_that_do_not_fit_are_refused() {
    let module = "lora_unet_mid_block_attentions_0_proj_in";
    let replace = |end: &str, shape: &[usize]| {
        let key = format!("{module}.{end}.weight");
        edited("hyper", |tensors| {
            tensors.insert(key, Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap());
        })
    };
    let (_dir, path) = replace("lora_down", &[2, 17]);
    let expected = format!(
        "`{module}.lora_down.weight`: an up of [16, 2] and a down of [2, 17] do not make `mid_block.attentions.0.proj_in.weight` of [16, 16]"
    );
    assert_eq!(refusal(sdxl(), &path, 1.0), expected);
    let (_dir, path) = replace("lora_up", &[16, 3]);
    assert!(refusal(sdxl(), &path, 1.0).contains("an up of [16, 3] and a down of [2, 16]"));
    let (_dir, path) = replace("lora_down", &[0, 16]);
    assert_eq!(refusal(sdxl(), &path, 1.0), format!("`{module}.lora_down.weight` has rank 0"));
}

#[test]
fn alpha_is_one_finite_number_of_any_type() {
    let key = "lora_unet_mid_block_attentions_0_proj_in.alpha";
    let replace = |alpha: Tensor| {
        edited("hyper", |tensors| {
            tensors.insert(key.to_owned(), alpha);
        })
    };
    let scalar = |value: f32| Tensor::new(value, &Device::Cpu).unwrap();
    for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let (_dir, path) = replace(scalar(value));
        assert_eq!(refusal(sdxl(), &path, 1.0), format!("`{key}` is {text}, not a finite number"));
    }
    let (_dir, path) = replace(Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap());
    assert_eq!(refusal(sdxl(), &path, 1.0), format!("`{key}` is not one number"));
    for dtype in [DType::F64, DType::BF16, DType::I64] {
        let (_dir, path) = replace(scalar(1.0).to_dtype(dtype).unwrap().reshape(1).unwrap());
        check_weights("hyper", &sdxl().with_lora(&path, 1.0).unwrap());
    }
}

#[test]
fn other_kinds_of_adapter_are_refused_by_name() {
    for (end, kind) in [
        ("vera_lambda_b", "VeRA"),
        ("boft_R", "peft's BOFT"),
        ("lora_E", "AdaLoRA"),
        ("oft_diag", "an early OFT, of which two forms have the same names"),
        ("lora_B.bias", "a LoRA with biases"),
    ] {
        let key = format!("lora_unet_mid_block_attentions_0_proj_in.{end}");
        let (_dir, path) = edited("hyper", |tensors| {
            tensors.insert(key.clone(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        });
        let expected = format!("`{key}` belongs to {kind}, which is not supported");
        assert_eq!(refusal(sdxl(), &path, 1.0), expected);
    }
    let unet = fixture("img2img/model/unet/diffusion_pytorch_model.safetensors");
    let expected = "not a LoRA: no pair of lora_down and lora_up (its first tensor: `add_embedding.linear_1.bias`)";
    assert_eq!(refusal(sdxl(), &unet, 1.0), expected);
}

#[test]
fn the_program_takes_loras_with_scales_and_prints_notes_unless_quiet() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 24);
    let model = fixture("img2img/model").display().to_string();
    let (whole, adapter) = (lora("hyper"), shell.path("adapter_model.safetensors"));
    fs::copy(lora("adapter/adapter_model"), &adapter).unwrap();
    let base = format!("in.png --scale 2 --model {model}");
    shell.succeed(&format!("{base} -o plain.png"));
    shell.succeed(&format!("{base} -o one.png --lora {}", whole.display()));
    let two = format!("{base} --lora {}:0.5 --lora {}:-0.2", whole.display(), adapter.display());
    let output = shell.run(&format!("{two} -o two.png"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("no adapter_config.json beside it"));
    let output = shell.run(&format!("{two} -o again.png --quiet"));
    assert_eq!((output.status.success(), stderr(&output)), (true, String::new()));
    assert_ne!(shell.bytes("plain.png"), shell.bytes("one.png"));
    assert_ne!(shell.bytes("one.png"), shell.bytes("two.png"));
    assert_eq!(shell.bytes("two.png"), shell.bytes("again.png"));
    let line = shell.fail(&format!("in.png --lora {}", whole.display()), 1);
    assert!(line.contains("made for one with 20-wide text, this model is"), "{line}");
}

#[test]
fn files_that_cannot_be_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["lora.pt", "lora.bin", "lora.ckpt"] {
        fs::write(path(name), "anything").unwrap();
        assert!(refusal(sdxl(), &path(name), 1.0).starts_with("pickled weights"));
    }
    for (name, bytes) in [
        ("zip.safetensors", &b"PK\x03\x04 and more"[..]),
        ("bare.safetensors", b"\x80\x02}q\x00(X\x00\x00\x00 a"),
    ] {
        fs::write(path(name), bytes).unwrap();
        assert!(refusal(sdxl(), &path(name), 1.0).starts_with("pickled weights"));
    }
    let whole = fs::read(lora("hyper")).unwrap();
    for len in [0, 7, 100, whole.len() - 1] {
        fs::write(path("cut.safetensors"), &whole[..len]).unwrap();
        let error = sdxl().with_lora(&path("cut.safetensors"), 1.0).unwrap_err();
        assert!(
            matches!(error, WeightsError::Safetensors { .. } | WeightsError::Read { .. }),
            "{error}"
        );
        refusal(sdxl(), &path("cut.safetensors"), 1.0);
    }
    assert!(matches!(
        sdxl().with_lora(&path("none.safetensors"), 1.0),
        Err(WeightsError::Read { .. })
    ));
    assert_eq!(
        refusal(sdxl(), dir.path(), 1.0),
        "a folder without pytorch_lora_weights.safetensors or adapter_model.safetensors; name the \
         safetensors file in it"
    );
    let none = Vec::<(String, Tensor)>::new();
    safetensors::serialize_to_file(none, None, &path("empty.safetensors")).unwrap();
    assert_eq!(refusal(sdxl(), &path("empty.safetensors"), 1.0), "not a LoRA: no tensors in it");
    assert_eq!(refusal(sdxl(), &lora("hyper"), f64::NAN), "the scale NaN is not a number");
}
