//! Sources of a model's files: a path of the user's, or this program itself for the embedded model.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::WeightsError;
#[cfg(feature = "embedded-model")]
use super::embedded;
use super::file_kind::{FileKind, StandIn};
use super::hub::names::is_name;
use super::small_file::read_small;
pub(super) use crate::backend::Bytes;

/// Name of the model that is part of the program, as users and metadata see it.
pub const EMBEDDED_MODEL: &str = "mini";

/// Place of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelSource {
    /// A folder with a `model_index.json`, or a file with a whole model in it.
    Path(PathBuf),
    /// The model inside this program, `models/mini`; only with the feature `embedded-model`.
    #[cfg(feature = "embedded-model")]
    Embedded,
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            #[cfg(feature = "embedded-model")]
            Self::Embedded => f.write_str("the embedded model"),
        }
    }
}

impl ModelSource {
    /// The path, unless the model is inside this program.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            #[cfg(feature = "embedded-model")]
            Self::Embedded => None,
        }
    }

    /// Name of the model for users: the last part of its path, or `mini` for the embedded one.
    #[must_use]
    pub fn short_name(&self) -> String {
        self.path().map_or_else(
            || EMBEDDED_MODEL.to_owned(),
            |path| path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        )
    }

    /// Checks that there is a file that may hold weights, or a folder in diffusers layout.
    ///
    /// # Errors
    /// Nothing there, a file that is known to hold none, or a folder without `model_index.json`.
    pub(super) fn check(&self) -> Result<(), WeightsError> {
        let Some(path) = self.path() else { return Ok(()) };
        refuse_foreign(path)?;
        if path.is_file() {
            return Ok(());
        }
        if !path.is_dir() {
            return Err(WeightsError::NotFound(path.to_owned()));
        }
        if self.contains("model_index.json") {
            return Ok(());
        }
        Err(match self.find_pickle("") {
            Some(file) => WeightsError::Pickled { file },
            None => WeightsError::NotDiffusers(path.to_owned()),
        })
    }

    /// Full name of a file of the model, for messages.
    #[must_use]
    pub(crate) fn full_name(&self, name: &str) -> String {
        match self {
            Self::Path(path) => path.join(name).display().to_string(),
            #[cfg(feature = "embedded-model")]
            Self::Embedded => format!("{self}: {name}"),
        }
    }

    /// `true` if the model has the file `name`, relative to its root, with `/` between folders.
    #[must_use]
    pub(super) fn contains(&self, name: &str) -> bool {
        match self {
            Self::Path(path) => path.join(name).is_file(),
            #[cfg(feature = "embedded-model")]
            Self::Embedded => embedded::file(name).is_some(),
        }
    }

    /// Reads a (small) file.
    ///
    /// # Errors
    /// A file that is missing, cannot be read or is too long, or a page or a pointer in its place.
    pub(super) fn read(&self, name: &str) -> Result<Bytes, WeightsError> {
        self.read_up_to(name, LONGEST_TEXT)
    }

    /// Reads a file of at most so many bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(super) fn read_up_to(&self, name: &str, most: u64) -> Result<Bytes, WeightsError> {
        let bytes = self.open(name, |path| Ok(Bytes::Heap(read_small(path, most)?.into())))?;
        match StandIn::of(&bytes) {
            None => Ok(bytes),
            Some(stand_in) => Err(WeightsError::Contents {
                file: self.full_name(name),
                reason: stand_in.reason("the file itself"),
            }),
        }
    }

    /// Maps a (large) file into memory.
    ///
    /// # Errors
    /// A file that is missing or cannot be mapped.
    pub(super) fn map(&self, name: &str) -> Result<Bytes, WeightsError> {
        self.open(name, Bytes::map)
    }

    fn open(
        &self,
        name: &str,
        read: impl FnOnce(&Path) -> io::Result<Bytes>,
    ) -> Result<Bytes, WeightsError> {
        let fail = |source| WeightsError::Read { file: self.full_name(name), source };
        match self {
            Self::Path(path) => read(&path.join(name)).map_err(fail),
            #[cfg(feature = "embedded-model")]
            Self::Embedded => embedded::file(name)
                .map(Bytes::Static)
                .ok_or_else(|| fail(io::ErrorKind::NotFound.into())),
        }
    }

    /// Full name of a pickled weights file in a folder of the model, if there is one.
    pub(super) fn find_pickle(&self, folder: &str) -> Option<String> {
        let folder = self.path()?.join(folder);
        let mut paths = names_in(&folder).into_iter().map(|name| folder.join(name));
        let is_pickle = |path: &PathBuf| {
            is_named_as_pickle(path) && FileKind::of_file(path).is_some_and(|kind| !kind.is_read())
        };
        paths.find(is_pickle).map(|path| path.display().to_string())
    }

    /// Names in a folder of the model, in alphabetical order; none for the embedded model.
    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        self.path().map_or_else(Vec::new, |path| names_in(&path.join(folder)))
    }
}

/// Longest name of a snapshot in the hub's cache, with what stands around it.
const LONGEST_NAME: u64 = 1024;

/// Names in a folder that can be read, in alphabetical order.
pub(super) fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// Snapshot of a repository in the cache of the hub's own tools (`models--OWNER--NAME`): the one that its
/// `refs/main` names, else the only one. Every other path is returned as it is.
///
/// Source: huggingface_hub `file_download.py` (the cache's layout).
pub(super) fn in_hub_cache(path: &Path) -> PathBuf {
    let snapshots = path.join("snapshots");
    let main = read_small(&path.join("refs").join("main"), LONGEST_NAME).unwrap_or_default();
    let main = String::from_utf8(main).unwrap_or_default();
    let named = Some(main.trim()).filter(|commit| is_name(commit)).map(str::to_owned);
    let only = || names_in(&snapshots).try_into().ok().map(|[name]: [String; 1]| name);
    let snapshot = named.or_else(only).map(|commit| snapshots.join(commit));
    snapshot.filter(|folder| folder.is_dir()).unwrap_or_else(|| path.to_owned())
}

/// Refuses a file that holds no weights which are read: by its contents, and where these tell nothing, by its name.
///
/// # Errors
/// A pickle, what stands in the place of a file, or what is neither a file nor a folder.
pub(super) fn refuse_foreign(path: &Path) -> Result<(), WeightsError> {
    let file = || path.display().to_string();
    if path.metadata().is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        // Opening a pipe would wait for somebody who writes into it.
        let reason = "neither a file nor a folder".to_owned();
        return Err(WeightsError::Contents { file: file(), reason });
    }
    let Some(kind) = FileKind::of_file(path) else { return Ok(()) };
    kind.check(&file())?;
    if kind == FileKind::Unknown && is_named_as_pickle(path) {
        return Err(WeightsError::Pickled { file: file() });
    }
    Ok(())
}

/// `true` if a file has the extension of one of PyTorch's formats, which are pickles.
pub(super) fn is_named_as_pickle(path: &Path) -> bool {
    const EXTENSIONS: [&str; 4] = ["ckpt", "bin", "pt", "pth"];
    has_extension(path, &EXTENSIONS)
}

/// `true` if a file's name ends in one of these, in whatever case.
pub(super) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let own = path.extension().and_then(|extension| extension.to_str());
    own.is_some_and(|own| extensions.iter().any(|known| own.eq_ignore_ascii_case(known)))
}

/// Longest small file of a model: the largest tokenizers have some 20 MiB.
const LONGEST_TEXT: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_a_folder_of_the_cache_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("models--a--b");
        std::fs::create_dir_all(cache.join("snapshots/0a1b")).unwrap();
        std::fs::create_dir_all(cache.join("snapshots/ffff")).unwrap();
        std::fs::create_dir_all(cache.join("refs")).unwrap();
        for (named, found) in [
            ("0a1b\n", cache.join("snapshots/0a1b")),
            ("../refs", cache.clone()),
            ("/", cache.clone()),
            ("..", cache.clone()),
        ] {
            std::fs::write(cache.join("refs/main"), named).unwrap();
            assert_eq!(in_hub_cache(&cache), found, "{named}");
        }
    }
}
