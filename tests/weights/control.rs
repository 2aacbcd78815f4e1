//! ControlNets in every form in which people have them: folders, and files with diffusers' names or with the original
//! ones, in several precisions, rounded as they are read; what each adds is held against diffusers (fixtures by
//! tests/make_fixtures/make_control_fixtures.py).

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::{
    model::denoiser::{ControlKind, ControlPicture},
    pipeline::Engine,
    weights::{ModelFiles, QuantType},
};
use serde_json::Value;

use crate::common::{
    control::{converted, drawn, of_tiny, write_folder, write_tiny},
    drawn::{field, sizes},
    fixture,
    models::{conditioning, open},
    pixart,
    tensors::relative_errors,
    tiny,
};

/// A ControlNet of the fixture: its description and its drawn tensors.
fn control(name: &str) -> (Value, HashMap<String, Tensor>) {
    let text = fs::read(fixture("control/files.json")).unwrap();
    let mut description: Value = serde_json::from_slice(&text).unwrap();
    let description = description[name].take();
    let tensors = drawn(&description["shapes"], &format!("{name}."));
    (description, tensors)
}

/// Distance of what the control of `files` adds to the middle from what diffusers' adds.
fn error(files: &ModelFiles, name: &str) -> f64 {
    let (description, _) = control(name);
    let input = |name: &str| {
        let shape = &description["inputs"][name];
        (!shape.is_null()).then(|| field(name, &sizes(shape)))
    };
    let last = |x: Tensor| x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
    let sample = last(input("sample").unwrap());
    let pixels = ((last(input("picture").unwrap()) + 1.0).unwrap() / 2.0).unwrap().into();
    // Any UNet with such conditions makes them.
    let denoiser = files.denoiser(&Device::Cpu, DType::F32).unwrap();
    let pooled = input("pooled").unwrap_or_else(|| field("pooled", &[1, 10]));
    let ids = Tensor::new(&[[16f32, 24.0, 0.0, 0.0, 16.0, 24.0]], &Device::Cpu).unwrap();
    let cond =
        conditioning(&denoiser, &input("context").unwrap(), Some(&pooled), Some(&ids)).unwrap();
    let control = &files.load_controls(&Device::Cpu, DType::F32).unwrap()[0];
    let picture = ControlPicture { pixels: &pixels, kind: ControlKind::Tile };
    let signal = control.forward(&(&sample).into(), 249.0, &cond, &picture, 1.0).unwrap();
    let expected = safetensors::load(fixture("control/files.safetensors"), &Device::Cpu).unwrap();
    relative_errors(signal.parts().1.tensor().unwrap(), &expected[name]).1
}

fn with(path: &Path) -> ModelFiles {
    open(&tiny()).unwrap().with_control(path, "control".to_owned()).unwrap()
}

/// The tensors under their original names, behind `prefix`.
fn original(
    description: &Value,
    tensors: &HashMap<String, Tensor>,
    prefix: &str,
) -> HashMap<String, Tensor> {
    let names = description["original"].as_object().unwrap();
    assert_eq!(names.len(), tensors.len());
    let stored = |(ours, theirs): (&String, &Value)| {
        (format!("{prefix}{}", theirs.as_str().unwrap()), tensors[ours].clone())
    };
    names.iter().map(stored).collect()
}

#[test]
fn every_form_of_a_control_adds_what_diffusers_adds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    for name in ["sd15", "sdxl", "union"] {
        let (description, tensors) = control(name);
        let whole = folder.path().join(name);
        write_folder(&description["config"], &tensors, &whole);
        assert!(error(&with(&whole), name) <= 1e-4, "{name}: folder");
        // A training's output folder has it in one of its own.
        let inside = folder.path().join(format!("{name}_in"));
        write_folder(&description["config"], &tensors, &inside.join("controlnet"));
        assert!(error(&with(&inside), name) <= 1e-4, "{name}: inner folder");
        for (dtype, bound) in [(DType::F32, 1e-4), (DType::F16, 5e-3), (DType::BF16, 3e-2)] {
            safetensors::save(&converted(&tensors, dtype), &path).unwrap();
            let files = with(&path);
            assert_eq!(files.notes(), Vec::<String>::new());
            let error = error(&files, name);
            println!("{name} {dtype:?}: {error:.1e}");
            assert!(error <= bound, "{name} {dtype:?}: {error:e}");
        }
    }
    let (description, tensors) = control("sd15");
    for prefix in ["control_model.", ""] {
        safetensors::save(&original(&description, &tensors, prefix), &path).unwrap();
        let files = with(&path);
        assert_eq!(files.notes(), Vec::<String>::new());
        assert!(error(&files, "sd15") <= 1e-4, "original names behind `{prefix}`");
    }
}

#[test]
fn a_control_is_rounded_with_the_model_and_what_it_does_not_use_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let (_, mut tensors) = control("sdxl");
    let extra = tensors["conv_in.bias"].clone();
    tensors.insert("controlnet_down_blocks.99.bias".to_owned(), extra);
    safetensors::save(&tensors, &path).unwrap();
    let files = with(&path);
    let notes = files.notes();
    assert!(notes.len() == 1 && notes[0].contains("controlnet_down_blocks.99.bias"), "{notes:?}");
    let exact = error(&files, "sdxl");
    let rounded = error(&with(&path).quantized(QuantType::Q8_0), "sdxl");
    assert!(exact <= 1e-4 && rounded > 1e-4 && rounded <= 3e-2, "{exact:e}, {rounded:e}");
    let (_, footprint) =
        files.without_values(|files| files.load_controls(&Device::Cpu, DType::F32)).unwrap();
    let count: usize = control("sdxl").1.values().map(Tensor::elem_count).sum();
    // Packed for the CPU's products.
    assert!((4 * count..5 * count).contains(&footprint.kept), "{footprint:?} for {count} weights");
}

#[test]
fn what_is_no_control_or_not_for_this_model_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let refused = |path: &Path| {
        open(&tiny()).unwrap().with_control(path, "a".to_owned()).unwrap_err().to_string()
    };
    let unet = fixture("img2img/model/unet/diffusion_pytorch_model.safetensors");
    assert!(refused(&unet).contains("no ControlNet in it: a UNet without text encoders"));
    let lora = fixture("lora/hyper.safetensors");
    assert!(refused(&lora).contains("no ControlNet in it: a LoRA"));
    assert!(refused(&folder.path().join("none")).contains("no such model folder or file"));
    assert!(refused(folder.path()).contains("the ControlNet is missing (config.json)"));
    fs::write(folder.path().join("a.pth"), b"PK\x03\x04 and more").unwrap();
    assert!(refused(&folder.path().join("a.pth")).contains("pickled weights"));
    let (_, tensors) = control("sd15");
    let mut missing = tensors.clone();
    missing.remove("controlnet_mid_block.bias").unwrap();
    safetensors::save(&missing, &path).unwrap();
    let unfit = |path: &Path| Engine::load(&with(path), &Device::Cpu).unwrap_err().to_string();
    assert!(unfit(&path).contains("controlnet_mid_block.bias"), "{}", unfit(&path));
    safetensors::save(&tensors, &path).unwrap();
    assert!(
        unfit(&path).contains("the ControlNet control: it takes 4 channels, the model's UNet 8")
    );

    // As a model, and with a model that has none.
    let error = open(&path).unwrap_err().to_string();
    assert!(error.contains("a ControlNet, not a model; use it beside a model"), "{error}");
    let fit = folder.path().join("fit");
    write_tiny("plain", &fit);
    let engine = Engine::load(&with(&fit), &Device::Cpu).unwrap();
    assert_eq!(engine.controls(), ["control"]);
    pixart::write_folder(&folder.path().join("pixart"));
    let transformer = open(&folder.path().join("pixart"))
        .unwrap()
        .with_control(&fit, "control".to_owned())
        .unwrap();
    let error = Engine::load(&transformer, &Device::Cpu).unwrap_err().to_string();
    assert!(
        error.contains("made for a UNet, and the model's denoiser is a transformer"),
        "{error}"
    );
    let (mut config, tensors) = of_tiny("plain");
    config["_class_name"] = "SD3ControlNetModel".into();
    write_folder(&config, &tensors, &fit);
    assert!(unfit(&fit).contains("`SD3ControlNetModel` is not supported (ControlNetModel, "));
}
