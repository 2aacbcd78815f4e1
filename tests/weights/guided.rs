//! A latent consistency model, which is given the strength of guidance, through the whole program; and a manifest that
//! names another target of the prediction.

use std::{fs, path::Path};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::common::{Shell, copy_folder, fixture, stderr};

/// A model of the size of a toy whose UNet takes 16 features of the guidance.
fn make(folder: &Path) {
    copy_folder(&fixture("img2img/model"), folder);
    let config_file = folder.join("unet/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&config_file).unwrap()).unwrap();
    config["time_cond_proj_dim"] = 16.into();
    fs::write(&config_file, config.to_string()).unwrap();
    let file = folder.join("unet/diffusion_pytorch_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let features = config["block_out_channels"][0].as_u64().unwrap() as usize;
    let projection = Tensor::arange(0f32, (16 * features) as f32, &Device::Cpu).unwrap();
    let projection = (projection.reshape((features, 16)).unwrap() * 0.37).unwrap().sin().unwrap();
    let name = "time_embedding.cond_proj.weight".to_owned();
    tensors.insert(name, projection.to_dtype(DType::F16).unwrap());
    candle_core::safetensors::save(&tensors, &file).unwrap();
}

/// Recommends how a folder's model is run.
fn recommend(folder: &Path, how: Value) {
    let file = folder.join("model_index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    index["cupscale"] = how;
    fs::write(&file, index.to_string()).unwrap();
}

#[test]
fn guidance_is_a_number_that_the_model_is_given() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 24);
    make(&shell.path("model"));
    let own = json!({"sampler": "lcm", "steps": 4, "denoise_steps": 2, "guidance": 8.0});
    recommend(&shell.path("model"), own);
    let base = "in.png --scale 2 --model model";
    shell.succeed(&format!("{base} -o eight.png"));
    shell.succeed(&format!("{base} -o same.png --guidance 8"));
    shell.succeed(&format!("{base} -o two.png --guidance 2"));
    assert_eq!(shell.bytes("eight.png"), shell.bytes("same.png"));
    assert_ne!(shell.bytes("eight.png"), shell.bytes("two.png"));
    let plan = shell.run(&format!("plan {base}"));
    let text = format!("{}{}", String::from_utf8_lossy(&plan.stdout), stderr(&plan));
    assert!(text.contains("guidance      8, given to the model"), "{text}");
    let noted = shell.run(&format!("{base} -o noted.png --negative-prompt blurry"));
    assert!(stderr(&noted).contains("given its guidance"), "{}", stderr(&noted));
    let record = String::from_utf8(shell.succeed("info two.png --json")).unwrap();
    let record: String = record.split_whitespace().collect();
    assert!(record.contains("\"guidance\":2.0"), "{record}");
}

#[test]
fn a_recommendation_may_name_another_target_of_the_prediction() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 24);
    let folder = shell.path("model");
    copy_folder(&fixture("img2img/model"), &folder);
    let run = |output: &str| {
        shell.succeed(&format!("in.png --scale 2 --model model --sampler euler -o {output}"));
        shell.bytes(output)
    };
    let noise = run("noise.png");
    recommend(&folder, json!({"prediction_type": "sample"}));
    assert_ne!(run("sample.png"), noise);
    recommend(&folder, json!({"prediction_type": "epsilon"}));
    assert_eq!(run("epsilon.png"), noise);
    recommend(&folder, json!({"prediction_type": "x1"}));
    let line = shell.fail("in.png --scale 2 --model model -o out.png", 1);
    assert!(line.contains("`cupscale`") && line.contains("x1"), "{line}");
}
