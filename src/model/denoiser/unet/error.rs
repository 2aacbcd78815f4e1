//! Errors of a UNet's configuration and weights, in one line each.

use crate::{backend::first_line, model::denoiser::error::DenoiserError};

/// Reason why a UNet cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UNetError {
    #[error("unet config: not a JSON object ({0})")]
    Json(String),
    #[error("unet config: `{field}` {reason}")]
    Invalid { field: String, reason: String },
    #[error("unet config: {0}")]
    Range(#[from] crate::ranges::OutOfRange),
    #[error("unet config: `{field}` = {value} is not supported")]
    Unsupported { field: String, value: String },
    #[error("unet weights: {}", first_line(.0))]
    Weights(#[from] candle_core::Error),
}

impl UNetError {
    /// Converts it to an error of the denoiser that `file` describes.
    pub(crate) fn of_file(self, file: String) -> DenoiserError {
        match self {
            Self::Weights(source) => DenoiserError::Weights { file, source },
            Self::Json(_) | Self::Invalid { .. } | Self::Range(_) | Self::Unsupported { .. } => {
                DenoiserError::Config { file, reason: self.to_string() }
            }
        }
    }
}
