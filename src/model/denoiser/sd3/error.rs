//! Errors of the transformer's configuration and weights, in one line each.

use crate::{backend::first_line, model::denoiser::error::DenoiserError};

/// Reason why a transformer of Stable Diffusion 3 cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Sd3Error {
    #[error("sd3 config: not a JSON object ({0})")]
    Json(String),
    #[error("sd3 config: `{field}` {reason}")]
    Invalid { field: String, reason: String },
    #[error("sd3 config: {0}")]
    Range(#[from] crate::ranges::OutOfRange),
    #[error("sd3 config: `{field}` = {value} is not supported")]
    Unsupported { field: String, value: String },
    #[error("sd3 weights: {}", first_line(.0))]
    Weights(#[from] candle_core::Error),
}

impl Sd3Error {
    /// Converts it to an error of the denoiser that `file` describes.
    pub(super) fn of_file(self, file: String) -> DenoiserError {
        match self {
            Self::Weights(source) => DenoiserError::Weights { file, source },
            Self::Json(_) | Self::Invalid { .. } | Self::Range(_) | Self::Unsupported { .. } => {
                DenoiserError::Config { file, reason: self.to_string() }
            }
        }
    }
}
