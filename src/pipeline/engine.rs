//! A loaded model, ready for any number of jobs, and what its configuration says about the jobs it
//! can do.

use candle_core::{DType, Device, Tensor};

use crate::{
    backend::working_dtype,
    model::{
        text::TextConditioner,
        unet::{Conditioning, Prior, UNet2DConditionModel, UNetConfig, UNetError},
        vae::Vae,
    },
    sampler::{SamplerError, Schedule, SchedulerConfig},
    weights::{ModelFiles, ModelSource, Part},
};

use super::{Error, ModelDefaults};

/// What of a model decides the shape of a job; read from its configuration alone, without weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// VAE downscale factor f.
    pub factor: usize,
    /// Latent channels C.
    pub channels: usize,
    /// Region side R in latent pixels: the UNet's native size.
    pub region: usize,
    /// What the sides of a UNet's input must be multiples of, in latent pixels; even, for the Haar
    /// blocks.
    pub stride: usize,
    /// Whether the UNet also sees the low-resolution latent (METHOD §2).
    pub sees_low_resolution: bool,
}

/// The largest native size believed, in latent pixels: sixteen times SDXL's.
const MAX_REGION: usize = 2048;

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

/// A model on a device.
pub struct Engine {
    pub(super) unet: UNet2DConditionModel,
    pub(super) vae: Vae,
    pub(super) text: TextConditioner,
    pub(super) scheduler: SchedulerConfig,
    pub(super) schedule: Schedule,
    pub(super) defaults: ModelDefaults,
    /// Whether the condition of an empty negative prompt is zeros and not the encoded empty text.
    pub(super) zeros_for_empty_prompt: bool,
    pub(super) device: Device,
    pub(super) dtype: DType,
    shape: ModelShape,
    name: String,
    loras: Vec<(String, f64)>,
    fingerprint: String,
}

impl Engine {
    /// Loads every part of the model onto `device`, in the device's working precision; the VAE in
    /// f32, because SDXL's overflows in f16 (METHOD §6).
    ///
    /// # Errors
    /// A part that is missing, damaged, or of an architecture that is not supported.
    pub fn load(files: &ModelFiles, device: &Device) -> Result<Self, Error> {
        let source = files.source();
        files.check_parts()?;
        let dtype = working_dtype(device);
        let vae = files.vae(device, DType::F32)?;
        let part = files.component(Part::Unet, device, dtype)?;
        let in_unet = |error: UNetError| Error::Model {
            model: part.config_file.clone(),
            reason: error.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        let config = UNetConfig::from_json(&part.config.to_string()).map_err(in_unet)?;
        let shape = ModelShape::new(source, &config, &vae)?;
        let unet = UNet2DConditionModel::load(config, &part.params).map_err(in_unet)?;
        let in_scheduler = |error: SamplerError| Error::Model {
            model: source.full_name("scheduler/scheduler_config.json"),
            reason: error.to_string(),
        };
        let scheduler =
            SchedulerConfig::from_json(&files.scheduler()?.to_string()).map_err(in_scheduler)?;
        let text = files.text(device, dtype)?;
        check_conditioning(source, unet.config(), &text)?;
        Ok(Self {
            unet,
            schedule: Schedule::new(&scheduler).map_err(in_scheduler)?,
            scheduler,
            defaults: ModelDefaults::default(),
            // SDXL's pipelines have the switch, on unless the index says otherwise; those of Stable
            // Diffusion 1.x encode the empty text (diffusers' `encode_prompt` of either).
            zeros_for_empty_prompt: text.has_pooled()
                && files.index()["force_zeros_for_empty_prompt"].as_bool().unwrap_or(true),
            text,
            vae,
            device: device.clone(),
            dtype,
            shape,
            fingerprint: files.fingerprint(),
            loras: files.loras().map(|(name, scale)| (name.to_owned(), scale)).collect(),
            name: match source {
                ModelSource::Embedded => "mini".to_owned(),
                ModelSource::Path(path) => {
                    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
                }
            },
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

    /// The LoRAs in its weights, by name, with their scales.
    #[must_use]
    pub fn loras(&self) -> &[(String, f64)] {
        &self.loras
    }

    /// Changes when any file of the model does ([`ModelFiles::fingerprint`]).
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The backend that computes, and in what precision: results differ between them.
    #[must_use]
    pub fn device_name(&self) -> String {
        let device = match self.device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        };
        format!("{device} {}", self.dtype.as_str())
    }

    /// What the model can do.
    #[must_use]
    pub fn shape(&self) -> ModelShape {
        self.shape
    }

    /// The model's name, as users and metadata see it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes all its weights take, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.unet.weight_bytes() + self.vae.weight_bytes() + self.text.weight_bytes()
    }

    /// Regions per UNet call where the user says nothing.
    #[must_use]
    pub fn default_batch(&self) -> usize {
        match self.device {
            Device::Cpu => super::Defaults::BATCH_CPU,
            _ => super::Defaults::BATCH_GPU,
        }
    }

    /// Values from the host as a tensor that [`predict`](Self::predict) takes.
    pub(super) fn input(
        &self,
        values: Vec<f32>,
        shape: (usize, usize, usize, usize),
    ) -> Result<Tensor, Error> {
        Ok(Tensor::from_vec(values, shape, &self.device)?.to_dtype(self.dtype)?)
    }

    /// One UNet call on a batch of regions.
    ///
    /// `z` and, for a model that sees it, `zl` are `[batch, height, width, C]`; the prediction comes
    /// back in the same layout, in f32. With guidance g the batch goes through the UNet twice in one
    /// call, and `conditioning` and `prior` hold `2·batch` entries: those of the negative prompt,
    /// then those of the prompt. The prediction is then `negative + g·(positive − negative)` (Ho and
    /// Salimans 2022, as diffusers writes it).
    pub(super) fn predict(
        &self,
        call: &UNetCall,
        conditioning: &Conditioning,
        prior: Prior<'_>,
    ) -> Result<Vec<f32>, Error> {
        let &UNetCall { ref z, ref zl, timestep, guidance } = call;
        let mut sample = z.clone();
        if self.shape.sees_low_resolution {
            sample = Tensor::cat(&[&sample, zl], 3)?;
        }
        if guidance.is_some() {
            sample = Tensor::cat(&[&sample, &sample], 0)?;
        }
        let output = self.unet.forward(&sample, timestep, conditioning, prior)?;
        let output: Vec<f32> = output.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let Some(guidance) = guidance else { return Ok(output) };
        let guidance = guidance as f32;
        let (negative, positive) = output.split_at(output.len() / 2);
        let guided =
            |(negative, positive): (&f32, &f32)| negative + guidance * (positive - negative);
        Ok(negative.iter().zip(positive).map(guided).collect())
    }
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

/// The arguments of one UNet call.
pub(super) struct UNetCall {
    pub z: Tensor,
    pub zl: Tensor,
    pub timestep: f64,
    pub guidance: Option<f64>,
}
