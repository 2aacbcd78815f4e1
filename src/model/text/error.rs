//! Errors of text encoders and tokenizers, in one line each.

/// Reason why a text encoder or a tokenizer cannot be built or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A class of encoder or tokenizer that there is no kind for; `known` lists those that there are.
    #[error("`{class}` is not supported ({known})")]
    Class { class: String, known: String },
    #[error("text encoder: `{field}` = {value} is not supported ({supported})")]
    Unsupported { field: &'static str, value: String, supported: &'static str },
    #[error("text encoder: {0}")]
    Config(serde_json::Error),
    #[error("text encoder: {0}")]
    Range(#[from] crate::ranges::OutOfRange),
    #[error("{file}: {reason}")]
    TokenizerFile { file: &'static str, reason: String },
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    #[error("text encoders: {0}")]
    Mismatch(String),
    #[error(transparent)]
    Prompt(#[from] super::PromptError),
    /// Error of the backend, of which the first line is for people; the rest is a backtrace.
    #[error("{}", .0.to_string().lines().next().unwrap_or_default())]
    Tensor(#[from] candle_core::Error),
}
