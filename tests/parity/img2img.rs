//! A whole 4-step img2img of one region against diffusers' modules, on a tiny SDXL-shaped model
//! with random weights (`tests/make_fixtures/make_img2img_fixture.py`), part by part. The program as a whole,
//! with regions and priors, is held against PyTorch in `tests/jobs/method.rs`.

use std::{collections::HashMap, path::PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::{
    model::unet::{Conditioning, Prior, UNet2DConditionModel, UNetConfig},
    sampler::{Denoise, Schedule, SchedulerConfig, Timesteps, plan},
    weights::{ModelFiles, ModelSource, Part},
};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/img2img");

fn folder(name: &str) -> PathBuf {
    PathBuf::from(FIXTURES).join(name)
}

fn expected(region: &str) -> HashMap<String, Tensor> {
    safetensors::load(folder(&format!("expected_{region}.safetensors")), &Device::Cpu).unwrap()
}

fn settings() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder("settings.json")).unwrap()).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference over largest reference.
fn relative_error(ours: &[f32], reference: &[f32]) -> f32 {
    assert_eq!(ours.len(), reference.len());
    let largest = reference.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let differences = ours.iter().zip(reference).map(|(ours, reference)| (ours - reference).abs());
    differences.fold(0f32, f32::max) / largest
}

#[test]
fn every_step_of_one_region_equals_diffusers() {
    let files = ModelFiles::open(ModelSource::Path(folder("model"))).unwrap();
    let (device, dtype) = (Device::Cpu, DType::F32);
    let vae = files.vae(&device, dtype).unwrap();
    let text = files.text(&device, dtype).unwrap();
    let part = files.component(Part::Unet, &device, dtype).unwrap();
    let config = UNetConfig::from_json(&part.config.to_string()).unwrap();
    let unet = UNet2DConditionModel::load(config, &part.params).unwrap();
    let scheduler = SchedulerConfig::from_json(&files.scheduler().unwrap().to_string()).unwrap();
    let schedule = Schedule::new(&scheduler).unwrap();
    let sampler = scheduler.sampler().unwrap().kind.build(&scheduler, None).unwrap();
    let encoded = text.encode(&[settings()["prompt"].as_str().unwrap()]).unwrap();

    for region in ["wide", "square"] {
        let expected = expected(region);
        let check = |name: &str, ours: &[f32], reference: &Tensor| {
            let error = relative_error(ours, &values(reference));
            assert!(error <= 1e-4, "{region}, {name}: {error}");
        };
        check("context", &values(&encoded.context), &expected["context"]);
        check("pooled", &values(encoded.pooled.as_ref().unwrap()), &expected["pooled"]);

        let zl = vae.encode(&expected["image"].unsqueeze(0).unwrap()).unwrap();
        check("zL", &values(&zl), &expected["zL"]);
        let steps = plan(&*sampler, &schedule, &Timesteps::Count(8), Denoise::Steps(4)).unwrap();
        let mut z = values(&expected["n"]);
        schedule.add_noise(steps[0].t, &values(&zl), &mut z).unwrap();
        check("z at the start", &z, &expected["z"].get(0).unwrap());

        let conditioning = Conditioning {
            context: encoded.context.clone(),
            pooled: encoded.pooled.clone(),
            time_ids: Some(expected["time_ids"].clone()),
        };
        for (index, step) in steps.iter().enumerate() {
            let noisy = Tensor::from_slice(&z, zl.shape(), &device).unwrap();
            let sample = Tensor::cat(&[&noisy, &zl], 3).unwrap();
            let eps = unet.forward(&sample, step.t, &conditioning, Prior::None).unwrap();
            let eps = values(&eps);
            check("eps", &eps, &expected["eps"].get(index).unwrap());
            sampler.update(&schedule, step).unwrap().apply(&mut z, &eps, None).unwrap();
            check("z", &z, &expected["z"].get(index + 1).unwrap());
        }
        let z = Tensor::from_slice(&z, zl.shape(), &device).unwrap();
        check("decoded", &values(&vae.decode(&z).unwrap()), &expected["decoded"]);
    }
}
