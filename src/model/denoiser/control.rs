//! Controls (ControlNets): networks beside a denoiser that see a picture, and add what they make of it to the denoiser's
//! own features. Jobs hand a [`ControlSignal`] from the one to the other without knowing what is in it.

use std::{fmt, sync::Arc};

use candle_core::Result;
use serde_json::Value;

use super::{conditioning::Conditioning, error::DenoiserError};
use crate::backend::{Activation, Params, ops::add};

/// What the picture of a control shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ControlKind {
    /// The picture that is to be made, in low resolution.
    #[default]
    Tile,
    /// White edges on black.
    Canny,
    /// The picture that is to be made, blurred.
    Blur,
}

impl ControlKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Tile, Self::Canny, Self::Blur];

    /// Its name, in the output's metadata and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tile => "tile",
            Self::Canny => "canny",
            Self::Blur => "blur",
        }
    }
}

/// The picture of a control in one call.
#[derive(Clone, Debug)]
pub struct ControlPicture<'a> {
    /// `[B, f·h, f·w, 3]`, red, green and blue in 0..=1, f pixels for each side of a latent pixel; or of half as many
    /// samples as there are, of which both halves have the same.
    pub pixels: &'a Activation,
    pub kind: ControlKind,
}

/// What controls add within one call of a denoiser.
#[derive(Clone, Debug)]
pub struct ControlSignal {
    /// for each skip connection, in the order in which the encoder leaves them: `[B, h, w, C]`
    pub(super) skips: Vec<Activation>,
    /// for the output of the middle, `[B, h, w, C]`
    pub(super) middle: Activation,
}

impl ControlSignal {
    /// What it has for each skip connection, in the encoder's order, and for the output of the middle.
    #[must_use]
    pub fn parts(&self) -> (&[Activation], &Activation) {
        (&self.skips, &self.middle)
    }

    /// The sum of two.
    ///
    /// # Errors
    /// Signals for different denoisers, or those of the backend.
    pub fn plus(self, other: Self) -> Result<Self> {
        if self.skips.len() != other.skips.len() {
            candle_core::bail!("controls for different denoisers");
        }
        let pairs = self.skips.into_iter().zip(other.skips);
        Ok(Self {
            skips: pairs.map(|(own, other)| add(&own, &other)).collect::<Result<_>>()?,
            middle: add(&self.middle, &other.middle)?,
        })
    }
}

/// Sizes by which a denoiser knows whether a control was made for its like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlShape {
    /// channels of the sample
    pub inputs: usize,
    /// width of the text tokens
    pub context: Option<usize>,
    /// width of the pooled text embedding and the numbers beside it, where it takes them
    pub added: Option<usize>,
    /// channels for each skip connection
    pub skips: Vec<usize>,
    /// channels for the middle
    pub middle: usize,
    /// pixels of its picture for each side of a latent pixel
    pub factor: usize,
}

/// A control's network. It computes in the precision of the `Params` it was loaded from; within a memory trace it runs on
/// shapes alone.
pub trait ControlNetwork: fmt::Debug + Send + Sync {
    /// Its sizes.
    fn shape(&self) -> ControlShape;

    /// Checks that it was made for pictures of this kind, where it makes a difference between kinds.
    ///
    /// # Errors
    /// [`DenoiserError::Unsuited`].
    fn check_kind(&self, kind: ControlKind) -> std::result::Result<(), DenoiserError>;

    /// What it adds to the denoiser's call with the same arguments, times `scale`.
    ///
    /// # Errors
    /// Shapes that do not fit the network or each other, or those of the backend.
    fn forward(
        &self,
        z: &Activation,
        timestep: f64,
        cond: &Conditioning,
        picture: &ControlPicture<'_>,
        scale: f64,
    ) -> Result<ControlSignal>;

    /// Bytes of its weights, in memory or mapped.
    fn weight_bytes(&self) -> usize;
}

/// A class of diffusers that describes controls.
pub struct ControlClass {
    /// The names in `_class_name`.
    pub names: &'static [&'static str],
    /// Builds the control that a `config.json` describes; the file's name is for errors.
    pub load: LoadControl,
}

/// Configuration, the configuration file's full name, weights → network.
pub type LoadControl =
    fn(&Value, &str, &Params) -> std::result::Result<Arc<dyn ControlNetwork>, DenoiserError>;
