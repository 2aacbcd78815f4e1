//! UNets of SDXL with fewer transformers, SSD-1B and Segmind Vega, from a folder and from files with the original names
//! (fixtures by `tests/make_fixtures/make_unet_fixtures.py`), and inpainting UNets, which are refused.

use std::{fs, path::Path};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::{
    model::denoiser::Prior,
    pipeline::Engine,
    weights::{ModelFiles, Part},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{
    copy_folder, fixture,
    models::{denoiser, open},
    tensors::{bits, largest_error},
    unet::UNetCase,
};

/// A folder with a UNet and what SDXL's text encoders are beside it; it has no weights besides.
fn folder(case: &UNetCase) -> TempDir {
    let folder = TempDir::new().unwrap();
    let write = |file: &str, value: &Value| {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value.to_string()).unwrap();
    };
    let index = json!({
        "_class_name": "StableDiffusionXLPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    });
    write("model_index.json", &index);
    write("text_encoder/config.json", &json!({}));
    write("text_encoder_2/config.json", &json!({"projection_dim": 20}));
    write("unet/config.json", &case.description["config"]);
    save(&case.tensors(), &folder.path().join("unet/diffusion_pytorch_model.safetensors"));
    folder
}

fn save(tensors: &std::collections::HashMap<String, Tensor>, path: &Path) {
    safetensors::save(tensors, path).unwrap();
}

fn output(case: &UNetCase, files: &ModelFiles) -> Tensor {
    let unet = denoiser(files);
    case.run(&unet, &case.conditions(&unet), Prior::None).unwrap()
}

#[test]
fn distilled_unets_compute_what_diffusers_computes_from_every_form() {
    for name in ["ssd_1b", "vega"] {
        let case = UNetCase::read(name);
        let folder = folder(&case);
        let own = open(folder.path()).unwrap();
        let plain = output(&case, &own);
        let error = largest_error(&plain, &case.expected["output"]);
        println!("{name}: {error:e}");
        assert!(error <= 1e-4, "{name}: {error}");
        for (form, tensors) in [
            ("checkpoint", case.original("model.diffusion_model.")),
            ("alone", case.original("")),
            ("diffusers", case.tensors()),
        ] {
            let path = folder.path().join(format!("{form}.safetensors"));
            save(&tensors, &path);
            let files = open(folder.path()).unwrap().with_denoiser(&path).unwrap();
            assert_eq!(files.notes(), Vec::<String>::new(), "{name} {form}");
            assert_eq!(bits(&output(&case, &files)), bits(&plain), "{name} {form}");
            let config = files.component(Part::Denoiser, &Device::Cpu, DType::F32).unwrap().config;
            assert_eq!(config["mid_block_type"], "UNetMidBlock2D", "{name} {form}");
            let up = &config["reverse_transformer_layers_per_block"];
            let expected = match name {
                "ssd_1b" => json!([[4, 4, 10], [2, 1, 1], 1]),
                _ => Value::Null,
            };
            assert_eq!(up, &expected, "{name} {form}");
        }
    }
}

#[test]
fn inpainting_unets_are_refused_by_name_from_a_folder_and_from_a_file() {
    let place = TempDir::new().unwrap();
    let model = place.path().join("model");
    copy_folder(&fixture("img2img/model"), &model);
    // As the inpainting models have it: the latent, the mask, and the masked picture's latent.
    let path = model.join("unet/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["in_channels"] = 9.into();
    fs::write(&path, config.to_string()).unwrap();
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    let mut tensors = safetensors::load(&weights, &Device::Cpu).unwrap();
    let kernel = tensors["conv_in.weight"].dims4().unwrap();
    let wide = Tensor::zeros((kernel.0, 9, kernel.2, kernel.3), DType::F16, &Device::Cpu).unwrap();
    tensors.insert("conv_in.weight".to_owned(), wide);
    save(&tensors, &weights);
    let error = Engine::load(&open(&model).unwrap(), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("inpainting") && error.contains("mask"), "{error}");
    // And from a file, whose shapes say so.
    let case = UNetCase::read("vega");
    let mut tensors = case.original("");
    let wide = Tensor::zeros((32, 9, 3, 3), DType::F32, &Device::Cpu).unwrap();
    tensors.insert("input_blocks.0.0.weight".to_owned(), wide);
    let file = place.path().join("file.safetensors");
    save(&tensors, &file);
    let files = open(folder(&case).path()).unwrap().with_denoiser(&file).unwrap();
    let error = denoiser(&files).shape().unwrap_err().to_string();
    assert!(error.contains("inpainting") && error.contains("mask"), "{error}");
}
