//! Verification of installed models: every byte is read again and compared with the recorded digest.

use std::{collections::HashMap, path::PathBuf};

use super::{ModelEntry, ModelError, Store};
use crate::weights::hub::{HubError, TransferProgress, TransferWork, sha256_file};

/// Fault of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file is not there.
    #[error("missing")]
    Missing,
    /// The file is longer or shorter.
    #[error("{got} bytes, {expected} expected")]
    Size {
        /// bytes recorded
        expected: u64,
        /// bytes found
        got: u64,
    },
    /// The file has other bytes.
    #[error("SHA-256 {got}, {expected} expected")]
    Hash {
        /// the digest recorded
        expected: String,
        /// the digest found
        got: String,
    },
    /// The system does not let it be read, and says why.
    #[error("cannot be read ({0})")]
    Unreadable(String),
}

/// A file that is not the one recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFile {
    /// the file
    pub path: PathBuf,
    /// description of the fault
    pub fault: Fault,
}

/// Outcome for one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// the model
    pub name: String,
    /// files compared
    pub files: usize,
    /// bytes compared
    pub bytes: u64,
    /// `true` if the files are the user's own, which `pull` cannot repair
    pub own: bool,
    /// those that are not what they were
    pub bad: Vec<BadFile>,
}

/// Checks the models of these names, or all that are installed where there are no names. A file
/// that several models share is read once.
///
/// # Errors
/// A name that is not installed; a manifest that cannot be read; an interruption. Bad files are no
/// error of this function.
pub fn verify(
    store: &Store,
    names: &[String],
    progress: &mut dyn TransferProgress,
) -> Result<Vec<VerifyReport>, ModelError> {
    let entries = if names.is_empty() {
        store.manifests()?
    } else {
        names.iter().map(|name| super::resolve::installed(store, name)).collect::<Result<_, _>>()?
    };
    if entries.is_empty() {
        // Nothing to protect, so no folder is made for a lock.
        return Ok(Vec::new());
    }
    let _in_use = store.lock_for_use(progress)?;
    let mut checked = HashMap::new();
    entries.iter().map(|entry| check(store, entry, &mut checked, progress)).collect()
}

fn check(
    store: &Store,
    entry: &ModelEntry,
    checked: &mut HashMap<PathBuf, Result<(u64, String), String>>,
    progress: &mut dyn TransferProgress,
) -> Result<VerifyReport, ModelError> {
    let mut report = VerifyReport {
        name: entry.name.clone(),
        files: 0,
        bytes: 0,
        own: entry.is_own(),
        bad: Vec::new(),
    };
    for (path, file) in entry.sources.iter().flat_map(|source| store.files(source)) {
        report.files += 1;
        if !checked.contains_key(&path) && path.is_file() {
            let name = if file.path.is_empty() { &entry.name } else { &file.path };
            progress.begin(TransferWork::Check, name, 0, file.size);
            let result = match sha256_file(&path, progress) {
                Err(error @ HubError::Interrupted) => return Err(ModelError::of_reading(error)),
                Err(HubError::Io { source, .. }) => Err(source.to_string()),
                Err(error) => Err(error.to_string()),
                Ok(found) => Ok(found),
            };
            checked.insert(path.clone(), result);
        }
        let fault = match checked.get(&path) {
            None => Some(Fault::Missing),
            Some(Err(reason)) => Some(Fault::Unreadable(reason.clone())),
            Some(Ok((got, hash))) => {
                report.bytes += got;
                match (file.size, &file.sha256) {
                    (Some(expected), _) if expected != *got => {
                        Some(Fault::Size { expected, got: *got })
                    }
                    (_, Some(expected)) if expected != hash => {
                        Some(Fault::Hash { expected: expected.clone(), got: hash.clone() })
                    }
                    _ => None,
                }
            }
        };
        report.bad.extend(fault.map(|fault| BadFile { path, fault }));
    }
    Ok(report)
}
