//! Why a model cannot be loaded, in one line each: what, where, and what to do about it.

use std::path::PathBuf;

use super::LoraError;
use crate::model::llava::LlavaError;
use crate::model::{text::TextError, vae::VaeError};

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    #[error("{}: no such model folder or file", .0.display())]
    NotFound(PathBuf),
    #[error("{}: not a model in diffusers layout (no model_index.json)", .0.display())]
    NotDiffusers(PathBuf),
    /// `file` is relative to the model
    #[error("{model}: {part} is missing ({file})")]
    MissingPart { model: String, part: &'static str, file: String },
    #[error(
        "{file}: pickled weights, which can run code of their own when read; convert the model to safetensors"
    )]
    Pickled { file: String },
    #[error("{file}: {source}")]
    Read { file: String, source: std::io::Error },
    /// The parser's reason names line and column.
    #[error("{file}: not valid JSON ({source})")]
    Json { file: String, source: serde_json::Error },
    #[error("{file}: not a complete safetensors file ({reason})")]
    Safetensors { file: String, reason: String },
    #[error("{file}: not a GGUF file that can be used ({reason})")]
    Gguf { file: String, reason: String },
    #[error("{file}: {source}")]
    Write { file: String, source: std::io::Error },
    /// The model would be written over one of its own files.
    #[error("{0}: part of the model that is read; write to another file")]
    OntoItself(String),
    #[error("{file}: {reason}")]
    Config { file: String, reason: String },
    #[error("{file}: {error}")]
    Lora { file: String, error: Box<LoraError> },
    /// A weights file that holds something else than what is wanted of it.
    #[error("{file}: {reason}")]
    Contents { file: String, reason: String },
    /// The message names file and tensor.
    #[error("{0}")]
    Tensor(String),
}

impl From<candle_core::Error> for WeightsError {
    /// Only the first line: candle appends a backtrace where the environment asks for one.
    fn from(error: candle_core::Error) -> Self {
        let text = error.to_string();
        Self::Tensor(text.lines().next().unwrap_or_default().to_owned())
    }
}

impl WeightsError {
    /// An autoencoder's error, with the configuration file that it is about.
    pub(super) fn from_vae(error: VaeError, file: &str) -> Self {
        match error {
            VaeError::Tensor(error) => error.into(),
            error => Self::Config { file: file.to_owned(), reason: error.to_string() },
        }
    }

    /// A text encoder's or tokenizer's error, with the file or folder that it is about.
    pub(super) fn from_text(error: TextError, file: &str) -> Self {
        match error {
            TextError::Tensor(error) => error.into(),
            TextError::TokenizerFile { file: inner, reason } => {
                Self::Config { file: format!("{file}/{inner}"), reason }
            }
            error => Self::Config { file: file.to_owned(), reason: error.to_string() },
        }
    }

    /// A captioner's error, with the file that it is about or the folder of one.
    pub(super) fn from_llava(error: LlavaError, file: &str) -> Self {
        match error {
            LlavaError::Tensor(error) => error.into(),
            error => Self::Config { file: file.to_owned(), reason: error.to_string() },
        }
    }
}
