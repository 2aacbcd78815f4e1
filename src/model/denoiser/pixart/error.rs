//! Errors of a PixArt transformer's configuration and weights, in one line each.

use crate::{backend::first_line, model::denoiser::error::DenoiserError};

/// Reason why a PixArt transformer cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PixArtError {
    #[error("pixart config: {0}")]
    Json(String),
    #[error("pixart config: {0}")]
    Range(#[from] crate::ranges::OutOfRange),
    #[error("pixart config: `{0}` is missing")]
    Missing(&'static str),
    #[error("pixart config: `{field}` = {value} is not supported ({supported})")]
    Unsupported { field: &'static str, value: String, supported: &'static str },
    #[error("pixart weights: {}", first_line(.0))]
    Weights(#[from] candle_core::Error),
}

impl PixArtError {
    /// Converts it to an error of the denoiser that `file` describes.
    pub(crate) fn of_file(self, file: String) -> DenoiserError {
        match self {
            Self::Weights(source) => DenoiserError::Weights { file, source },
            other => DenoiserError::Config { file, reason: other.to_string() },
        }
    }
}
