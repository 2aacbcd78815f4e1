//! Reasons why a model cannot be loaded, in one line each: what, where, and what to do about it. An error from
//! another room stays whole as the source, so that its kind (out of memory, for example) survives.

use std::path::PathBuf;

use super::LoraError;
use super::contents::FileContents;
use crate::backend::first_line;
use crate::model::denoiser::DenoiserError;
use crate::model::llava::LlavaError;
use crate::model::{text::TextError, vae::VaeError};
use crate::units;

/// Reason why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "a variant's message says what its fields are")]
pub enum WeightsError {
    #[error("{}: no such model folder or file", .0.display())]
    NotFound(PathBuf),
    #[error("{}: not a model in diffusers layout (no model_index.json)", .0.display())]
    NotDiffusers(PathBuf),
    /// `file` is relative to the model.
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
    /// Bytes that are needed on the disk of a file that is to be written, and those that are free.
    #[error("{file}: {} needed on its disk, {} free", units::bytes(*.need), units::bytes(*.free))]
    NoRoom { file: String, need: u64, free: u64 },
    /// The caller stopped the work; nothing of it is left.
    #[error("interrupted; nothing was written")]
    Interrupted,
    /// The model would be written over one of its own files.
    #[error("{0}: part of the model that is read; write to another file")]
    OntoItself(String),
    /// A field or a combination of parts that is not supported.
    #[error("{file}: {reason}")]
    Config { file: String, reason: String },
    #[error(transparent)]
    Denoiser(Box<DenoiserError>),
    /// `file` is the autoencoder's configuration.
    #[error("{file}: {source}")]
    Vae { file: String, source: Box<VaeError> },
    /// `file` is the configuration of a text encoder, its tokenizer or the model.
    #[error("{file}: {source}")]
    Text { file: String, source: Box<TextError> },
    /// `file` is the captioner's configuration or the captioner.
    #[error("{file}: {source}")]
    Llava { file: String, source: Box<LlavaError> },
    #[error("{file}: {source}")]
    Lora { file: String, source: Box<LoraError> },
    /// A weights file that holds something else than a whole model.
    #[error("{file}: {contents}")]
    NotAModel { file: String, contents: FileContents },
    /// A weights file without the part that it was named for.
    #[error("{file}: no {part} in it: {contents}")]
    NoSuchPart { file: String, part: &'static str, contents: FileContents },
    /// Weights that are damaged, or of an architecture that is not supported.
    #[error("{file}: {reason}")]
    Contents { file: String, reason: String },
    /// A tensor that cannot be read or brought to its device. The message names file and tensor.
    #[error("{}", first_line(.0))]
    Tensor(#[from] candle_core::Error),
}

impl From<DenoiserError> for WeightsError {
    fn from(error: DenoiserError) -> Self {
        match error {
            DenoiserError::Weights { source, .. } => source.into(),
            error => Self::Denoiser(error.into()),
        }
    }
}

impl WeightsError {
    /// Error of an autoencoder, with its configuration file.
    pub(super) fn from_vae(source: VaeError, file: &str) -> Self {
        match source {
            VaeError::Tensor(error) => error.into(),
            source => Self::Vae { file: file.to_owned(), source: source.into() },
        }
    }

    /// Error of a text encoder or tokenizer, with the file or folder that it is about.
    pub(super) fn from_text(source: TextError, file: &str) -> Self {
        match source {
            TextError::Tensor(error) => error.into(),
            TextError::TokenizerFile { file: inner, reason } => {
                Self::Config { file: format!("{file}/{inner}"), reason }
            }
            source => Self::Text { file: file.to_owned(), source: source.into() },
        }
    }

    /// Error of a captioner, with the file or folder that it is about.
    pub(super) fn from_llava(source: LlavaError, file: &str) -> Self {
        match source {
            LlavaError::Tensor(error) => error.into(),
            source => Self::Llava { file: file.to_owned(), source: source.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn candles_error_is_kept_whole_whichever_part_it_comes_from() {
        let inner = || candle_core::Error::Msg("out of memory\nbacktrace".to_owned());
        for error in [
            WeightsError::from(inner()),
            WeightsError::from(DenoiserError::Weights { file: String::new(), source: inner() }),
            WeightsError::from_vae(VaeError::Tensor(inner()), "file"),
            WeightsError::from_text(TextError::Tensor(inner()), "file"),
            WeightsError::from_llava(LlavaError::Tensor(inner()), "file"),
        ] {
            assert_eq!(error.to_string(), "out of memory");
            assert!(error.source().unwrap().is::<candle_core::Error>());
        }
    }
}
