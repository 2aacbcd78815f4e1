//! The models folder on the disk: manifests, the files that models share, and the locks.

use std::{
    io::{ErrorKind, Write as _},
    path::{Component, Path, PathBuf},
};

use etcetera::BaseStrategy as _;

use super::{ModelEntry, ModelError, Source, check};
use crate::new_file::NewFile;
use crate::weights::hub::{Lock, TransferProgress};
use crate::weights::small_file::read_small;

/// Longest manifest or registry: a model with a thousand files has some hundred kilobytes.
pub(super) const LONGEST_DESCRIPTION: u64 = 8 << 20;

/// The folder with the installed models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The folder of `$CUPSCALE_MODELS`, or `cupscale/models` in the platform's place for data. It
    /// need not exist yet.
    ///
    /// # Errors
    /// A platform that has no such place and no variable that says one.
    pub fn open() -> Result<Self, ModelError> {
        if let Some(folder) = std::env::var_os("CUPSCALE_MODELS").filter(|value| !value.is_empty())
        {
            return Ok(Self::at(PathBuf::from(folder)));
        }
        let strategy =
            etcetera::base_strategy::choose_native_strategy().map_err(|_| ModelError::NoFolder)?;
        Ok(Self::at(strategy.data_dir().join("cupscale").join("models")))
    }

    /// The folder `root`, which need not exist yet.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        // Paths in messages and those handed to a loader should not depend on the directory that the
        // program is started in.
        Self { root: std::path::absolute(&root).unwrap_or(root) }
    }

    /// Path of the folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn manifest_file(&self, name: &str) -> PathBuf {
        self.root.join(name).join("manifest.json")
    }

    /// Manifest of an installed model, if there is one of that name.
    ///
    /// # Errors
    /// A manifest that cannot be read or is none.
    pub fn manifest(&self, name: &str) -> Result<Option<ModelEntry>, ModelError> {
        if !check::is_name(name) {
            return Ok(None);
        }
        let file = self.manifest_file(name);
        let bytes = match read_small(&file, LONGEST_DESCRIPTION) {
            Ok(bytes) => bytes,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(ModelError::io(&file, error)),
        };
        let bad =
            |reason: String| ModelError::Manifest { file: file.display().to_string(), reason };
        let entry: ModelEntry =
            serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        check::check_entry(&entry).map_err(|error| bad(error.to_string()))?;
        if entry.name != name {
            return Err(bad(format!("it is that of `{}`", entry.name)));
        }
        if entry.sources.iter().any(|source| source.path.is_none()) {
            return Err(bad("a source has no path".to_owned()));
        }
        // Downloads lie in the models folder, and only the user's own files anywhere else.
        let downloads = entry.sources.iter().filter(|source| source.repository.is_some());
        let mut places = downloads.filter_map(|source| source.path.as_deref());
        if let Some(outside) = places.find(|path| !is_below(path)) {
            return Err(bad(format!("`{}` is outside of the models folder", outside.display())));
        }
        Ok(Some(entry))
    }

    /// Manifests of all installed models, by name.
    ///
    /// # Errors
    /// A folder or a manifest that cannot be read.
    pub fn manifests(&self) -> Result<Vec<ModelEntry>, ModelError> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ModelError::io(&self.root, error)),
        };
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names.iter().filter_map(|name| self.manifest(name).transpose()).collect()
    }

    /// Writes a manifest, all of it or nothing.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn write_manifest(&self, entry: &ModelEntry) -> Result<(), ModelError> {
        let file = self.manifest_file(&entry.name);
        let io = |error| ModelError::io(&file, error);
        let folder = self.root.join(&entry.name);
        std::fs::create_dir_all(&folder).map_err(io)?;
        let text = serde_json::to_string_pretty(entry).map_err(|error| io(error.into()))?;
        let new = NewFile::create(&file).map_err(io)?;
        new.file().write_all(text.as_bytes()).and_then(|()| new.finish()).map_err(io)
    }

    pub(super) fn delete_manifest(&self, name: &str) -> Result<(), ModelError> {
        let file = self.manifest_file(name);
        std::fs::remove_file(&file).map_err(|error| ModelError::io(&file, error))?;
        // Files that a user may have put beside it stay.
        let _ = std::fs::remove_dir(self.root.join(name));
        Ok(())
    }

    /// Folder of a repository's files, relative to the models folder.
    pub(super) fn repository_folder(repository: &str) -> PathBuf {
        Path::new("files").join(repository.replace('/', "--"))
    }

    /// Place of a source of a manifest.
    pub(super) fn place(&self, source: &Source) -> PathBuf {
        // Joining an absolute path, as the user's own are, gives that path.
        source.path.as_ref().map_or_else(|| self.root.clone(), |path| self.root.join(path))
    }

    /// Paths of the files of a source of a manifest, with their entries.
    pub(super) fn files<'a>(
        &self,
        source: &'a Source,
    ) -> impl Iterator<Item = (PathBuf, &'a super::FileEntry)> + use<'a> {
        let place = self.place(source);
        source.files.iter().map(move |file| {
            // A source that is a single file of the user's own has no name below itself.
            let path = if file.path.is_empty() { place.clone() } else { place.join(&file.path) };
            (path, file)
        })
    }

    /// Lock to hold while files are fetched: others may fetch too, nobody may delete.
    pub(super) fn lock_for_use(
        &self,
        progress: &mut dyn TransferProgress,
    ) -> Result<Lock, ModelError> {
        let waiting = "waiting for another process that removes a model";
        Ok(Lock::shared(&self.lock_file("store"), waiting, progress)?)
    }

    /// Lock to hold while files are deleted: nobody else may fetch or delete.
    pub(super) fn lock_for_removal(
        &self,
        progress: &mut dyn TransferProgress,
    ) -> Result<Lock, ModelError> {
        let waiting = "waiting for another process that uses the models folder";
        Ok(Lock::exclusive(&self.lock_file("store"), waiting, progress)?)
    }

    /// Lock to hold while files of one commit of one repository are fetched.
    pub(super) fn lock_source(
        &self,
        repository: &str,
        commit: &str,
        progress: &mut dyn TransferProgress,
    ) -> Result<Lock, ModelError> {
        let file = self.lock_file(&format!("{}--{commit}", repository.replace('/', "--")));
        let waiting = format!("waiting for another process that downloads {repository}");
        Ok(Lock::exclusive(&file, &waiting, progress)?)
    }

    fn lock_file(&self, name: &str) -> PathBuf {
        self.root.join(".locks").join(name)
    }
}

/// `true` if a path leads downwards from wherever it begins.
fn is_below(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_whose_downloads_lie_elsewhere_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::at(root.path().to_owned());
        let manifest = |path: &str| {
            let text = serde_json::json!({ "name": "a", "kind": "diffusion", "sources": [
                { "repository": "o/n", "role": "model", "path": path, "files": [] }] });
            std::fs::create_dir_all(root.path().join("a")).unwrap();
            std::fs::write(root.path().join("a/manifest.json"), text.to_string()).unwrap();
            store.manifest("a")
        };
        assert!(manifest("files/o--n/0").unwrap().is_some());
        for outside in ["../other", "files/../../x", "/etc"] {
            let error = manifest(outside).unwrap_err().to_string();
            assert!(error.contains("is outside of the models folder"), "{error}");
        }
    }
}
