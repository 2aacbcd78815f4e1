//! Denoisers: the network of a diffusion model, whatever its family. Jobs see this seam alone: shapes,
//! opaque conditions, a hook for priors, one call. A family is a folder here and one line in each
//! `match` below.

mod conditioning;
mod error;
mod prior;
mod shape;
pub mod unet;

use candle_core::Result;
use serde_json::Value;

use super::text::{TextConditioner, TextConditioning};
use crate::backend::{Activation, Params};
pub use conditioning::{Conditioning, MicroConditioning};
pub use error::DenoiserError;
pub use prior::Prior;
pub use shape::DenoiserShape;
use unet::UNet2DConditionModel;

/// A denoiser of any family. It computes in the precision of the `Params` it was loaded from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Denoiser {
    UNet(Box<UNet2DConditionModel>),
}

impl Denoiser {
    /// The classes of diffusers that there is a family for.
    pub const CLASSES: &[&str] = &[unet::CLASS];

    /// Builds the denoiser of diffusers' `class` that `config` describes, with the weights of `params`.
    /// `config_file` is named in errors. Where nothing names a class, the configuration is read as the
    /// first family's.
    ///
    /// # Errors
    /// A class or a field that is not supported, or a tensor that is missing or of another shape.
    pub fn load(
        class: &str,
        config: &Value,
        config_file: &str,
        params: &Params,
    ) -> std::result::Result<Self, DenoiserError> {
        let file = config_file.to_owned();
        match class {
            unet::CLASS | "" => UNet2DConditionModel::from_config(config, params)
                .map(|unet| Self::UNet(Box::new(unet)))
                .map_err(|error| error.of_file(file)),
            _ => Err(DenoiserError::Class {
                file,
                class: class.to_owned(),
                known: Self::CLASSES.join(", "),
            }),
        }
    }

    /// The shape that a job must have.
    ///
    /// # Errors
    /// [`DenoiserError::Unsuited`]: channels that are neither a latent's nor twice as many, or a native
    /// size that is missing, no square, no multiple, or larger than any model's.
    pub fn shape(&self) -> std::result::Result<DenoiserShape, DenoiserError> {
        match self {
            Self::UNet(unet) => unet.shape(),
        }
    }

    /// Checks that it takes what `text` makes.
    ///
    /// # Errors
    /// [`DenoiserError::Text`]: other widths, which are those of another model's parts.
    pub fn check_text(&self, text: &TextConditioner) -> std::result::Result<(), DenoiserError> {
        match self {
            Self::UNet(unet) => unet.check_text(text),
        }
    }

    /// The conditions for these texts, one row each, all with the same sizes and places in the picture.
    ///
    /// # Errors
    /// Texts without a pooled embedding for a family that takes one, or those of the backend.
    pub fn condition(
        &self,
        text: &TextConditioning,
        micro: MicroConditioning,
    ) -> Result<Conditioning> {
        match self {
            Self::UNet(unet) => unet.condition(text, micro),
        }
    }

    /// Heights and widths of the layers that [`Prior`] speaks of, in visiting order, for a sample of
    /// `height` × `width` latent pixels.
    #[must_use]
    pub fn prior_sizes(&self, height: usize, width: usize) -> Vec<(usize, usize)> {
        match self {
            Self::UNet(unet) => unet.config().cross_attention_sizes(height, width),
        }
    }

    /// One prediction (ε or v, as the model was trained).
    ///
    /// `z` is `[B, h, w, C]` in latent pixels, `timestep` one of the schedule that the model was trained
    /// on, `cond` has one row per sample. The result is `[B, h, w, channels]` in the model's precision.
    ///
    /// # Errors
    /// Shapes that do not fit the model or each other, a prior that does not match the layers, or those
    /// of the backend.
    pub fn forward(
        &self,
        z: &Activation,
        timestep: f64,
        cond: &Conditioning,
        prior: Prior<'_>,
    ) -> Result<Activation> {
        match self {
            Self::UNet(unet) => unet.forward(z, timestep, cond, prior),
        }
    }

    /// Bytes of its weights, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        match self {
            Self::UNet(unet) => unet.weight_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device};
    use serde_json::json;

    use super::*;

    fn load(class: &str, config: &Value) -> DenoiserError {
        let params = Params::from_tensors(HashMap::new(), DType::F32, &Device::Cpu);
        Denoiser::load(class, config, "model/unet/config.json", &params).unwrap_err()
    }

    #[test]
    fn an_unknown_class_is_refused_by_name_and_the_known_ones_are_listed() {
        let error = load("SD3Transformer2DModel", &json!({})).to_string();
        assert_eq!(
            error,
            "model/unet/config.json: `SD3Transformer2DModel` is not supported (UNet2DConditionModel)"
        );
    }

    #[test]
    fn an_error_of_a_family_names_its_file_and_keeps_the_backends_error() {
        let error = load(unet::CLASS, &json!({ "act_fn": "gelu" }));
        assert!(matches!(error, DenoiserError::Config { .. }));
        let expected = "model/unet/config.json: unet config: `act_fn`";
        assert!(error.to_string().starts_with(expected), "{error}");
        let error = load(unet::CLASS, &json!({}));
        assert!(std::error::Error::source(&error).is_some_and(|it| it.is::<candle_core::Error>()));
        assert!(error.to_string().contains("`conv_in."), "{error}");
    }
}
