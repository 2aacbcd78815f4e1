//! Errors of the mistral.rs engine, each in one line.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::temporary::TemporaryError;

/// Reasons for which a model cannot be used, or gives no caption of a picture.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MistralrsError {
    /// mistral.rs takes whatever is no folder for the name of a model on a hub.
    #[error("{}: no folder; a model for mistral.rs is a folder on this machine", .0.display())]
    NoFolder(PathBuf),

    /// The name of a folder is handed over as text.
    #[error("{}: a name that is not UTF-8, which mistral.rs cannot open", .0.display())]
    Name(PathBuf),

    /// A file that every model has.
    #[error("{}: no {wanted} in it; it is no model in the layout of transformers", folder.display())]
    Missing {
        /// The model's folder.
        folder: PathBuf,
        /// Description of the missing file.
        wanted: &'static str,
    },

    /// There is no place for a folder of links.
    #[error(transparent)]
    Temporary(#[from] TemporaryError),

    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },

    /// A file is not JSON, of which mistral.rs would panic.
    #[error("{}: {source}", path.display())]
    Json {
        /// Path of the file.
        path: PathBuf,
        /// Position and cause.
        source: serde_json::Error,
    },

    /// `config.json` does not name one architecture.
    #[error("{}: 'architectures' must name one architecture", .0.display())]
    Architecture(PathBuf),

    /// mistral.rs is known to run this architecture incorrectly.
    #[error("{architecture}: {reason}")]
    Refused {
        /// Architecture as named in `config.json`.
        architecture: String,
        /// Problem and remedy.
        reason: &'static str,
    },

    /// A LLaVA-1.5 that cannot be helped.
    #[error("{}: {reason}; use --caption-engine builtin", folder.display())]
    Llava {
        /// The model's folder.
        folder: PathBuf,
        /// Difference from published models.
        reason: String,
    },

    /// A type of weights that mistral.rs has not.
    #[error("mistral.rs has no weights of type '{0}' (it has: q8_0, q6_k, q5_k, q4_k)")]
    Quantize(String),

    /// mistral.rs cannot load the model, or fails on a picture.
    #[error("mistral.rs: {0}")]
    Engine(String),
}
