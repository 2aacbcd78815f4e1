//! Runner of a model on one device: parts are loaded on first use and unloaded according to the plan. Stages use the
//! trait [`Compute`] alone, so that each can be tested without a model. Of several devices each has a runner, with parts
//! of its own; what they share goes through [`queue`](super::queue).

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use tracing::{debug, debug_span};

use crate::{
    backend::{MatmulPrecision, Reading, device_name, give_back_all, give_back_freed},
    caption::wording::{CaptionLength, Fits},
    model::{
        denoiser::{
            Conditioning, Control, ControlKind, ControlPicture, ControlSignal, Denoiser,
            MicroConditioning, Prior,
        },
        text::{Cut, Prompt, TextConditioner, TextConditioning},
        vae::{FeatureMaps, Globals, LayerwiseSize, Vae},
    },
    weights::{Lazy, ModelFiles},
};

use super::{
    error::Error,
    model::{Blueprints, Footprints, Model, VAE_DTYPE},
    progress::Stage,
    settings::Defaults,
    text_states::TextStates,
};

/// Operations of a device that stages use.
pub trait Compute: Sync {
    /// Device of a call's tensors.
    fn device(&self) -> &Device;

    /// Working precision of the text encoders and the denoiser.
    fn dtype(&self) -> DType;

    /// Encodes prompts, one row each, all to as many chunks.
    ///
    /// # Errors
    /// Parts that cannot be loaded; errors of the tokenizers and the backend.
    fn encode_texts(&self, texts: &[&Prompt], chunks: usize) -> Result<TextConditioning, Error>;

    /// How many chunks a prompt takes.
    ///
    /// # Errors
    /// A prompt that the model does not take; errors of the tokenizers.
    fn chunks(&self, text: &Prompt) -> Result<usize, Error>;

    /// Denoiser conditions of these texts, one row each, all with the same micro-conditioning.
    ///
    /// # Errors
    /// Texts that the denoiser does not accept; errors of the backend.
    fn condition(
        &self,
        texts: &TextConditioning,
        micro: MicroConditioning,
    ) -> Result<Conditioning, Error>;

    /// The same conditions with this strength of guidance, for a model that is given it.
    ///
    /// # Errors
    /// Errors of the backend.
    fn with_guidance(&self, conditions: &Conditioning, scale: f64) -> Result<Conditioning, Error>;

    /// The part of `text` beyond the encoders' token limit, or beyond so many chunks, if any.
    ///
    /// # Errors
    /// Errors of the tokenizers.
    fn cut(&self, text: &Prompt, chunks: usize) -> Result<Option<Cut>, Error>;

    /// Predicate: the model takes the text uncut.
    fn fits(&self) -> Fits<'static>;

    /// Length of captions that the model reads whole.
    fn caption_length(&self) -> CaptionLength;

    /// Callback that unloads all parts of the model from the device.
    fn make_room(&self) -> Arc<dyn Fn() + Send + Sync>;

    /// Encodes pictures `[B, H, W, 3]` in -1..=1 to latents `[B, H/f, W/f, C]`.
    ///
    /// # Errors
    /// A part that cannot be loaded; errors of the backend.
    fn encode(&self, pixels: &Tensor, globals: Globals<'_>) -> Result<Tensor, Error>;

    /// Decodes latents `[B, h, w, C]` to pictures `[B, f·h, f·w, 3]` around -1..=1.
    ///
    /// # Errors
    /// A part that cannot be loaded; errors of the backend.
    fn decode(&self, latents: &Tensor, globals: Globals<'_>) -> Result<Tensor, Error>;

    /// Encodes the canvas of which `maps` has the picture, layer by layer.
    ///
    /// # Errors
    /// A part that cannot be loaded; errors of `maps` and the backend.
    fn encode_layerwise(
        &self,
        size: LayerwiseSize,
        maps: &mut dyn FeatureMaps,
    ) -> Result<(), Error>;

    /// Decodes the canvas of which `maps` has the latents, layer by layer.
    ///
    /// # Errors
    /// A part that cannot be loaded; errors of `maps` and the backend.
    fn decode_layerwise(
        &self,
        size: LayerwiseSize,
        maps: &mut dyn FeatureMaps,
    ) -> Result<(), Error>;

    /// One call of the denoiser on a batch of regions. A device may still be computing it when this returns.
    ///
    /// With guidance g the batch goes through the denoiser twice in one call, and `conditioning` and `prior`
    /// hold `2·batch` entries: those of the negative prompt, then those of the prompt. The prediction is then
    /// `negative + g·(positive − negative)` (Ho and Salimans 2022, as diffusers writes it).
    ///
    /// # Errors
    /// A part that cannot be loaded; errors of the backend.
    fn predict(
        &self,
        call: &Call,
        conditioning: &Conditioning,
        prior: Prior<'_>,
    ) -> Result<Prediction, Error>;

    /// Error for non-finite values; names the first weight with such values, if any.
    fn non_finite(&self, stage: Stage) -> Error;
}

/// The arguments of one denoiser call. Its precision is that of `z`: the working precision, or f32.
pub struct Call {
    /// `[batch, height, width, C]`
    pub z: Tensor,
    /// Low-resolution latent in the same layout, for a model that takes it.
    pub zl: Option<Tensor>,
    /// Timestep of the model's schedule.
    pub timestep: f64,
    /// Strength of classifier-free guidance; `None` without.
    pub guidance: Option<f64>,
    /// The controls that work in it.
    pub controls: Vec<ControlInput>,
}

/// What a control is given in one denoiser call.
pub struct ControlInput {
    /// Its number among those of the model.
    pub control: usize,
    /// Factor of what it adds.
    pub scale: f64,
    /// What its picture shows.
    pub kind: ControlKind,
    /// `[batch, f·height, f·width, 3]` in 0..=1, for both halves of a pair.
    pub pixels: Tensor,
}

/// The result of a denoiser call, which a device may still be computing.
pub struct Prediction {
    output: Reading,
    /// Strength of the guidance, where the output is for the negative prompt and then for the prompt.
    guidance: Option<f64>,
}

impl Prediction {
    /// Prediction from a denoiser's output, with guidance twice as many rows as the call's.
    pub fn new(output: Reading, guidance: Option<f64>) -> Self {
        Self { output, guidance }
    }

    /// True if its values need not be waited for.
    pub fn is_here(&self) -> bool {
        self.output.is_here()
    }

    /// The values, in f32, in the layout of the call's `z`.
    ///
    /// # Errors
    /// Errors of the backend, of the computation as well.
    pub fn values(self) -> Result<Vec<f32>, Error> {
        let output = self.output.wait()?;
        let Some(guidance) = self.guidance else { return Ok(output) };
        let guidance = guidance as f32;
        let (negative, positive) = output.split_at(output.len() / 2);
        let guided =
            |(negative, positive): (&f32, &f32)| negative + guidance * (positive - negative);
        Ok(negative.iter().zip(positive).map(guided).collect())
    }
}

/// A model's parts on one device.
pub struct Runner {
    files: ModelFiles,
    device: Device,
    dtype: DType,
    blueprints: Arc<Blueprints>,
    parts: Parts,
    /// Texts of earlier jobs, where encoding one is dear.
    text_states: TextStates,
}

/// Lazily loaded parts; a clone shares them.
#[derive(Clone, Default)]
struct Parts {
    denoiser: Lazy<Controlled>,
    /// The denoiser in f32, for regions that overflow in the working precision.
    denoiser_f32: Lazy<Controlled>,
    vae: Lazy<Vae>,
    text: Lazy<TextConditioner>,
}

/// The denoiser with its controls, which are loaded and unloaded together.
struct Controlled {
    denoiser: Denoiser,
    controls: Vec<Control>,
}

impl Parts {
    fn free(&self) {
        self.denoiser.free();
        self.denoiser_f32.free();
        self.vae.free();
        self.text.free();
    }
}

impl Runner {
    /// Runner of `model`, read from `files`, on `device` in the precision `dtype`; nothing is loaded yet.
    pub fn new(files: ModelFiles, model: &Model, device: Device, dtype: DType) -> Self {
        let blueprints = Arc::clone(&model.blueprints);
        let (parts, text_states) = (Parts::default(), TextStates::default());
        Self { files, device, dtype, blueprints, parts, text_states }
    }

    /// The denoiser with its controls in the working precision or in f32, loaded if it is not.
    fn denoiser(&self, dtype: DType) -> Result<Arc<Controlled>, Error> {
        let load = || {
            debug!(dtype = dtype.as_str(), "loading the denoiser");
            let denoiser = self.files.denoiser(&self.device, dtype)?;
            Ok(Controlled { denoiser, controls: self.files.load_controls(&self.device, dtype)? })
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

    /// Unloads all parts; a part in use is freed after its last use.
    pub fn free_parts(&self) {
        self.parts.free();
        give_back_all(&self.device);
    }

    /// Bytes of the weights loaded on the device now, according to `footprints`.
    pub fn loaded_bytes(&self, footprints: &Footprints) -> usize {
        let Footprints { text, vae, denoiser } = footprints;
        let parts = [
            (self.parts.text.loaded().is_some(), text),
            (self.parts.vae.loaded().is_some(), vae),
            (self.parts.denoiser.loaded().is_some(), denoiser),
        ];
        parts.into_iter().filter_map(|(loaded, it)| loaded.then_some(it.kept)).sum()
    }

    /// Matmul precision of the denoiser on the CPU.
    pub fn precision(&self) -> MatmulPrecision {
        self.files.precision()
    }

    /// Backend and precision; results differ between them.
    pub fn device_name(&self) -> String {
        match self.files.precision() {
            MatmulPrecision::Bf16 if self.device.is_cpu() => {
                format!("cpu {}", MatmulPrecision::Bf16)
            }
            _ => device_name(&self.device, self.dtype),
        }
    }

    /// Backend, precision, and on the CPU the instruction set of its matrix products.
    pub fn computes_on(&self) -> String {
        match self.files.precision().instructions() {
            Some(instructions) if self.device.is_cpu() => {
                format!("{}, {instructions}", self.device_name())
            }
            _ => self.device_name(),
        }
    }

    /// Default number of regions per denoiser call.
    pub fn default_batch(&self) -> usize {
        match self.device {
            Device::Cpu => Defaults::BATCH_CPU,
            _ => Defaults::BATCH_GPU,
        }
    }

    /// Default bound in bytes of the disk that the autoencoder may use.
    pub fn default_vae_disk(&self) -> u64 {
        match self.device {
            Device::Cpu => Defaults::VAE_DISK_CPU,
            _ => Defaults::VAE_DISK_GPU,
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

    fn encode_texts(&self, texts: &[&Prompt], chunks: usize) -> Result<TextConditioning, Error> {
        if !self.blueprints.text.is_dear() {
            return Ok(self.text()?.encode_prompts(texts, chunks)?);
        }
        self.text_states.encode(texts, chunks, &self.device, |text| {
            Ok(self.text()?.encode_prompts(&[text], chunks)?)
        })
    }

    fn chunks(&self, text: &Prompt) -> Result<usize, Error> {
        Ok(self.blueprints.text.tokenizers().count(text)?)
    }

    fn condition(
        &self,
        texts: &TextConditioning,
        micro: MicroConditioning,
    ) -> Result<Conditioning, Error> {
        Ok(self.blueprints.denoiser.condition(texts, micro)?)
    }

    fn with_guidance(&self, conditions: &Conditioning, scale: f64) -> Result<Conditioning, Error> {
        Ok(self.blueprints.denoiser.with_guidance(conditions, scale)?)
    }

    fn cut(&self, text: &Prompt, chunks: usize) -> Result<Option<Cut>, Error> {
        Ok(self.blueprints.text.tokenizers().cut_prompt(text, chunks)?)
    }

    fn fits(&self) -> Fits<'static> {
        // A text that a tokenizer rejects is reported when it is encoded.
        let blueprints = Arc::clone(&self.blueprints);
        Box::new(move |text| matches!(blueprints.text.tokenizers().cut(text), Ok(None)))
    }

    fn caption_length(&self) -> CaptionLength {
        CaptionLength::of_room(self.blueprints.text.tokenizers().room())
    }

    fn make_room(&self) -> Arc<dyn Fn() + Send + Sync> {
        let (parts, device) = (self.parts.clone(), self.device.clone());
        Arc::new(move || {
            parts.free();
            give_back_all(&device);
        })
    }

    fn encode(&self, pixels: &Tensor, globals: Globals<'_>) -> Result<Tensor, Error> {
        Ok(self.vae()?.encode_with(&pixels.into(), globals)?.into_tensor()?)
    }

    fn decode(&self, latents: &Tensor, globals: Globals<'_>) -> Result<Tensor, Error> {
        Ok(self.vae()?.decode_with(&latents.into(), globals)?.into_tensor()?)
    }

    fn encode_layerwise(
        &self,
        size: LayerwiseSize,
        maps: &mut dyn FeatureMaps,
    ) -> Result<(), Error> {
        Ok(self.vae()?.encode_layerwise(size, maps)?)
    }

    fn decode_layerwise(
        &self,
        size: LayerwiseSize,
        maps: &mut dyn FeatureMaps,
    ) -> Result<(), Error> {
        Ok(self.vae()?.decode_layerwise(size, maps)?)
    }

    fn predict(
        &self,
        call: &Call,
        conditioning: &Conditioning,
        prior: Prior<'_>,
    ) -> Result<Prediction, Error> {
        let _span = debug_span!("predict", batch = call.z.dims()[0], t = call.timestep).entered();
        let &Call { ref z, ref zl, timestep, guidance, ref controls } = call;
        let mut sample = match zl {
            Some(zl) => Tensor::cat(&[z, zl], 3)?,
            None => z.clone(),
        };
        if guidance.is_some() {
            sample = Tensor::cat(&[&sample, &sample], 0)?;
        }
        let dtype = sample.dtype();
        let conditioning = conditioning.to_dtype(dtype)?;
        let loaded = self.denoiser(dtype)?;
        let sample = sample.into();
        let mut added: Option<ControlSignal> = None;
        for &ControlInput { control, scale, kind, ref pixels } in controls {
            let picture = ControlPicture { pixels: &pixels.into(), kind };
            let control = &loaded.controls[control];
            let own = control.forward(&sample, timestep, &conditioning, &picture, scale)?;
            added = Some(match added {
                Some(others) => others.plus(own)?,
                None => own,
            });
        }
        let denoiser = &loaded.denoiser;
        let output = match added {
            None => denoiser.forward(&sample, timestep, &conditioning, prior)?,
            Some(added) => {
                denoiser.forward_controlled(&sample, timestep, &conditioning, prior, added)?
            }
        };
        Ok(Prediction::new(Reading::begin(&output.into_tensor()?)?, guidance))
    }

    fn non_finite(&self, stage: Stage) -> Error {
        // The weights are searched only now, because that takes as long as loading the model.
        Error::NonFinite { stage, weight: self.files.find_non_finite() }
    }
}

/// Loads `part`; if the device has no memory for both, `other` is unloaded first.
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
