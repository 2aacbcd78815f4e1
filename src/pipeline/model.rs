//! Model of a job: everything about it that is known without its weights' values. It decides the shape of a job
//! and what that takes of memory; what computes is a [`Runner`](super::runner::Runner).

use std::fmt;

use candle_core::{DType, Device};

use crate::{
    backend::{DeviceError, ops::memory::Ledger},
    model::{
        text::TextConditioner,
        unet::{UNetConfig, UNetError},
        vae::{Vae, VaeConfig},
    },
    sampler::{SamplerError, Schedule, SchedulerConfig},
    weights::{Footprint, ModelFiles, ModelSource, Part},
};

use super::{error::Error, model_defaults::ModelDefaults, settings::Defaults};

/// The autoencoder computes in f32 everywhere, because SDXL's overflows in f16 (docs/method.md §6).
pub const VAE_DTYPE: DType = DType::F32;

/// The largest native size believed, in latent pixels: sixteen times SDXL's.
const MAX_REGION: usize = 2048;

/// What of a model decides the shape of a job; read from its configuration alone, without weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// VAE downscale factor f.
    pub factor: usize,
    /// Latent channels C.
    pub channels: usize,
    /// Region side R in latent pixels: the denoiser's native size.
    pub region: usize,
    /// What the sides of a denoiser's input must be multiples of, in latent pixels; even, for the Haar
    /// blocks.
    pub stride: usize,
    /// Whether the denoiser also sees the low-resolution latent (docs/method.md §2).
    pub sees_low_resolution: bool,
}

impl ModelShape {
    fn new(model: &ModelSource, unet: &UNetConfig, vae: &Vae) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Model { model: model.to_string(), reason };
        let channels = vae.latent_channels();
        if unet.out_channels != channels {
            return Err(refuse(format!(
                "the UNet predicts {} channels, the VAE has {channels}",
                unet.out_channels
            )));
        }
        let sees_low_resolution = match unet.in_channels {
            own if own == channels => false,
            own if own == 2 * channels => true,
            own => {
                return Err(refuse(format!(
                    "the UNet takes {own} channels: neither the latent's {channels} nor twice as many \
                     (an inpainting model?)"
                )));
            }
        };
        let stride = unet.total_stride().max(2);
        let region = match unet.sample_size {
            Some((height, width))
                if height == width && height.is_multiple_of(stride) && height <= MAX_REGION =>
            {
                height
            }
            Some((height, width)) => {
                return Err(refuse(format!(
                    "its native size of {width} × {height} latent pixels is no square, no multiple of \
                     {stride}, or above {MAX_REGION}"
                )));
            }
            None => return Err(refuse("unet/config.json names no sample_size".to_owned())),
        };
        Ok(Self { factor: vae.factor(), channels, region, stride, sees_low_resolution })
    }
}

/// What the parts of a model take, known without loading them.
#[derive(Clone, Copy, Debug)]
pub struct Footprints {
    pub text: Footprint,
    pub vae: Footprint,
    pub denoiser: Footprint,
}

/// What a job's memory follows from on the side of the text encoders.
#[derive(Clone, Copy, Debug)]
pub struct TextSizes {
    /// tokens of a prompt
    pub tokens: usize,
    /// entries of all vocabularies
    pub vocabulary: usize,
    /// width of the context, and that of the pooled embedding, 0 without
    pub widths: (usize, usize),
    /// what encoding one prompt takes beside the weights
    pub working_bytes: usize,
}

/// A model, checked.
pub struct Model {
    pub(crate) text_sizes: TextSizes,
    pub(crate) footprints: Footprints,
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) schedule: Schedule,
    pub(crate) defaults: ModelDefaults,
    /// Whether the condition of an empty negative prompt is zeros and not the encoded empty text.
    pub(crate) zeros_for_empty_prompt: bool,
    unet_config: UNetConfig,
    vae_config: VaeConfig,
    /// see [`Vae::context`]
    vae_context: Option<usize>,
    shape: ModelShape,
    name: String,
    loras: Vec<(String, f64)>,
    fingerprint: String,
}

impl Model {
    /// Reads the configurations of a model and the headers of its weights, and checks all that can be checked
    /// without the weights' values, for a device and the precision that it will compute in.
    ///
    /// # Errors
    /// A part that is missing, of an architecture that is not supported, or that does not go with
    /// the others; a tensor that is missing, or of another shape or type than it should be.
    pub fn read(files: &ModelFiles, device: &Device, dtype: DType) -> Result<Self, Error> {
        let source = files.source();
        files.check_parts()?;
        let products = files.products();
        if device.is_cpu() && !products.is_available() {
            return Err(DeviceError::Products(products).into());
        }
        let (vae, of_vae) = files.without_values(|files| files.vae(device, VAE_DTYPE))?;
        let unet_config = unet_config(files, device, dtype)?;
        let shape = ModelShape::new(source, &unet_config, &vae)?;
        let (_, of_denoiser) = files.without_values(|files| files.denoiser(device, dtype))?;
        let in_scheduler = |error: SamplerError| Error::Model {
            model: source.full_name("scheduler/scheduler_config.json"),
            reason: error.to_string(),
        };
        let scheduler =
            SchedulerConfig::from_json(&files.scheduler()?.to_string()).map_err(in_scheduler)?;
        let (text, of_text) = files.without_values(|files| files.text(device, dtype))?;
        check_conditioning(source, &unet_config, &text)?;
        let (width, pooled) = text.widths();
        let mut ledger = Ledger::new(device, dtype);
        text.play(&mut ledger);
        Ok(Self {
            schedule: Schedule::new(&scheduler).map_err(in_scheduler)?,
            scheduler,
            defaults: ModelDefaults::default(),
            // SDXL's pipelines have the switch, on unless the index says otherwise; those of Stable
            // Diffusion 1.x encode the empty text (diffusers' `encode_prompt` of either).
            zeros_for_empty_prompt: text.has_pooled()
                && files.index()["force_zeros_for_empty_prompt"].as_bool().unwrap_or(true),
            text_sizes: TextSizes {
                tokens: text.tokens(),
                vocabulary: text.vocabulary(),
                widths: (width, pooled.unwrap_or(0)),
                working_bytes: ledger.peak(),
            },
            footprints: Footprints { text: of_text, vae: of_vae, denoiser: of_denoiser },
            vae_context: vae.context(),
            vae_config: files.vae_config()?,
            unet_config,
            shape,
            fingerprint: files.fingerprint(),
            loras: files.loras().map(|(name, scale)| (name.to_owned(), scale)).collect(),
            name: source.short_name(),
        })
    }

    /// The same model under the name that its user knows, with what its manifest says about how to
    /// run it.
    ///
    /// # Errors
    /// A native size that the model cannot have.
    pub fn with_manifest(mut self, name: String, defaults: ModelDefaults) -> Result<Self, Error> {
        if let Some(native_size) = defaults.native_size {
            let ModelShape { factor, stride, .. } = self.shape;
            let region = native_size / factor;
            if !native_size.is_multiple_of(factor * stride) || !(1..=MAX_REGION).contains(&region) {
                return Err(Error::Model {
                    model: name,
                    reason: format!(
                        "a native size of {native_size} pixels is no multiple of {}, or too large",
                        factor * stride
                    ),
                });
            }
            self.shape.region = region;
        }
        self.name = name;
        self.defaults = defaults;
        Ok(self)
    }

    /// The denoiser's architecture.
    pub(crate) fn unet_config(&self) -> &UNetConfig {
        &self.unet_config
    }

    /// The autoencoder's architecture.
    pub(crate) fn vae_config(&self) -> &VaeConfig {
        &self.vae_config
    }

    /// How far around it the autoencoder sees, in latent pixels ([`Vae::context`]).
    pub(crate) fn vae_context(&self) -> Option<usize> {
        self.vae_context
    }

    /// Side of a VAE tile's core in image pixels where the user says nothing and memory allows.
    pub(crate) fn default_tile(&self) -> usize {
        let side = match self.vae_context {
            Some(_) => Defaults::TILE,
            None => Defaults::TILE_KL,
        };
        side as usize
    }

    /// The LoRAs in its weights, by name, with their scales.
    pub fn loras(&self) -> &[(String, f64)] {
        &self.loras
    }

    /// Changes when any file of the model does ([`ModelFiles::fingerprint`]).
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What the model can do.
    pub fn shape(&self) -> ModelShape {
        self.shape
    }

    /// The model's name, as users and metadata see it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes all its weights take when they are loaded, in memory or mapped.
    pub fn weight_bytes(&self) -> usize {
        let Footprints { text, vae, denoiser } = self.footprints;
        text.kept + vae.kept + denoiser.kept
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("name", &self.name).finish_non_exhaustive()
    }
}

fn in_unet(file: &str) -> impl Fn(UNetError) -> Error {
    |error| Error::Model {
        model: file.to_owned(),
        reason: error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

fn unet_config(files: &ModelFiles, device: &Device, dtype: DType) -> Result<UNetConfig, Error> {
    let part = files.component(Part::Denoiser, device, dtype)?;
    UNetConfig::from_json(&part.config.to_string()).map_err(in_unet(&part.config_file))
}

/// Refuses text encoders that do not make what the UNet takes: parts of different families.
fn check_conditioning(
    model: &ModelSource,
    unet: &UNetConfig,
    text: &TextConditioner,
) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::Model { model: model.to_string(), reason });
    let (width, pooled) = text.widths();
    let mut taken = (unet.down.iter().chain(&unet.up))
        .filter_map(|level| level.transformer.as_ref())
        .chain(unet.mid.as_ref().map(|mid| &mid.transformer));
    if let Some(other) = taken.find(|transformer| transformer.context_width != width) {
        return refuse(format!(
            "the UNet takes text of width {}, the text encoders make {width} (parts of different \
             models?)",
            other.context_width
        ));
    }
    // Beside the pooled embedding stand six numbers of so many features each.
    let added = unet.added.as_ref();
    match added.map(|added| added.input_width.saturating_sub(6 * added.features)) {
        Some(taken) if pooled != Some(taken) => refuse(format!(
            "the UNet takes a pooled text embedding of width {taken}, the text encoders make {}",
            pooled.map_or_else(|| "none".to_owned(), |width| width.to_string()),
        )),
        _ => Ok(()),
    }
}
