//! Model of a job: everything known without the weights' values. It decides a job's shape and memory; a
//! [`Runner`](super::runner::Runner) computes.

use std::{fmt, sync::Arc};

use candle_core::{DType, Device};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    backend::{DeviceError, Trace},
    model::{
        denoiser::{Control, Denoiser, DenoiserError, DenoiserShape},
        text::{TextArrangement, TextConditioner},
        vae::Vae,
    },
    sampler::{SamplerError, Schedule, SchedulerConfig},
    weights::{Footprint, LoraScale, ModelFiles},
};

use super::{
    error::Error, first::FirstEnlarger, model_defaults::ModelDefaults, settings::Defaults,
};

/// The autoencoder computes in f32 everywhere, because SDXL's overflows in f16 (docs/method.md §6).
pub const VAE_DTYPE: DType = DType::F32;

/// Pipelines of diffusers that correct their scheduler's config.
const CORRECTING_PIPELINES: [&str; 3] =
    ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"];

/// Pipelines of diffusers that hand their scheduler a list of sigmas.
const EVEN_PIPELINES: [&str; 2] = ["ZImagePipeline", "ZImageImg2ImgPipeline"];

/// Pipelines of diffusers that do so, and shift the sigmas by the number of steps as well as by the picture's size.
const MEASURED_PIPELINES: [&str; 3] =
    ["Flux2KleinPipeline", "Flux2KleinInpaintPipeline", "Flux2KleinKVPipeline"];

/// Switches of `model_index.json` that change what the pipeline does in a way that this program does not have.
const UNSUPPORTED_SWITCHES: [(&str, &str); 2] = [
    ("requires_aesthetics_score", "SDXL's refiner is conditioned on a score"),
    ("is_cosxl_edit", "CosXL scales the latent that it edits"),
];

/// The largest native size believed, in latent pixels: sixteen times SDXL's.
const MAX_REGION: usize = 2048;

/// Sizes of a model that decide the shape of a job, read from its configuration alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// VAE downscale factor f.
    pub factor: usize,
    /// Latent channels C.
    pub channels: usize,
    /// Region side R in latent pixels: the denoiser's native size.
    pub region: usize,
    /// Required divisor of the sides of a denoiser input, in latent pixels; even, for the Haar blocks.
    pub stride: usize,
    /// Largest height and width of a denoiser input, in latent pixels, where there is one.
    pub largest: Option<usize>,
    /// Side in latent pixels of what the denoiser takes as one: the patch of a transformer, or all strides of a convolutional network.
    pub patch: usize,
    /// The denoiser takes the low-resolution latent as additional channels (docs/method.md §2).
    pub sees_low_resolution: bool,
}

impl ModelShape {
    /// Patches of a region of this height and width in latent pixels: the tokens of a transformer, on which some
    /// schedules depend.
    #[must_use]
    pub fn tokens(self, (height, width): (usize, usize)) -> usize {
        (height / self.patch) * (width / self.patch)
    }

    /// Shape of jobs with this denoiser and this autoencoder; the reason if the two do not match.
    fn new(denoiser: DenoiserShape, vae: &Vae) -> Result<Self, String> {
        let DenoiserShape { channels, native, multiple, largest, sees_low_resolution } = denoiser;
        if channels != vae.latent_channels() {
            return Err(format!(
                "the denoiser predicts {channels} channels, the VAE has {}",
                vae.latent_channels()
            ));
        }
        let stride = if multiple.is_multiple_of(2) { multiple } else { 2 * multiple };
        if !native.is_multiple_of(stride) {
            return Err(format!("its native size of {native} latent pixels is odd"));
        }
        Ok(Self {
            factor: vae.factor(),
            channels,
            region: native,
            stride,
            largest,
            patch: multiple,
            sees_low_resolution,
        })
    }

    /// Takes the side of the training pictures in pixels from the model's maker, if there is one; the reason if the
    /// model cannot have it.
    fn set_native_size(&mut self, native_size: Option<usize>) -> Result<(), String> {
        let Some(native_size) = native_size else { return Ok(()) };
        let unit = self.factor * self.stride;
        let region = native_size / self.factor;
        let most = self.largest.map_or(MAX_REGION, |largest| largest.min(MAX_REGION));
        if !native_size.is_multiple_of(unit) || !(1..=most).contains(&region) {
            return Err(format!(
                "a native size of {native_size} pixels is no multiple of {unit}, or too large"
            ));
        }
        self.region = region;
        Ok(())
    }
}

/// Parts of a model without their weights' values, for shapes, conditions and memory traces.
#[derive(Debug)]
pub struct Blueprints {
    pub denoiser: Denoiser,
    pub controls: Vec<Control>,
    pub vae: Vae,
    pub text: TextConditioner,
}

/// Footprints of a model's parts, known without loading them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footprints {
    pub text: Footprint,
    pub vae: Footprint,
    /// The denoiser with its controls.
    pub denoiser: Footprint,
}

/// A checked model.
pub struct Model {
    pub(crate) footprints: Footprints,
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) schedule: Schedule,
    pub(crate) defaults: ModelDefaults,
    /// The condition of an empty negative prompt is zeros, not the encoded empty text.
    pub(crate) zeros_for_empty_prompt: bool,
    pub(crate) blueprints: Arc<Blueprints>,
    /// The network that enlarges the input before the model repaints it.
    pub(crate) first: Option<Arc<FirstEnlarger>>,
    /// Working memory of encoding one prompt in bytes, without weights.
    pub(crate) text_working: usize,
    shape: ModelShape,
    name: String,
    loras: Vec<(String, LoraScale)>,
    embeddings: Vec<String>,
    controls: Vec<String>,
    fingerprint: String,
}

impl Model {
    /// Reads the configurations of a model and the headers of its weights, and checks everything that does not
    /// need the weights' values, for a device and its working precision.
    ///
    /// # Errors
    /// A part that is missing, of an architecture that is not supported, or that does not go with
    /// the others; a tensor that is missing, or of another shape or type than it should be.
    pub fn read(files: &ModelFiles, device: &Device, dtype: DType) -> Result<Self, Error> {
        let source = files.source();
        files.check_parts()?;
        let precision = files.precision();
        if device.is_cpu() && !precision.is_available() {
            return Err(DeviceError::Precision(precision).into());
        }
        let refuse = |reason: String| Error::Model { model: source.to_string(), reason };
        let unsuited = |error: DenoiserError| refuse(error.to_string());
        let (vae, of_vae) = files.without_values(|files| files.vae(device, VAE_DTYPE))?;
        let (denoiser, of_denoiser) =
            files.without_values(|files| files.denoiser(device, dtype))?;
        let (controls, of_controls) =
            files.without_values(|files| files.load_controls(device, dtype))?;
        for (control, name) in controls.iter().zip(files.controls()) {
            check_control(control, &denoiser, &vae)
                .map_err(|reason| Error::Control { control: name.to_owned(), reason })?;
        }
        let mut shape =
            ModelShape::new(denoiser.shape().map_err(unsuited)?, &vae).map_err(refuse)?;
        let in_scheduler = |error: SamplerError| Error::Model {
            model: source.full_name("scheduler/scheduler_config.json"),
            reason: error.to_string(),
        };
        let mut scheduler =
            SchedulerConfig::from_json(&files.scheduler()?.to_string()).map_err(in_scheduler)?;
        let index = files.index();
        for (field, what) in UNSUPPORTED_SWITCHES {
            if index[field] == true {
                return Err(refuse(format!(
                    "model_index.json: `{field}` is not supported: {what}"
                )));
            }
        }
        let of_family = match files.defaults()? {
            Value::Null => ModelDefaults::default(),
            own => ModelDefaults::try_from(own).map_err(&refuse)?,
        };
        let recommended = match index.get("cupscale") {
            Some(own) => ModelDefaults::deserialize(own)
                .map_err(|error| refuse(format!("model_index.json: `cupscale`: {error}")))?
                .or(of_family),
            None => of_family,
        };
        shape.set_native_size(recommended.native_size).map_err(refuse)?;
        let pipeline = index["_class_name"].as_str().unwrap_or_default();
        if CORRECTING_PIPELINES.contains(&pipeline) {
            scheduler = scheduler.of_stable_diffusion();
        } else if EVEN_PIPELINES.contains(&pipeline) {
            scheduler = scheduler.of_even_sigmas();
        } else if MEASURED_PIPELINES.contains(&pipeline) {
            scheduler = scheduler.of_measured_shift();
        }
        scheduler.prediction_type = recommended.prediction.unwrap_or(scheduler.prediction_type);
        let (text, of_text) = files.without_values(|files| files.text(device, dtype))?;
        denoiser.check_text(&text).map_err(unsuited)?;
        let trace = Trace::new(device);
        drop(text.trace(1, &trace)?);
        Ok(Self {
            schedule: Schedule::new(&scheduler).map_err(in_scheduler)?,
            scheduler,
            defaults: recommended,
            // SDXL's pipelines have the switch, on unless the index says otherwise; all others encode the empty
            // text (diffusers' `encode_prompt` of each).
            zeros_for_empty_prompt: text.tokenizers().arrangement() == TextArrangement::Clip
                && text.has_pooled()
                && index["force_zeros_for_empty_prompt"].as_bool().unwrap_or(true),
            text_working: trace.peak(),
            footprints: Footprints {
                text: of_text,
                vae: of_vae,
                denoiser: of_denoiser.with(of_controls),
            },
            blueprints: Arc::new(Blueprints { denoiser, controls, vae, text }),
            first: files.first_enlarger()?.map(FirstEnlarger::new).transpose()?.map(Arc::new),
            shape,
            fingerprint: files.fingerprint(),
            loras: files.loras().map(|(name, scale)| (name.to_owned(), scale.clone())).collect(),
            embeddings: files.embeddings().map(str::to_owned).collect(),
            controls: files.controls().map(str::to_owned).collect(),
            name: source.short_name(),
        })
    }

    /// Applies a manifest: the model's name for users, and its sampling defaults, before those of the model's files.
    ///
    /// # Errors
    /// A native size or a prediction that the model cannot have.
    pub fn with_manifest(mut self, name: String, defaults: ModelDefaults) -> Result<Self, Error> {
        let refuse = |reason| Error::Model { model: name.clone(), reason };
        self.shape.set_native_size(defaults.native_size).map_err(refuse)?;
        if let Some(prediction) = defaults.prediction {
            self.scheduler.prediction_type = prediction;
            self.schedule =
                Schedule::new(&self.scheduler).map_err(|error| refuse(error.to_string()))?;
        }
        self.name = name;
        self.defaults = defaults.or(std::mem::take(&mut self.defaults));
        Ok(self)
    }

    /// Default side of a VAE tile's core in image pixels, if memory allows.
    pub(crate) fn default_tile(&self) -> usize {
        let side =
            if self.blueprints.vae.has_global_state() { Defaults::TILE_KL } else { Defaults::TILE };
        side as usize
    }

    /// Names and scales of the LoRAs merged into the weights.
    pub fn loras(&self) -> &[(String, LoraScale)] {
        &self.loras
    }

    /// Names of the embeddings that prompts may use.
    pub fn embeddings(&self) -> &[String] {
        &self.embeddings
    }

    /// Names of the controls beside the denoiser.
    pub fn controls(&self) -> &[String] {
        &self.controls
    }

    /// Digest of all files of the model ([`ModelFiles::fingerprint`]).
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Sizes of the model that decide the shape of a job.
    pub fn shape(&self) -> ModelShape {
        self.shape
    }

    /// The model's name, as users and metadata see it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of all loaded weights, in memory or mapped.
    pub fn weight_bytes(&self) -> usize {
        let Footprints { text, vae, denoiser } = self.footprints;
        text.kept + vae.kept + denoiser.kept
    }
}

/// Checks that a control was made for such a denoiser, and sees pictures as large as the autoencoder makes them.
fn check_control(control: &Control, denoiser: &Denoiser, vae: &Vae) -> Result<(), String> {
    let shape = control.shape();
    denoiser.check_control(&shape).map_err(|error| error.to_string())?;
    if shape.factor != vae.factor() {
        return Err(format!(
            "it sees {} pixels for each side of a latent pixel, the VAE makes {}",
            shape.factor,
            vae.factor()
        ));
    }
    Ok(())
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("name", &self.name).finish_non_exhaustive()
    }
}
