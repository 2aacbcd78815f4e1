//! Errors of the transformer's configuration and weights, in one line each.

use crate::{backend::first_line, model::denoiser::error::DenoiserError};

/// Reason why a Z-Image transformer cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZImageError {
    #[error("z-image config: {0}")]
    Json(serde_json::Error),
    #[error("z-image config: {0}")]
    Range(#[from] crate::ranges::OutOfRange),
    #[error("z-image config: `{field}` = {value} is not supported ({supported})")]
    Unsupported { field: &'static str, value: String, supported: &'static str },
    #[error("z-image weights: {}", first_line(.0))]
    Weights(#[from] candle_core::Error),
}

impl ZImageError {
    /// Converts it to an error of the denoiser that `file` describes.
    pub(super) fn of_file(self, file: String) -> DenoiserError {
        match self {
            Self::Weights(source) => DenoiserError::Weights { file, source },
            Self::Json(_) | Self::Range(_) | Self::Unsupported { .. } => {
                DenoiserError::Config { file, reason: self.to_string() }
            }
        }
    }
}
