//! Runner of a model on one device: its parts are loaded when a stage first calls them, stay or go as the plan
//! says, and compute what stages ask for. Stages see the trait [`Compute`] alone, so that each can be tested
//! without a model; and regions depend on nothing of each other, so that several runners could serve one step.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use tracing::{debug, debug_span};

use crate::{
    backend::{MatmulPrecision, device_name, give_back_freed},
    model::{
        denoiser::{Conditioning, Denoiser, MicroConditioning, Prior},
        text::{Cut, TextConditioner, TextConditioning},
        vae::{Norms, Vae},
    },
    weights::{Lazy, ModelFiles},
};

use super::{
    error::Error,
    model::{Blueprints, Footprints, Model, VAE_DTYPE},
    progress::Stage,
    settings::Defaults,
};

/// What stages ask of a device.
pub trait Compute: Sync {
    /// Where tensors of a call must lie.
    fn device(&self) -> &Device;

    /// The working precision, of the text encoders and the denoiser.
    fn dtype(&self) -> DType;

    /// Texts, through the text encoders: one row each.
    ///
    /// # Errors
    /// Parts that cannot be loaded, or those of the tokenizers and the backend.
    fn encode_texts(&self, texts: &[&str]) -> Result<TextConditioning, Error>;

    /// The conditions of the denoiser for these texts, one row each, all with the same sizes and places in the
    /// picture.
    ///
    /// # Errors
    /// Texts that the denoiser does not take, or those of the backend.
    fn condition(
        &self,
        texts: &TextConditioning,
        micro: MicroConditioning,
    ) -> Result<Conditioning, Error>;

    /// What of `text` is cut off because it is longer than the encoders take.
    ///
    /// # Errors
    /// Those of the tokenizers.
    fn cut(&self, text: &str) -> Result<Option<Cut>, Error>;

    /// A measure of whether a text fits all text encoders, uncut.
    ///
    /// # Errors
    /// A tokenizer that is missing or not supported.
    fn fits(&self) -> Result<Box<dyn Fn(&str) -> bool>, Error>;

    /// Frees the device of all parts that are loaded, whenever it is called.
    fn make_room(&self) -> Arc<dyn Fn() + Send + Sync>;

    /// Pictures `[B, H, W, 3]` in -1..=1, through the autoencoder: latents `[B, H/f, W/f, C]`.
    ///
    /// # Errors
    /// A part that cannot be loaded, or those of the backend.
    fn encode(&self, pixels: &Tensor, norms: Norms<'_>) -> Result<Tensor, Error>;

    /// Latents `[B, h, w, C]`, through the autoencoder: pictures `[B, f·h, f·w, 3]` around -1..=1.
    ///
    /// # Errors
    /// A part that cannot be loaded, or those of the backend.
    fn decode(&self, latents: &Tensor, norms: Norms<'_>) -> Result<Tensor, Error>;

    /// One call of the denoiser on a batch of regions. The prediction has the layout of the call's `z`, in f32.
    ///
    /// With guidance g the batch goes through the denoiser twice in one call, and `conditioning` and `prior`
    /// hold `2·batch` entries: those of the negative prompt, then those of the prompt. The prediction is then
    /// `negative + g·(positive − negative)` (Ho and Salimans 2022, as diffusers writes it).
    ///
    /// # Errors
    /// A part that cannot be loaded, or those of the backend.
    fn predict(
        &self,
        call: &Call,
        conditioning: &Conditioning,
        prior: Prior<'_>,
    ) -> Result<Vec<f32>, Error>;

    /// The error for values that are not numbers. Where the weights are to blame the first such one is named.
    fn non_finite(&self, stage: Stage) -> Error;
}

/// The arguments of one denoiser call. Its precision is that of `z`: the working precision, or f32.
pub struct Call {
    /// `[batch, height, width, C]`
    pub z: Tensor,
    /// The low-resolution latent in the same layout, for a model that sees it.
    pub zl: Option<Tensor>,
    /// Of the model's schedule.
    pub timestep: f64,
    /// Strength of classifier-free guidance; `None` without.
    pub guidance: Option<f64>,
}

/// A model's parts on one device.
pub struct Runner {
    files: ModelFiles,
    device: Device,
    dtype: DType,
    blueprints: Arc<Blueprints>,
    parts: Parts,
}

/// Parts while they are loaded. A clone is the same parts.
#[derive(Clone, Default)]
struct Parts {
    denoiser: Lazy<Denoiser>,
    /// The denoiser again, for what overflows in the working precision.
    denoiser_f32: Lazy<Denoiser>,
    vae: Lazy<Vae>,
    text: Lazy<TextConditioner>,
}

impl Parts {
    fn free(&self) {
        self.denoiser.free();
        self.denoiser_f32.free();
        self.vae.free();
        self.text.free();
        give_back_freed();
    }
}

impl Runner {
    /// For `device`, in the precision `dtype`, of the files that `model` was read from. Nothing is loaded yet.
    pub fn new(files: ModelFiles, model: &Model, device: Device, dtype: DType) -> Self {
        let blueprints = Arc::clone(&model.blueprints);
        Self { files, device, dtype, blueprints, parts: Parts::default() }
    }

    /// The denoiser in the working precision or in f32, loaded if it is not.
    fn denoiser(&self, dtype: DType) -> Result<Arc<Denoiser>, Error> {
        let load = || {
            debug!(dtype = dtype.as_str(), "loading the denoiser");
            Ok(self.files.denoiser(&self.device, dtype)?)
        };
        if dtype == self.dtype {
            return self.parts.denoiser.get(load);
        }
        get_or_make_room(&self.parts.denoiser_f32, &self.parts.denoiser, load)
    }

    /// The autoencoder, loaded if it is not.
    fn vae(&self) -> Result<Arc<Vae>, Error> {
        self.parts.vae.get(|| {
            debug!("loading the autoencoder");
            Ok(self.files.vae(&self.device, VAE_DTYPE)?)
        })
    }

    /// The text encoders, loaded if they are not.
    fn text(&self) -> Result<Arc<TextConditioner>, Error> {
        self.parts.text.get(|| {
            debug!("loading the text encoders");
            Ok(self.files.text(&self.device, self.dtype)?)
        })
    }

    /// Forgets the parts that are loaded; a part that is in use goes when it is no longer.
    pub fn free_parts(&self) {
        self.parts.free();
    }

    /// How many bytes of weights are loaded on the device now, of parts that take what `footprints` says.
    pub fn loaded_bytes(&self, footprints: &Footprints) -> usize {
        let Footprints { text, vae, denoiser } = footprints;
        let parts = [
            (self.parts.text.loaded().is_some(), text),
            (self.parts.vae.loaded().is_some(), vae),
            (self.parts.denoiser.loaded().is_some(), denoiser),
        ];
        parts.into_iter().filter_map(|(loaded, it)| loaded.then_some(it.kept)).sum()
    }

    /// The backend that computes, and in what precision: results differ between them.
    pub fn device_name(&self) -> String {
        match self.files.precision() {
            MatmulPrecision::Bf16 if self.device.is_cpu() => {
                format!("cpu {}", MatmulPrecision::Bf16)
            }
            _ => device_name(&self.device, self.dtype),
        }
    }

    /// The backend, the precision, and on the CPU the instructions that it multiplies with.
    pub fn computes_on(&self) -> String {
        match self.files.precision().instructions() {
            Some(instructions) if self.device.is_cpu() => {
                format!("{}, {instructions}", self.device_name())
            }
            _ => self.device_name(),
        }
    }

    /// Regions per denoiser call where the user says nothing.
    pub fn default_batch(&self) -> usize {
        match self.device {
            Device::Cpu => Defaults::BATCH_CPU,
            _ => Defaults::BATCH_GPU,
        }
    }
}

impl Compute for Runner {
    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn encode_texts(&self, texts: &[&str]) -> Result<TextConditioning, Error> {
        Ok(self.text()?.encode(texts)?)
    }

    fn condition(
        &self,
        texts: &TextConditioning,
        micro: MicroConditioning,
    ) -> Result<Conditioning, Error> {
        Ok(self.blueprints.denoiser.condition(texts, micro)?)
    }

    fn cut(&self, text: &str) -> Result<Option<Cut>, Error> {
        Ok(self.text()?.cut(text)?)
    }

    fn fits(&self) -> Result<Box<dyn Fn(&str) -> bool>, Error> {
        let tokenizers = self.files.tokenizers()?;
        // What cannot be measured will be noted when it is encoded.
        Ok(Box::new(move |text| tokenizers.iter().all(|it| matches!(it.cut(text), Ok(None)))))
    }

    fn make_room(&self) -> Arc<dyn Fn() + Send + Sync> {
        let parts = self.parts.clone();
        Arc::new(move || parts.free())
    }

    fn encode(&self, pixels: &Tensor, norms: Norms<'_>) -> Result<Tensor, Error> {
        Ok(self.vae()?.encode_with(&pixels.into(), norms)?.into_tensor()?)
    }

    fn decode(&self, latents: &Tensor, norms: Norms<'_>) -> Result<Tensor, Error> {
        Ok(self.vae()?.decode_with(&latents.into(), norms)?.into_tensor()?)
    }

    fn predict(
        &self,
        call: &Call,
        conditioning: &Conditioning,
        prior: Prior<'_>,
    ) -> Result<Vec<f32>, Error> {
        let _span = debug_span!("predict", batch = call.z.dims()[0], t = call.timestep).entered();
        let &Call { ref z, ref zl, timestep, guidance } = call;
        let mut sample = match zl {
            Some(zl) => Tensor::cat(&[z, zl], 3)?,
            None => z.clone(),
        };
        if guidance.is_some() {
            sample = Tensor::cat(&[&sample, &sample], 0)?;
        }
        let dtype = sample.dtype();
        let conditioning = conditioning.to_dtype(dtype)?;
        let denoiser = self.denoiser(dtype)?;
        let output = denoiser.forward(&sample.into(), timestep, &conditioning, prior)?;
        let output: Vec<f32> =
            output.into_tensor()?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let Some(guidance) = guidance else { return Ok(output) };
        let guidance = guidance as f32;
        let (negative, positive) = output.split_at(output.len() / 2);
        let guided =
            |(negative, positive): (&f32, &f32)| negative + guidance * (positive - negative);
        Ok(negative.iter().zip(positive).map(guided).collect())
    }

    fn non_finite(&self, stage: Stage) -> Error {
        // They are searched only now, because reading them all takes as long as loading the model.
        Error::NonFinite { stage, weight: self.files.find_non_finite() }
    }
}

/// `part`, loaded if it is not; where the device has no memory for it beside `other`, that one goes.
fn get_or_make_room<T, U>(
    part: &Lazy<T>,
    other: &Lazy<U>,
    load: impl Fn() -> Result<T, Error>,
) -> Result<Arc<T>, Error> {
    match part.get(&load) {
        Err(error) if error.is_out_of_memory() && other.loaded().is_some() => {
            debug!("no memory for both precisions of the denoiser, one of them goes");
            other.free();
            give_back_freed();
            part.get(load)
        }
        loaded => loaded,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn where_both_precisions_do_not_fit_the_other_one_goes_and_the_load_is_tried_again() {
        let (part, other) = (Lazy::<u8>::default(), Lazy::<u8>::default());
        let tries = Cell::new(0);
        let load = || {
            tries.set(tries.get() + 1);
            if other.loaded().is_some() {
                // As a loader has it: the backend's error below that of the weights.
                let exhausted = candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".to_owned());
                return Err(Error::Weights(exhausted.into()));
            }
            Ok(7)
        };
        other.get(|| Ok::<_, Error>(1)).unwrap();
        assert_eq!(*get_or_make_room(&part, &other, load).unwrap(), 7);
        assert!(other.loaded().is_none());
        assert_eq!(tries.get(), 2);
    }

    #[test]
    fn a_load_that_fails_for_another_reason_or_with_nothing_to_free_is_not_tried_again() {
        let (part, other) = (Lazy::<u8>::default(), Lazy::<u8>::default());
        let tries = Cell::new(0);
        let fail = |message: &'static str| {
            let (tries, part, other) = (&tries, &part, &other);
            let load = || {
                tries.set(tries.get() + 1);
                Err(Error::Weights(candle_core::Error::Msg(message.to_owned()).into()))
            };
            get_or_make_room(part, other, load).unwrap_err()
        };
        assert!(fail("CUDA_ERROR_OUT_OF_MEMORY").is_out_of_memory());
        other.get(|| Ok::<_, Error>(1)).unwrap();
        assert!(!fail("no such tensor").is_out_of_memory());
        assert_eq!(tries.get(), 2);
        assert!(other.loaded().is_some());
    }
}
