//! A whole 4-step img2img of one region against diffusers' modules, on a tiny SDXL-shaped model
//! with random weights (`tests/make_fixtures/make_img2img_fixture.py`), part by part. The program as a whole,
//! with regions and priors, is held against PyTorch in `tests/jobs/method.rs`.

use std::{collections::HashMap, path::PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::sampler::{Denoise, Schedule, SchedulerConfig, Timesteps, add_noise, plan};

use crate::common::{
    models::{conditioning, denoiser, open, predict},
    tensors::{flat, largest_error},
};

fn folder(name: &str) -> PathBuf {
    crate::common::fixture("img2img").join(name)
}

fn expected(region: &str) -> HashMap<String, Tensor> {
    safetensors::load(folder(&format!("expected_{region}.safetensors")), &Device::Cpu).unwrap()
}

fn settings() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder("settings.json")).unwrap()).unwrap()
}

#[test]
fn every_step_of_one_region_equals_diffusers() {
    let files = open(&folder("model")).unwrap();
    let (device, dtype) = (Device::Cpu, DType::F32);
    let vae = files.vae(&device, dtype).unwrap();
    let text = files.text(&device, dtype).unwrap();
    let denoiser = denoiser(&files);
    let scheduler = SchedulerConfig::from_json(&files.scheduler().unwrap().to_string()).unwrap();
    let schedule = Schedule::new(&scheduler).unwrap();
    let sampler = scheduler.sampler().unwrap().kind.build(&scheduler, None).unwrap();
    let encoded = text.encode(&[settings()["prompt"].as_str().unwrap()]).unwrap();

    for region in ["wide", "square"] {
        let expected = expected(region);
        let check = |name: &str, ours: &[f32], reference: &Tensor| {
            let ours = Tensor::from_slice(ours, reference.shape(), &device).unwrap();
            let error = largest_error(&ours, reference);
            assert!(error <= 1e-4, "{region}, {name}: {error}");
        };
        let context = encoded.context.tensor().unwrap();
        let pooled = encoded.pooled.as_ref().unwrap().tensor().unwrap();
        check("context", &flat(context), &expected["context"]);
        check("pooled", &flat(pooled), &expected["pooled"]);

        let image = expected["image"].unsqueeze(0).unwrap();
        let zl = vae.encode(&image.into()).unwrap().into_tensor().unwrap();
        check("zL", &flat(&zl), &expected["zL"]);
        let steps = plan(&*sampler, &schedule, &Timesteps::Count(8), Denoise::Steps(4)).unwrap();
        let mut z = flat(&expected["n"]);
        add_noise(steps[0].level, &flat(&zl), &mut z).unwrap();
        check("z at the start", &z, &expected["z"].get(0).unwrap());

        let time_ids = Some(&expected["time_ids"]);
        let conditioning = conditioning(&denoiser, context, Some(pooled), time_ids).unwrap();
        for (index, step) in steps.iter().enumerate() {
            let noisy = Tensor::from_slice(&z, zl.shape(), &device).unwrap();
            let sample = Tensor::cat(&[&noisy, &zl], 3).unwrap();
            let eps = flat(&predict(&denoiser, &sample, step.t, &conditioning));
            check("eps", &eps, &expected["eps"].get(index).unwrap());
            let update = sampler.update(&schedule, &steps[..index], step).unwrap();
            update.apply(&mut z, &eps, None).unwrap();
            check("z", &z, &expected["z"].get(index + 1).unwrap());
        }
        let z = Tensor::from_slice(&z, zl.shape(), &device).unwrap();
        check(
            "decoded",
            &flat(vae.decode(&z.into()).unwrap().tensor().unwrap()),
            &expected["decoded"],
        );
    }
}
