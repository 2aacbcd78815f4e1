//! Denoisers: the network of a diffusion model, whatever its family. Jobs see this seam alone: shapes,
//! opaque conditions, a hook for priors, one call. A family is a folder here and one line in each
//! `match` below.

mod conditioning;
mod prior;
pub mod unet;

use candle_core::Result;
use serde_json::Value;

use super::text::{TextConditioner, TextConditioning};
use crate::backend::{Activation, Params};
pub use conditioning::{Conditioning, MicroConditioning};
pub use prior::Prior;
use unet::UNet2DConditionModel;

/// Why a denoiser cannot be built, or not be used with the rest of a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DenoiserError {
    /// The class that the configuration names is none of [`Denoiser::CLASSES`].
    #[error("{file}: `{class}` is not supported ({})", Denoiser::CLASSES.join(", "))]
    Class { file: String, class: String },
    #[error("{file}: {reason}")]
    Config { file: String, reason: String },
    #[error("{file}: weights: {}", first_line(source))]
    Weights {
        file: String,
        #[source]
        source: candle_core::Error,
    },
    /// It is complete, but no denoiser that this program can work with.
    #[error("{0}")]
    Unsuited(String),
    /// The text encoders do not make what it takes.
    #[error("{0} (parts of different models?)")]
    Text(String),
}

/// An error of the backend without its backtrace.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// What of a denoiser decides the shape of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenoiserShape {
    /// Channels of a latent and of a prediction.
    pub channels: usize,
    /// Side of a square that it was trained on, in latent pixels; a multiple of `multiple`.
    pub native: usize,
    /// What heights and widths must be multiples of, in latent pixels; at least 1.
    pub multiple: usize,
    /// Whether it takes the low-resolution latent as well, in channels behind those of the sample.
    pub sees_low_resolution: bool,
}

impl DenoiserShape {
    /// The largest native size believed, in latent pixels: sixteen times SDXL's.
    const MAX_NATIVE: usize = 2048;

    /// The shape of a denoiser with these channels and this native height and width.
    fn new(
        (inputs, outputs): (usize, usize),
        native: Option<(usize, usize)>,
        multiple: usize,
    ) -> std::result::Result<Self, String> {
        let sees_low_resolution = match inputs {
            own if own == outputs => false,
            own if own == 2 * outputs => true,
            own => {
                return Err(format!(
                    "takes {own} channels: neither the latent's {outputs} nor twice as many (an inpainting \
                     model?)"
                ));
            }
        };
        let native = match native {
            Some((height, width))
                if height == width
                    && height.is_multiple_of(multiple)
                    && (1..=Self::MAX_NATIVE).contains(&height) =>
            {
                height
            }
            Some((height, width)) => {
                return Err(format!(
                    "has a native size of {width} × {height} latent pixels, which is no square, no multiple \
                     of {multiple}, or above {}",
                    Self::MAX_NATIVE
                ));
            }
            None => return Err("names no native size (sample_size)".to_owned()),
        };
        Ok(Self { channels: outputs, native, multiple, sees_low_resolution })
    }
}

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
            _ => Err(DenoiserError::Class { file, class: class.to_owned() }),
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

    /// How many bytes its weights take, in memory or mapped.
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

    #[test]
    fn a_shape_that_no_job_can_have_is_refused() {
        let shape = |channels, native| DenoiserShape::new(channels, native, 8);
        let plain = shape((4, 4), Some((128, 128))).unwrap();
        assert!(!plain.sees_low_resolution);
        assert!(shape((8, 4), Some((64, 64))).unwrap().sees_low_resolution);
        for (channels, native, word) in [
            ((9, 4), Some((64, 64)), "inpainting"),
            ((4, 4), Some((64, 72)), "no square"),
            ((4, 4), Some((60, 60)), "no multiple of 8"),
            ((4, 4), Some((4096, 4096)), "above 2048"),
            ((4, 4), None, "sample_size"),
        ] {
            let reason = shape(channels, native).unwrap_err();
            assert!(reason.contains(word), "{reason}");
        }
    }
}
