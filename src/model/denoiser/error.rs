//! Errors of denoisers, in one line each.

use crate::backend::first_line;

/// Reason why a denoiser cannot be built, or cannot be used with the rest of a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DenoiserError {
    /// The class that the configuration names is none of those in `known`.
    #[error("{file}: `{class}` is not supported ({known})")]
    Class { file: String, class: String, known: String },
    #[error("{file}: {reason}")]
    Config { file: String, reason: String },
    #[error("{file}: weights: {}", first_line(source))]
    Weights {
        file: String,
        #[source]
        source: candle_core::Error,
    },
    /// The denoiser is complete, but this program cannot work with it.
    #[error("{0}")]
    Unsuited(String),
    /// The text encoders' outputs are not of the widths that the denoiser takes.
    #[error("{0} (parts of different models?)")]
    Text(String),
}
