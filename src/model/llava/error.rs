//! Errors of LLaVA models, in one line each.

/// Reason why a LLaVA model cannot be built or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LlavaError {
    #[error("`{field}` = {value} is not supported ({supported})")]
    Unsupported { field: &'static str, value: String, supported: &'static str },
    #[error("{0}")]
    Config(serde_json::Error),
    #[error(transparent)]
    Range(#[from] crate::ranges::OutOfRange),
    /// `file` is relative to the model
    #[error("{file}: {reason}")]
    Tokenizer { file: &'static str, reason: String },
    #[error("a picture of {width} x {height} pixels cannot have {length} values")]
    Picture { width: usize, height: usize, length: usize },
    #[error(
        "pictures of one batch differ in size: {width} x {height} and {other_width} x {other_height}"
    )]
    Sizes { width: usize, height: usize, other_width: usize, other_height: usize },
    #[error(
        "the prompt ({prompt} tokens) and {new} new tokens do not fit the model's {limit} positions"
    )]
    TooLong { prompt: usize, new: usize, limit: usize },
    /// Generation was stopped by the caller's callback.
    #[error("interrupted")]
    Interrupted,
    /// Error of the backend, of which the first line is for people; the rest is a backtrace.
    #[error("{}", .0.to_string().lines().next().unwrap_or_default())]
    Tensor(#[from] candle_core::Error),
}
