//! Errors of the transformer's configuration and weights, in one line each.

use crate::{backend::first_line, model::denoiser::error::DenoiserError};

/// Reason why a FLUX.2 transformer cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Flux2Error {
    #[error("flux.2 config: {0}")]
    Json(serde_json::Error),
    #[error("flux.2 config: {0}")]
    Range(#[from] crate::ranges::OutOfRange),
    #[error("flux.2 config: `{field}` = {value} is not supported ({supported})")]
    Unsupported { field: &'static str, value: String, supported: &'static str },
    #[error("flux.2 weights: {}", first_line(.0))]
    Weights(#[from] candle_core::Error),
}

impl Flux2Error {
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
