//! The trait that a denoiser's family implements, and the class by which its configurations name it.

use std::{fmt, sync::Arc};

use candle_core::Result;
use serde_json::Value;

use super::{
    conditioning::{Conditioning, MicroConditioning},
    control::{ControlShape, ControlSignal},
    error::DenoiserError,
    prior::Prior,
    shape::DenoiserShape,
};
use crate::{
    backend::{Activation, Params},
    model::text::{TextConditioner, TextConditioning},
};

/// A denoiser's network. It computes in the precision of the `Params` it was loaded from; within a memory trace it
/// runs on shapes alone.
pub trait DenoisingNetwork: fmt::Debug + Send + Sync {
    /// The shape that a job must have.
    ///
    /// # Errors
    /// [`DenoiserError::Unsuited`]: channels that are neither a latent's nor twice as many, or a native
    /// size that is missing, no square, no multiple, or larger than any model's.
    fn shape(&self) -> std::result::Result<DenoiserShape, DenoiserError>;

    /// Checks that it takes what `text` makes.
    ///
    /// # Errors
    /// [`DenoiserError::Text`]: other widths, which are those of another model's parts.
    fn check_text(&self, text: &TextConditioner) -> std::result::Result<(), DenoiserError>;

    /// The conditions for these texts, one row each, all with the same sizes and places in the picture.
    ///
    /// # Errors
    /// Texts without a pooled embedding for a family that takes one, or those of the backend.
    fn condition(&self, text: &TextConditioning, micro: MicroConditioning) -> Result<Conditioning>;

    /// `true` for a model that is given the strength of guidance (a latent consistency model): one call of it is
    /// what two of another are with guidance.
    fn embeds_guidance(&self) -> bool {
        false
    }

    /// The same conditions with this strength of guidance, for a model that is given it; all others leave them as they
    /// are.
    ///
    /// # Errors
    /// Those of the backend.
    fn with_guidance(&self, cond: &Conditioning, scale: f64) -> Result<Conditioning> {
        let _ = scale;
        Ok(cond.clone())
    }

    /// Heights and widths of the layers that [`Prior`] speaks of, in visiting order, for a sample of
    /// `height` × `width` latent pixels.
    fn prior_sizes(&self, height: usize, width: usize) -> Vec<(usize, usize)>;

    /// One prediction (ε or v, as the model was trained).
    ///
    /// `z` is `[B, h, w, C]` in latent pixels, `timestep` one of the schedule that the model was trained
    /// on, `cond` has one row per sample. The result is `[B, h, w, channels]` in the model's precision.
    ///
    /// # Errors
    /// Shapes that do not fit the model or each other, a prior that does not match the layers, or those
    /// of the backend.
    fn forward(
        &self,
        z: &Activation,
        timestep: f64,
        cond: &Conditioning,
        prior: Prior<'_>,
    ) -> Result<Activation>;

    /// Checks that a control of this shape was made for such a denoiser. Families without controls take none.
    ///
    /// # Errors
    /// [`DenoiserError::Unsuited`]: a control for another family, or for another size of this one.
    fn check_control(&self, _: &ControlShape) -> std::result::Result<(), DenoiserError> {
        let reason = "it was made for a UNet, and the model's denoiser is a transformer";
        Err(DenoiserError::Unsuited(reason.to_owned()))
    }

    /// [`forward`](Self::forward) with what controls add.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and a signal that does not fit, as none does where the family has no controls.
    fn forward_controlled(
        &self,
        _z: &Activation,
        _timestep: f64,
        _cond: &Conditioning,
        _prior: Prior<'_>,
        _control: ControlSignal,
    ) -> Result<Activation> {
        candle_core::bail!("denoiser: a family without controls")
    }

    /// Bytes of its weights, in memory or mapped.
    fn weight_bytes(&self) -> usize;
}

/// A class of diffusers that describes denoisers of one family.
pub struct DenoiserClass {
    /// The name in `_class_name` and `model_index.json`.
    pub name: &'static str,
    /// Builds the denoiser that a `config.json` describes; the file's name is for errors.
    pub load: LoadNetwork,
}

/// Configuration, the configuration file's full name, weights → network.
pub type LoadNetwork =
    fn(&Value, &str, &Params) -> std::result::Result<Arc<dyn DenoisingNetwork>, DenoiserError>;
