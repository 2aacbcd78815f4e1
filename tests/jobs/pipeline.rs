//! The whole program against diffusers' own img2img pipelines, of SDXL and of SD 1.5, on small random models
//! (`tests/make_fixtures/make_pipeline_fixture.py`): a picture that is one region and one VAE tile, without priors and
//! colour fix.

use std::{collections::BTreeMap, fs};

use candle_core::{Device, safetensors};
use serde::Deserialize;

use crate::common::{
    Shell, copy_folder, fixture, stderr,
    tensors::{flat, largest_difference},
};

/// The picture has 16 bits, which alone are 0.8e-5; the rest is f32 on both sides.
const TOLERANCE: f32 = 2e-5;

/// A job of the fixture.
#[derive(Deserialize)]
struct Case {
    model: String,
    options: Vec<String>,
}

#[test]
fn the_whole_program_equals_diffusers_img2img_pipelines() {
    let cases: BTreeMap<String, Case> =
        serde_json::from_slice(&fs::read(fixture("pipeline/cases.json")).unwrap()).unwrap();
    let expected =
        safetensors::load(fixture("pipeline/expected.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(cases.len(), expected.len());
    let shell = Shell::new();
    fs::copy(fixture("pipeline/in.png"), shell.path("in.png")).unwrap();
    let errors: Vec<(&String, f32)> = cases
        .iter()
        .map(|(name, case)| {
            let model = shell.path(&case.model);
            if !model.exists() {
                copy_folder(&fixture("img2img/model"), &model);
                for part in ["unet", "vae"] {
                    fs::remove_dir_all(model.join(part)).unwrap();
                }
                copy_folder(&fixture("pipeline").join(&case.model), &model);
            }
            let output = shell
                .command(
                    "in.png -o out.png --device cpu --fresh --captioner none --color-fix none \
                     --gsp 0 --rap 0 --rsp 0",
                )
                .arg("--model")
                .arg(&model)
                .args(&case.options)
                .output()
                .unwrap();
            assert!(output.status.success(), "{name}: {}", stderr(&output));
            let picture = pictures::open(shell.path("out.png"));
            let picture = picture.as_rgb16().expect("a 16-bit input gives a 16-bit output");
            let ours: Vec<f32> = picture.iter().map(|&value| f32::from(value) / 65535.0).collect();
            (name, largest_difference(&ours, &flat(&expected[name])))
        })
        .collect();
    assert!(errors.iter().all(|(_, error)| *error <= TOLERANCE), "{errors:?}");
}
