//! Test support for stages: a device that computes with closures instead of a model, and small jobs for it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use candle_core::{DType, Device, Tensor};
use serde_json::json;
use tempfile::TempDir;

use super::context::Context;
use crate::{
    backend::{Params, Reading},
    canvas::{CanvasSize, RegionGrid},
    caption::wording::{CaptionLength, Fits},
    image::{Format, Output, Picture},
    model::{
        denoiser::{Conditioning, Denoiser, MicroConditioning, Prior},
        text::{Cut, Prompt, TextConditioning},
        vae::{FeatureMaps, Globals, LayerwiseSize, Vae},
    },
    pipeline::{
        error::Error,
        finish::Finish,
        job::JobSpec,
        model::ModelShape,
        model_defaults::ModelDefaults,
        plan::{
            Plan, WorkAmounts, geometry::Geometry, mask::MaskPlan, memory::MemoryPlan, regions,
            sampling::SamplingPlan, vae_tiling::VaeTiling,
        },
        progress::{Progress, Stage},
        runner::{Call, Compute, Prediction},
        settings::Settings,
        work::folder::{WorkFolder, WorkOptions},
    },
    sampler::{Schedule, SchedulerConfig},
    weights::{ModelFiles, ModelSource},
};

/// Image pixels per latent pixel of the [`Fake`]'s autoencoder.
pub const FACTOR: usize = 2;
/// Latent channels of the [`Fake`]'s autoencoder.
pub const CHANNELS: usize = 4;

/// The prediction of a call, in the layout of its `z`.
pub type Predict = Box<dyn Fn(&Call) -> Result<Vec<f32>, Error> + Sync>;

/// A device that computes nothing with weights. Its autoencoder takes every other pixel, and repeats it, unless it has
/// a true one.
pub struct Fake {
    pub dtype: DType,
    pub predict: Predict,
    /// Predictions have to be waited for, as a GPU's.
    pub is_late: bool,
    /// The largest batch of pictures or latents that there is memory for.
    pub room: usize,
    /// Texts, in the order in which they were encoded.
    pub encoded: Mutex<Vec<String>>,
    /// Passes through the autoencoder.
    pub passes: Mutex<usize>,
    /// A true autoencoder.
    pub vae: Option<Vae>,
    /// Makes the conditions, which are opaque to stages.
    denoiser: Denoiser,
}

impl Fake {
    /// A device in f32 whose denoiser is `predict`.
    pub fn new(predict: impl Fn(&Call) -> Result<Vec<f32>, Error> + Sync + 'static) -> Self {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/img2img/model");
        let files = ModelFiles::open(ModelSource::Path(model)).unwrap();
        let blueprint = files.without_values(|files| files.denoiser(&Device::Cpu, DType::F32));
        Self {
            dtype: DType::F32,
            predict: Box::new(predict),
            is_late: false,
            room: usize::MAX,
            encoded: Mutex::default(),
            passes: Mutex::default(),
            vae: None,
            denoiser: blueprint.unwrap().0,
        }
    }

    /// A device for stages without predictions.
    pub fn idle() -> Self {
        Self::new(|_| unreachable!("no noise is predicted"))
    }

    /// With the small `AutoencoderKL` of the tests, whose factor and channels are [`FACTOR`] and [`CHANNELS`].
    pub fn with_vae() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vae/kl");
        let config = std::fs::read(folder.join("config.json")).unwrap();
        let weights = folder.join("weights.safetensors");
        let weights = candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
        let params = Params::from_tensors(weights, DType::F32, &Device::Cpu);
        let vae = Vae::load(&serde_json::from_slice(&config).unwrap(), &params).unwrap();
        Self { vae: Some(vae), ..Self::idle() }
    }

    fn pass(&self, batch: usize) -> Result<(), Error> {
        *self.passes.lock().unwrap() += 1;
        if batch > self.room { Err(exhausted()) } else { Ok(()) }
    }
}

/// The error of a device without memory.
pub fn exhausted() -> Error {
    let message = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
    Error::Tensor(candle_core::Error::Msg(message.to_owned()))
}

impl Compute for Fake {
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn encode_texts(&self, texts: &[&Prompt], chunks: usize) -> Result<TextConditioning, Error> {
        assert_eq!(chunks, 1);
        self.encoded.lock().unwrap().extend(texts.iter().map(|text| text.words()));
        let lengths: Vec<f32> = texts.iter().map(|text| text.words().len() as f32).collect();
        let lengths = Tensor::from_vec(lengths, (texts.len(), 1), &Device::Cpu)?;
        Ok(TextConditioning {
            context: lengths.unsqueeze(1)?.into(),
            pooled: Some(lengths.into()),
            lengths: None,
        })
    }

    fn condition(
        &self,
        texts: &TextConditioning,
        micro: MicroConditioning,
    ) -> Result<Conditioning, Error> {
        Ok(self.denoiser.condition(texts, micro)?)
    }

    fn with_guidance(&self, conditions: &Conditioning, scale: f64) -> Result<Conditioning, Error> {
        Ok(self.denoiser.with_guidance(conditions, scale)?)
    }

    fn chunks(&self, _: &Prompt) -> Result<usize, Error> {
        Ok(1)
    }

    fn cut(&self, text: &Prompt, _: usize) -> Result<Option<Cut>, Error> {
        let text = text.words();
        Ok((text.len() > 20).then_some(Cut { tokens: text.len(), is_all: true, limit: 20, at: 20 }))
    }

    fn caption_length(&self) -> CaptionLength {
        CaptionLength::default()
    }

    fn fits(&self) -> Fits<'static> {
        Box::new(|_| true)
    }

    fn make_room(&self) -> Arc<dyn Fn() + Send + Sync> {
        Arc::new(|| ())
    }

    fn encode(&self, pixels: &Tensor, globals: Globals<'_>) -> Result<Tensor, Error> {
        let (batch, height, width, _) = pixels.dims4()?;
        self.pass(batch)?;
        if let Some(vae) = &self.vae {
            return Ok(vae.encode_with(&pixels.into(), globals)?.into_tensor()?);
        }
        let every = |length: usize| {
            let index: Vec<u32> = (0..length as u32).step_by(FACTOR).collect();
            Tensor::new(index, &Device::Cpu)
        };
        let small = pixels.index_select(&every(height)?, 1)?.index_select(&every(width)?, 2)?;
        Ok(Tensor::cat(&[&small, &small.narrow(3, 0, 1)?], 3)?)
    }

    fn decode(&self, latents: &Tensor, globals: Globals<'_>) -> Result<Tensor, Error> {
        let (batch, height, width, _) = latents.dims4()?;
        self.pass(batch)?;
        if let Some(vae) = &self.vae {
            return Ok(vae.decode_with(&latents.into(), globals)?.into_tensor()?);
        }
        let twice = |length: usize| {
            let index: Vec<u32> =
                (0..(length * FACTOR) as u32).map(|at| at / FACTOR as u32).collect();
            Tensor::new(index, &Device::Cpu)
        };
        let large = latents.index_select(&twice(height)?, 1)?.index_select(&twice(width)?, 2)?;
        Ok(large.narrow(3, 0, 3)?)
    }

    fn encode_layerwise(
        &self,
        size: LayerwiseSize,
        maps: &mut dyn FeatureMaps,
    ) -> Result<(), Error> {
        self.pass(size.block)?;
        match &self.vae {
            Some(vae) => Ok(vae.encode_layerwise(size, maps)?),
            None => unreachable!("no norm sees the whole canvas"),
        }
    }

    fn decode_layerwise(
        &self,
        size: LayerwiseSize,
        maps: &mut dyn FeatureMaps,
    ) -> Result<(), Error> {
        self.pass(size.block)?;
        match &self.vae {
            Some(vae) => Ok(vae.decode_layerwise(size, maps)?),
            None => unreachable!("no norm sees the whole canvas"),
        }
    }

    fn predict(&self, call: &Call, _: &Conditioning, _: Prior<'_>) -> Result<Prediction, Error> {
        let values = (self.predict)(call)?;
        let values = if self.is_late { Reading::later(values) } else { values.into() };
        Ok(Prediction::new(values, None))
    }

    fn non_finite(&self, stage: Stage) -> Error {
        Error::NonFinite { stage, weight: None }
    }
}

/// A job of 60 × 40 output pixels in regions of 8 latent pixels and tiles of 10, without priors.
pub fn job(settings: Settings) -> JobSpec {
    job_with(
        settings,
        r#"{"_class_name": "DDIMScheduler", "clip_sample": false, "timestep_spacing": "trailing"}"#,
    )
}

/// As [`job`], with this scheduler.
pub fn job_with(settings: Settings, scheduler: &str) -> JobSpec {
    let settings = Settings { gsp: 0.0, rap: 0.0, ..settings };
    let config = SchedulerConfig::from_json(scheduler).unwrap();
    let schedule = Schedule::new(&config).unwrap();
    let sampling =
        SamplingPlan::resolve(&config, &schedule, &ModelDefaults::default(), &settings).unwrap();
    let canvas = CanvasSize::for_pixels(60, 40, FACTOR).unwrap();
    let geometry = Geometry {
        input: (30, 20).into(),
        canvas,
        grid: RegionGrid::new(canvas.latent_height, canvas.latent_width, 8, 2).unwrap(),
        overlap: 0.25,
        low_resolution: None,
        vae_padding: 1,
        shape: ModelShape {
            factor: FACTOR,
            channels: CHANNELS,
            region: 8,
            stride: 2,
            largest: None,
            patch: 2,
            sees_low_resolution: false,
        },
        by_network: false,
        generated: false,
    };
    let memory = MemoryPlan {
        budget: None,
        keeps_parts: true,
        batch: 4,
        tile: 20,
        first_tile: 32,
        captions: None,
        stages: Vec::new(),
    };
    let mask = settings.mask.as_ref().map(|mask| MaskPlan::new(mask, &geometry).unwrap());
    let plan = Plan {
        regions: regions::of_steps(&settings, &geometry, &sampling, mask.as_ref()),
        mask,
        profile: None,
        first: None,
        sampling,
        text_chunks: 1,
        tile_rows: geometry.tiles(canvas.latent_height, memory.tile),
        tile_columns: geometry.tiles(canvas.latent_width, memory.tile),
        vae_tiling: VaeTiling::Independent,
        memory,
        prior_sizes: Vec::new(),
        repaints: true,
        controls: Vec::new(),
        keeps_decoded: Finish::new(&settings, &geometry).needs_whole(),
        computes_on: "nothing".to_owned(),
        work: WorkAmounts::default(),
        devices: Vec::new(),
        geometry,
    };
    JobSpec::for_tests(settings, plan, schedule)
}

/// The input of such a job.
pub fn picture() -> Picture {
    let rgb: Vec<f32> = (0..30 * 20 * 3).map(|at| (at * 37 % 101) as f32 / 100.0).collect();
    Picture::from_rgb(30, 20, rgb).unwrap()
}

/// Context of a stage.
pub fn context<'a>(runner: &'a Fake, picture: &'a Picture, spec: &'a JobSpec) -> Context<'a> {
    Context { runner, others: &[], picture, enlarged: None, spec }
}

/// As [`context`], with further devices.
pub fn context_of<'a>(
    runner: &'a Fake,
    others: &'a [&'a dyn Compute],
    picture: &'a Picture,
    spec: &'a JobSpec,
) -> Context<'a> {
    Context { runner, others, picture, enlarged: None, spec }
}

/// A work folder that is removed with the test.
pub struct Bench {
    folder: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn output(&self) -> PathBuf {
        self.folder.path().join("out.png")
    }

    /// The job's work folder, with what is done in it.
    pub fn open(&self, spec: &JobSpec) -> WorkFolder {
        let output = Output::Path(self.output());
        let layout = spec.plan.layout(3 * spec.plan.geometry.canvas.width);
        let output = (&output, Format::Png);
        WorkFolder::open(&WorkOptions::default(), output, &json!({}), &layout).unwrap()
    }
}

/// Records a stage's progress, and can interrupt it.
#[derive(Default)]
pub struct Watcher {
    pub done: usize,
    pub total: usize,
    pub notes: Vec<String>,
    /// Progress at which the job is interrupted.
    pub stop_at: Option<usize>,
}

impl Progress for Watcher {
    fn begin(&mut self, _: Stage, total: usize) {
        (self.done, self.total) = (0, total);
    }

    fn advance(&mut self, count: usize) {
        self.done += count;
    }

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    fn interrupted(&self) -> bool {
        self.stop_at.is_some_and(|at| self.done >= at)
    }
}
