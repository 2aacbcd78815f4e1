//! Base pictures against diffusers' own text-to-image pipelines, of SDXL, SD 1.5, PixArt and SD 3, on small random models
//! (`tests/make_fixtures/make_generate_fixture.py`): latents and pixels.

use std::{collections::BTreeMap, fs, path::Path};

use candle_core::{DType, Device, Tensor, safetensors};
use serde::Deserialize;
use tempfile::TempDir;

use super::*;
use crate::{
    model::text::Prompt,
    pipeline::{progress::Silent, run::folder, runner::Compute as _},
    sampler::{SamplerKind, TimestepSpacing},
    weights::{ModelFiles, ModelSource},
};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

#[derive(Deserialize)]
struct Cases {
    prompt: String,
    negative_prompt: String,
    seed: u64,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    size: (u32, u32),
    sampler: String,
    spacing: Option<String>,
    steps: usize,
    guidance: f64,
}

/// The small model of this name, put together from the fixtures that its parts are in.
fn engine(name: &str) -> (TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let (fixtures, model) = (Path::new(FIXTURES), folder.path().join(name));
    let copy = |from: &str, to: &str| folder::copy_folder(&fixtures.join(from), &model.join(to));
    match name {
        "pixart" => {
            copy("pixart_job/model", "");
            copy("img2img/model/vae", "vae");
            copy("t5/json", "tokenizer");
        }
        "sd3" => {
            copy("sd3/model", "");
            for part in ["text_encoder", "text_encoder_2", "text_encoder_3"] {
                copy(&format!("t5/pipelines/{part}"), part);
            }
            for part in ["tokenizer", "tokenizer_2"] {
                copy(&format!("img2img/model/{part}"), part);
            }
            copy("t5/json", "tokenizer_3");
        }
        _ => {
            copy("img2img/model", "");
            let own = format!("pipeline/{name}");
            for part in fs::read_dir(fixtures.join(&own)).unwrap() {
                // Parts of which other files would stay.
                drop(fs::remove_dir_all(model.join(part.unwrap().file_name())));
            }
            copy(&own, "");
        }
    }
    let files = ModelFiles::open(ModelSource::Path(model)).unwrap();
    let engine = Engine::load_in(&files, &Device::Cpu, DType::F32).unwrap();
    // Parts are read when they are needed.
    (folder, engine)
}

fn error(ours: &[f32], theirs: &Tensor) -> f32 {
    let theirs: Vec<f32> = theirs.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0f32, |most, value| most.max(value.abs()));
    let far = ours.iter().zip(&theirs).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    far / largest
}

/// Latent and pixels of a base picture.
fn made(engine: &Engine, size: (u32, u32), settings: &Settings) -> (Vec<f32>, Vec<f32>) {
    let generation = Generation { size: Some(size), ..Generation::default() };
    let spec = base_spec(engine, &generation, settings).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let layout = spec.plan.layout(0);
    let mut work = WorkFolder::temporary(Some(folder.path()), None, &layout).unwrap();
    let mut rows = Collected(Vec::new());
    let target = Target::Rows(&mut rows);
    stages(engine, &sheet(&spec).unwrap(), &spec, target, &mut work, &mut Silent).unwrap();
    let latent = work.files.z[spec.plan.sampling.steps.len() % 2].as_slice().to_vec();
    (latent, rows.0)
}

#[test]
fn a_base_picture_is_that_of_diffusers_text_to_image_pipelines() {
    let area = Path::new(FIXTURES).join("generate");
    let cases: Cases = serde_json::from_slice(&fs::read(area.join("cases.json")).unwrap()).unwrap();
    let stored = |file: &str| safetensors::load(area.join(file), &Device::Cpu).unwrap();
    let (latents, pictures) = (stored("latents.safetensors"), stored("pictures.safetensors"));
    assert_eq!((cases.cases.len(), latents.len()), (11, 11));
    let engines: BTreeMap<&str, (TempDir, Engine)> =
        ["sdxl", "sd15", "pixart", "sd3"].map(|name| (name, engine(name))).into();
    let errors: Vec<(&String, f32, f32)> = (cases.cases.iter())
        .map(|(name, case)| {
            let settings = Settings {
                prompt: cases.prompt.clone(),
                negative_prompt: cases.negative_prompt.clone(),
                seed: cases.seed,
                sampler: Some(case.sampler.parse::<SamplerKind>().unwrap()),
                spacing: (case.spacing.as_deref())
                    .map(|spacing| spacing.parse::<TimestepSpacing>().unwrap()),
                steps: Some(case.steps),
                guidance: Some(case.guidance),
                ..Settings::default()
            };
            let (latent, picture) = made(&engines[&*case.model].1, case.size, &settings);
            (name, error(&latent, &latents[name]), error(&picture, &pictures[name]))
        })
        .collect();
    let is_close = |(_, latent, picture): &(&String, f32, f32)| latent.max(*picture) <= 1e-4;
    assert!(errors.iter().all(is_close), "{errors:?}");
}

#[test]
fn the_base_picture_has_the_native_number_of_pixels_and_the_outputs_aspect() {
    let (_folder, engine) = engine("sdxl");
    let base = |size: SizeSpec, generation: Generation| {
        let settings = Settings { size, ..Settings::default() };
        plan_generation(&engine, &generation, &settings)
    };
    let enlarged = || Generation { enlarged: true, ..Generation::default() };
    let of = |plan: &Plan| (plan.geometry.canvas.width, plan.geometry.canvas.height);
    let plans = base(SizeSpec::Exact(400, 200), enlarged()).unwrap();
    assert_eq!(of(&plans.base), (64, 32));
    assert_eq!((plans.base.geometry.grid.len(), of(&plans.enlarged.unwrap())), (1, (400, 200)));
    let plans = base(SizeSpec::Scale(2.0), enlarged()).unwrap();
    assert_eq!((of(&plans.base), of(&plans.enlarged.unwrap())), ((48, 48), (96, 96)));
    let plans = base(SizeSpec::Exact(400, 200), Generation::default()).unwrap();
    assert_eq!((of(&plans.base), plans.enlarged.is_none()), ((48, 48), true));
    // Much larger than native: regions.
    let large = Generation { size: Some((96, 96)), ..Generation::default() };
    assert_eq!(base(SizeSpec::Scale(2.0), large).unwrap().base.geometry.grid.len(), 9);
    for size in [(44, 48), (0, 48), (104, 104)] {
        let odd = Generation { size: Some(size), ..Generation::default() };
        let error = base(SizeSpec::Scale(2.0), odd).unwrap_err();
        assert!(matches!(error, Error::SizeOfNoise { unit: 8, native: 48, .. }), "{error}");
    }
}

#[test]
fn what_cannot_begin_from_noise_is_refused_by_name() {
    // The model of the fixture sees the picture that it repaints.
    let model = Path::new(FIXTURES).join("img2img/model");
    let files = ModelFiles::open(ModelSource::Path(model)).unwrap();
    let shown = Engine::load_in(&files, &Device::Cpu, DType::F32).unwrap();
    let settings = Settings::default();
    let error = plan_generation(&shown, &Generation::default(), &settings).unwrap_err();
    assert!(matches!(error, Error::NotFromNoise { .. }), "{error}");
    // It predicts the noise, of which a first step at pure noise can make no picture.
    let (folder, _) = engine("sdxl");
    let model = folder.path().join("sdxl");
    let path = model.join("scheduler/scheduler_config.json");
    let mut scheduler: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    scheduler["rescale_betas_zero_snr"] = true.into();
    fs::write(&path, scheduler.to_string()).unwrap();
    let files = ModelFiles::open(ModelSource::Path(model)).unwrap();
    let stretched = Engine::load_in(&files, &Device::Cpu, DType::F32).unwrap();
    let error = plan_generation(&stretched, &Generation::default(), &settings).unwrap_err();
    assert!(matches!(error, Error::NoFirstStep { .. }), "{error}");
    let euler = Settings { sampler: Some(SamplerKind::Euler), ..settings };
    assert!(plan_generation(&stretched, &Generation::default(), &euler).is_ok());
}

#[test]
fn a_text_that_t5_has_read_needs_no_encoder_again() {
    let (_folder, engine) = engine("sd3");
    let Engine { model, runner, .. } = &engine;
    let loaded = || runner.loaded_bytes(&model.footprints);
    let values = |text: &str| {
        let made = runner.encode_texts(&[&Prompt::plain(text)], 1).unwrap();
        [&made.context, made.pooled.as_ref().unwrap()]
            .map(|part| part.tensor().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap())
    };
    let first = ["a fox", ""].map(values);
    assert!(loaded() > 0);
    runner.free_parts();
    assert_eq!(["a fox", ""].map(values), first);
    assert_eq!(loaded(), 0);
    assert_ne!(values("two foxes"), first[0]);
    assert!(loaded() > 0);
}
