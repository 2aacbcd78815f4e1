//! A model that has been checked and is ready for any number of jobs. Its parts are loaded when a job
//! first needs them; they stay if the job's plan holds them all, and go after each stage if not.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::{
    backend::{DeviceError, MatmulPrecision, give_back_freed, ops::memory::Ledger, working_dtype},
    model::{
        text::TextConditioner,
        unet::{Conditioning, Prior, UNet2DConditionModel, UNetConfig, UNetError},
        vae::{Vae, VaeConfig},
    },
    sampler::{SamplerError, Schedule, SchedulerConfig},
    weights::{Footprint, ModelFiles, ModelSource, Part},
};

#[cfg(feature = "llava")]
use super::CaptionModel;
use super::{Error, ModelDefaults, Stage, slot::Slot};

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

/// What the parts of a model take, known without loading them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footprints {
    pub text: Footprint,
    pub vae: Footprint,
    pub unet: Footprint,
}

/// What a job's memory follows from on the side of the text encoders.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextSizes {
    /// tokens of a prompt
    pub tokens: usize,
    /// entries of all vocabularies
    pub vocabulary: usize,
    /// width of the context, and that of the pooled embedding, 0 without
    pub widths: (usize, usize),
    /// what encoding one prompt takes beside the weights
    pub working_bytes: usize,
}

/// A model for a device.
pub struct Engine {
    files: ModelFiles,
    unet: Slot<UNet2DConditionModel>,
    /// The UNet again, for what overflows in the working precision.
    unet_f32: Slot<UNet2DConditionModel>,
    vae: Slot<Vae>,
    text: Slot<TextConditioner>,
    #[cfg(feature = "llava")]
    captioner: Option<CaptionModel>,
    unet_config: UNetConfig,
    vae_config: VaeConfig,
    /// see [`Vae::context`]
    vae_context: Option<usize>,
    pub(super) text_sizes: TextSizes,
    pub(super) footprints: Footprints,
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

/// The VAE computes in f32 everywhere, because SDXL's overflows in f16 (METHOD §6).
pub(super) const VAE_DTYPE: DType = DType::F32;

impl Engine {
    /// Makes the model ready for `device`: reads its configurations and the headers of its weights,
    /// and checks all that can be checked without the weights' values. The parts are loaded by the
    /// first job, in the device's working precision.
    ///
    /// # Errors
    /// A part that is missing, of an architecture that is not supported, or that does not go with
    /// the others; a tensor that is missing, or of another shape or type than it should be.
    pub fn load(files: &ModelFiles, device: &Device) -> Result<Self, Error> {
        Self::load_in(files, device, working_dtype(device))
    }

    /// As [`load`](Self::load), in a precision of choice.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(super) fn load_in(
        files: &ModelFiles,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, Error> {
        let source = files.source();
        files.check_parts()?;
        let products = files.products();
        if device.is_cpu() && !products.is_available() {
            return Err(DeviceError::Precision(products).into());
        }
        let (vae, of_vae) = files.without_values(|files| files.vae(device, VAE_DTYPE))?;
        let unet_config = unet_config(files, device, dtype)?;
        let shape = ModelShape::new(source, &unet_config, &vae)?;
        let (_, of_unet) = files.without_values(|files| load_unet(files, device, dtype))?;
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
            footprints: Footprints { text: of_text, vae: of_vae, unet: of_unet },
            vae_context: vae.context(),
            vae_config: files.vae_config()?,
            unet_config,
            unet: Slot::empty(),
            unet_f32: Slot::empty(),
            vae: Slot::empty(),
            text: Slot::empty(),
            #[cfg(feature = "llava")]
            captioner: None,
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
            files: files.clone(),
        })
    }

    /// The UNet in the working precision or in f32, loaded if it is not.
    fn unet(&self, dtype: DType) -> Result<Arc<UNet2DConditionModel>, Error> {
        let load = || load_unet(&self.files, &self.device, dtype);
        if dtype == self.dtype {
            return self.unet.get(load);
        }
        match self.unet_f32.get(load) {
            // It is twice as large: maybe there is room for one of the two only.
            Err(error) if error.is_out_of_memory() => {
                self.unet.free();
                self.unet_f32.get(load)
            }
            loaded => loaded,
        }
    }

    /// The autoencoder, loaded if it is not.
    pub(super) fn vae(&self) -> Result<Arc<Vae>, Error> {
        self.vae.get(|| Ok(self.files.vae(&self.device, VAE_DTYPE)?))
    }

    /// The text encoders, loaded if they are not.
    pub(super) fn text(&self) -> Result<Arc<TextConditioner>, Error> {
        self.text.get(|| Ok(self.files.text(&self.device, self.dtype)?))
    }

    /// Whether a text fits all text encoders, uncut.
    ///
    /// # Errors
    /// A tokenizer that is missing or not supported.
    #[cfg(feature = "llava")]
    pub(super) fn fits(&self) -> Result<impl Fn(&str) -> bool + use<>, Error> {
        let tokenizers = self.files.tokenizers()?;
        // What cannot be measured will be noted when it is encoded.
        Ok(move |text: &str| tokenizers.iter().all(|it| matches!(it.cut(text), Ok(None))))
    }

    /// The same model with one that describes regions for it, on the same device.
    #[cfg(feature = "llava")]
    #[must_use]
    pub fn with_captioner(self, captioner: CaptionModel) -> Self {
        Self { captioner: Some(captioner), ..self }
    }

    /// The model that describes regions.
    #[cfg(feature = "llava")]
    #[must_use]
    pub fn captioner(&self) -> Option<&CaptionModel> {
        self.captioner.as_ref()
    }

    /// The error for values that are not numbers. Where the weights are to blame the first such one is
    /// named: they are searched only now, because reading them all takes as long as loading the model.
    pub(super) fn non_finite(&self, stage: Stage) -> Error {
        let weight = self.files.find_non_finite();
        Error::NonFinite { stage, weight }
    }

    /// Forgets the parts that are loaded; a part that is in use goes when it is no longer.
    pub(super) fn free_parts(&self) {
        self.parts_freer()();
    }

    /// What does so, for another thread.
    pub(super) fn parts_freer(&self) -> impl Fn() + Send + Sync + use<> {
        let unets = [self.unet.clone(), self.unet_f32.clone()];
        let (vae, text) = (self.vae.clone(), self.text.clone());
        move || {
            unets.iter().for_each(Slot::free);
            vae.free();
            text.free();
            give_back_freed();
        }
    }

    /// Forgets the weights of the model that describes regions.
    pub(super) fn free_captioner(&self) {
        #[cfg(feature = "llava")]
        if let Some(captioner) = &self.captioner {
            captioner.free();
            give_back_freed();
        }
    }

    /// How many bytes of weights are loaded on the device now.
    pub(super) fn loaded_bytes(&self) -> usize {
        let Footprints { text, vae, unet } = self.footprints;
        let parts = [
            (self.text.loaded().is_some(), text),
            (self.vae.loaded().is_some(), vae),
            (self.unet.loaded().is_some(), unet),
        ];
        let parts = parts.into_iter().filter_map(|(loaded, it)| loaded.then_some(it.kept));
        let loaded: usize = parts.sum();
        #[cfg(feature = "llava")]
        let loaded = loaded + self.captioner.as_ref().map_or(0, CaptionModel::loaded_bytes);
        loaded
    }

    /// The UNet's architecture.
    pub(super) fn unet_config(&self) -> &UNetConfig {
        &self.unet_config
    }

    /// The autoencoder's architecture.
    pub(super) fn vae_config(&self) -> &VaeConfig {
        &self.vae_config
    }

    /// How far around it the autoencoder sees, in latent pixels ([`Vae::context`]).
    pub(super) fn vae_context(&self) -> Option<usize> {
        self.vae_context
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
        match self.files.products() {
            MatmulPrecision::Bf16 if self.device.is_cpu() => {
                format!("cpu {}", MatmulPrecision::Bf16)
            }
            _ => device_name(&self.device, self.dtype),
        }
    }

    /// The backend, the precision, and on the CPU the instructions that it multiplies with.
    #[must_use]
    pub fn computes_on(&self) -> String {
        match self.files.products().instructions() {
            Some(instructions) if self.device.is_cpu() => {
                format!("{}, {instructions}", self.device_name())
            }
            _ => self.device_name(),
        }
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

    /// How many bytes all its weights take when they are loaded, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let Footprints { text, vae, unet } = self.footprints;
        text.kept + vae.kept + unet.kept
    }

    /// Regions per UNet call where the user says nothing.
    #[must_use]
    pub fn default_batch(&self) -> usize {
        match self.device {
            Device::Cpu => super::Defaults::BATCH_CPU,
            _ => super::Defaults::BATCH_GPU,
        }
    }

    /// Side of a VAE tile's core in image pixels where the user says nothing and memory allows.
    #[must_use]
    pub fn default_tile(&self) -> usize {
        let side = match self.vae_context {
            Some(_) => super::Defaults::TILE,
            None => super::Defaults::TILE_KL,
        };
        side as usize
    }

    /// Values from the host as a tensor that [`predict`](Self::predict) takes.
    pub(super) fn input(
        &self,
        values: Vec<f32>,
        shape: (usize, usize, usize, usize),
        dtype: DType,
    ) -> Result<Tensor, Error> {
        Ok(Tensor::from_vec(values, shape, &self.device)?.to_dtype(dtype)?)
    }

    /// One UNet call on a batch of regions.
    ///
    /// `z` and, for a model that sees it, `zl` are `[batch, height, width, C]`; the prediction comes
    /// back in the same layout, in f32. With guidance g the batch goes through the UNet twice in one
    /// call, and `conditioning` and `prior` hold `2·batch` entries: those of the negative prompt,
    /// then those of the prompt. The prediction is then `negative + g·(positive − negative)` (Ho and
    /// Salimans 2022, as diffusers writes it). The precision is that of `z`: the working precision, or f32.
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
        let dtype = sample.dtype();
        let output =
            self.unet(dtype)?.forward(&sample, timestep, &conditioning.to_dtype(dtype)?, prior)?;
        let output: Vec<f32> = output.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let Some(guidance) = guidance else { return Ok(output) };
        let guidance = guidance as f32;
        let (negative, positive) = output.split_at(output.len() / 2);
        let guided =
            |(negative, positive): (&f32, &f32)| negative + guidance * (positive - negative);
        Ok(negative.iter().zip(positive).map(guided).collect())
    }
}

/// A backend, and in what precision it computes.
pub(super) fn device_name(device: &Device, dtype: DType) -> String {
    let device = match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    };
    format!("{device} {}", dtype.as_str())
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

fn load_unet(
    files: &ModelFiles,
    device: &Device,
    dtype: DType,
) -> Result<UNet2DConditionModel, Error> {
    Ok(files.denoiser(device, dtype)?)
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
