//! Errors of the command line, and the exit codes that they become.

use std::{io, path::PathBuf};

use cupscale::{
    pipeline::Error,
    weights::{ChoiceError, registry::ModelError},
};

use super::integrate::error::IntegrateError;

/// Exit code when all went well.
pub const DONE: u8 = 0;
/// Exit code when an input failed.
pub const FAILED: u8 = 1;
/// Exit code when the command line itself is wrong (clap's own, too).
pub const USAGE: u8 = 2;
/// Exit code when every output was there already (`--skip-existing`).
pub const SKIPPED: u8 = 3;
/// Exit code after Ctrl-C, as shells count it (128 + SIGINT).
pub const INTERRUPTED: u8 = 130;

/// Errors of the verbs.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The options do not make sense together.
    #[error("{0}")]
    Usage(String),
    #[error("{}: no pictures in it (PNG, JPEG, WebP or TIFF)", .0.display())]
    NoPictures(PathBuf),
    /// A file that is not edited, and stays as it is.
    #[error("{name}: {reason}")]
    NotEdited { name: String, reason: String },
    /// A stream of frames that cannot be read.
    #[error("{name}: {reason}")]
    Frames { name: String, reason: String },
    /// A folder of masks without one for this picture.
    #[error("{name}: there is no mask for it in {folder}: put one there, as {wanted}")]
    NoMask { name: String, folder: String, wanted: String },
    /// The one mask of all pictures.
    #[error("the mask: {0}")]
    Mask(String),
    #[error(transparent)]
    Job(#[from] Error),
    #[error(transparent)]
    Models(#[from] ModelError),
    /// Installed files have changed.
    #[error("{0}")]
    Damaged(String),
    #[error(transparent)]
    Integrate(#[from] IntegrateError),
    /// A server that cannot start, or cannot go on.
    #[cfg(feature = "serve")]
    #[error("{0}")]
    Server(String),
    /// The thread pool cannot be made.
    #[error("{threads} threads cannot be started ({error})")]
    Threads { threads: usize, error: String },
    /// Writing to standard output failed.
    #[error("standard output: {0}")]
    Print(io::Error),
    /// The captioning process received an invalid request.
    #[cfg(feature = "mistralrs")]
    #[error("{VERB}: {0}", VERB = cupscale::caption::mistralrs::VERB)]
    Worker(io::Error),
}

impl From<ChoiceError> for CliError {
    fn from(error: ChoiceError) -> Self {
        match error {
            ChoiceError::Model(error) => error.into(),
            ChoiceError::Weights(error) => Error::from(error).into(),
            ChoiceError::NoModel => Self::Usage(format!("{error}: name one with --model")),
            ChoiceError::NoCaptioner => Self::Usage(
                "--captioner llava: no such model is installed; cupscale-fast models pull llava-1.5-7b, or name one with \
                 --caption-model"
                    .to_owned(),
            ),
            ChoiceError::Captioners(names) => Self::Usage(format!(
                "--captioner llava: choose one of {} with --caption-model",
                names.join(", ")
            )),
            error => Self::Usage(error.to_string()),
        }
    }
}

impl CliError {
    /// `true` if the reader closed the pipe, which is not a failure.
    pub fn is_broken_pipe(&self) -> bool {
        match self {
            Self::Job(error) => error.is_broken_pipe(),
            Self::Print(error) => error.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }

    /// The exit code of a process that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_)
            | Self::Models(ModelError::WrongKind { .. })
            | Self::Job(
                Error::OtherJob { .. }
                | Error::NothingToResume { .. }
                | Error::DamagedWork { .. }
                | Error::Setting { .. }
                | Error::SizeOfNoise { .. }
                | Error::NoFirstStep { .. },
            ) => USAGE,
            Self::Job(Error::Sampler(error)) if error.is_wrong_choice() => USAGE,
            Self::Job(Error::Interrupted(_)) => INTERRUPTED,
            Self::Models(error) if error.is_interrupt() => INTERRUPTED,
            _ => FAILED,
        }
    }
}
