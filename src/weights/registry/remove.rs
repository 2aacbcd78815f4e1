//! Removal of a model: its manifest, and those of its files that no other model refers to. The user's own files are
//! never touched.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use super::{ModelEntry, ModelError, Registry, Store};
use crate::weights::hub::TransferProgress;

/// Outcome of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveReport {
    /// The model.
    pub name: String,
    /// bytes deleted
    pub freed: u64,
    /// bytes of files that stay because other models need them
    pub shared: u64,
    /// `true` if its files were the user's own, and so stay where they are
    pub own: bool,
}

/// Removes a model, also one whose download was never finished.
///
/// # Errors
/// A name of which nothing is here; another model's manifest that cannot be read, because then
/// nobody knows what it shares; files that cannot be deleted.
pub fn remove(
    store: &Store,
    name: &str,
    progress: &mut dyn TransferProgress,
) -> Result<RemoveReport, ModelError> {
    let find = || -> Result<_, ModelError> {
        match store.manifest(name)? {
            Some(entry) => Ok((entry, true)),
            None => Ok((Registry::load(store.root())?.complete(name)?, false)),
        }
    };
    let folders = |entry: &ModelEntry| -> HashSet<_> {
        let repositories = entry.sources.iter().filter_map(|source| source.repository.as_deref());
        repositories.map(|name| store.root().join(Store::repository_folder(name))).collect()
    };
    let nothing = || ModelError::NothingToRemove { name: name.to_owned() };
    // Where there is nothing to remove, nothing is made either, such as a lock.
    let (entry, is_installed) = find()?;
    if !is_installed && !folders(&entry).iter().any(|folder| folder.is_dir()) {
        return Err(nothing());
    }
    let _alone = store.lock_for_removal(progress)?;
    let (entry, is_installed) = find()?;
    let kept: HashSet<PathBuf> = store
        .manifests()?
        .iter()
        .filter(|other| other.name != name)
        .flat_map(|other| &other.sources)
        .flat_map(|source| store.files(source).map(|(path, _)| path))
        .collect();
    if is_installed {
        store.delete_manifest(name)?;
    }
    let mut sweep = Sweep { kept: &kept, freed: 0, shared: 0, deleted: 0 };
    for folder in folders(&entry) {
        sweep.folder(&folder)?;
    }
    if !is_installed && sweep.deleted == 0 {
        return Err(nothing());
    }
    let _ = fs::remove_dir(store.root().join("files"));
    Ok(RemoveReport {
        name: name.to_owned(),
        freed: sweep.freed,
        shared: sweep.shared,
        own: entry.is_own(),
    })
}

struct Sweep<'a> {
    kept: &'a HashSet<PathBuf>,
    freed: u64,
    shared: u64,
    deleted: usize,
}

impl Sweep<'_> {
    /// Deletes what nobody refers to, unfinished downloads too, and folders that are empty then.
    fn folder(&mut self, folder: &Path) -> Result<(), ModelError> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(ModelError::io(folder, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| ModelError::io(folder, error))?;
            let path = entry.path();
            // Links are not followed: one that a user made leads to files of the user's own.
            let metadata = path.symlink_metadata().map_err(|error| ModelError::io(&path, error))?;
            if metadata.is_dir() {
                self.folder(&path)?;
            } else if self.kept.contains(&path) {
                self.shared += metadata.len();
            } else {
                fs::remove_file(&path).map_err(|error| ModelError::io(&path, error))?;
                self.freed += metadata.len();
                self.deleted += 1;
            }
        }
        // It stays where something in it does.
        let _ = fs::remove_dir(folder);
        Ok(())
    }
}
