//! Errors of denoisers, in one line each.

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
    /// It is complete, but no denoiser that this program can work with.
    #[error("{0}")]
    Unsuited(String),
    /// The text encoders do not make what it takes.
    #[error("{0} (parts of different models?)")]
    Text(String),
}

/// First line of the backend's message: the rest is a backtrace.
pub(super) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
