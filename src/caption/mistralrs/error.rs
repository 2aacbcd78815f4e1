//! Why mistral.rs is not asked, or gives no caption, each in one line.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// What keeps a model from being used, or from saying anything of a picture.
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
        /// What is not there.
        wanted: &'static str,
    },

    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A file is not JSON, of which mistral.rs would panic.
    #[error("{}: {source}", path.display())]
    Json {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },

    /// `config.json` does not name one architecture.
    #[error("{}: 'architectures' must name one architecture", .0.display())]
    Architecture(PathBuf),

    /// What mistral.rs does wrong with an architecture that it has.
    #[error("{architecture}: {reason}")]
    Refused {
        /// As `config.json` names it.
        architecture: String,
        /// What is wrong, and what to do.
        reason: &'static str,
    },

    /// A LLaVA-1.5 that cannot be helped.
    #[error("{}: {reason}; use --caption-engine builtin", folder.display())]
    Llava {
        /// The model's folder.
        folder: PathBuf,
        /// What is not as in published models.
        reason: String,
    },

    /// A type of weights that mistral.rs has not.
    #[error("mistral.rs has no weights of type '{0}' (it has: q8_0, q6_k, q5_k, q4_k)")]
    Quantize(String),

    /// mistral.rs cannot load the model, or fails on a picture.
    #[error("mistral.rs: {0}")]
    Engine(String),
}
