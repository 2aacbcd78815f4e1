//! Reasons why a model cannot be found, fetched or kept, in one line each.

use std::{io, path::Path};

use crate::{units, weights::hub::HubError};

/// Reason why a model cannot be found, fetched or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "a variant's message says what its fields are")]
pub enum ModelError {
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(
        "{name}: no such file or folder, and no such model{}",
        suggestion(.close)
    )]
    Unknown { name: String, close: Vec<String> },
    #[error("{name}: not downloaded yet ({size}, licence {licence})")]
    NotInstalled { name: String, size: String, licence: String },
    #[error("{name}: a model of kind {kind}, where one of kind {wanted} is wanted")]
    WrongKind { name: String, kind: &'static str, wanted: &'static str },
    #[error("{name}: not installed")]
    NothingToRemove { name: String },
    #[error("{name}: {file} is missing")]
    Incomplete { name: String, file: String, own: bool },
    /// `margin` are the bytes that stay free.
    #[error(
        "{name}: {size} needed in {folder} and {} to stay free there, but only {} are free",
        units::bytes(*.margin),
        units::bytes(*.free)
    )]
    NoSpace { name: String, size: String, folder: String, free: u64, margin: u64 },
    #[error("{file}: {reason}")]
    Registry { file: String, reason: String },
    #[error(
        "{file}: not a manifest ({reason}); delete its folder, then pull or add the model again"
    )]
    Manifest { file: String, reason: String },
    #[error("{name}: `{what}` cannot be stored under that name")]
    Unsafe { name: String, what: String },
    #[error("{name}: the hub lists no file `{path}` in {repository}")]
    NotListed { name: String, repository: String, path: String },
    #[error("{name}: a model's name has letters, digits, `.`, `_` and `-`, 64 at most")]
    BadName { name: String },
    #[error("{name}: taken by {by}; choose another name{}", if *.own { " or remove it first" } else { "" })]
    NameTaken { name: String, by: &'static str, own: bool },
    #[error("{name}: your own weights; there is nothing to pull")]
    OwnWeights { name: String },
    #[error("{name}: no weights of its own to take a revision of; {parts} have some")]
    NoRevision { name: String, parts: String },
    #[error("{path}: {reason}")]
    NotWeights { path: String, reason: String },
    /// Files were being read, and none was written.
    #[error("interrupted; nothing was changed")]
    Interrupted,
    #[error("no folder for models: set CUPSCALE_MODELS to one")]
    NoFolder,
    #[error("{file}: {source}")]
    Io { file: String, source: io::Error },
}

impl ModelError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { file: path.display().to_string(), source }
    }

    /// Error of reading files of which none is written.
    pub(super) fn of_reading(error: HubError) -> Self {
        match error {
            HubError::Interrupted => Self::Interrupted,
            error => error.into(),
        }
    }

    /// `true` if the user stopped it.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Interrupted | Self::Hub(HubError::Interrupted))
    }
}

fn suggestion(close: &[String]) -> String {
    match close {
        [] => String::new(),
        close => format!("; did you mean {}?", close.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_and_what_stays_free_are_told_apart() {
        let error = ModelError::NoSpace {
            name: "tiny".to_owned(),
            size: units::bytes(3 << 19),
            folder: "models".to_owned(),
            free: 65 << 20,
            margin: 64 << 20,
        };
        assert_eq!(
            error.to_string(),
            "tiny: 1.5 MiB needed in models and 64.0 MiB to stay free there, but only 65.0 MiB are free"
        );
    }
}
