//! Sources of a model's files: a path of the user's, or this program itself for the embedded model.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::WeightsError;
#[cfg(feature = "embedded-model")]
use super::embedded;
pub(super) use crate::backend::Bytes;

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
            || "mini".to_owned(),
            |path| path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        )
    }

    /// Checks that there is a file that is no pickle, or a folder in diffusers layout.
    ///
    /// # Errors
    /// Nothing there, a pickled file, or a folder without `model_index.json`.
    pub(super) fn check(&self) -> Result<(), WeightsError> {
        let Some(path) = self.path() else { return Ok(()) };
        refuse_pickle(path)?;
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
    /// A file that is missing or cannot be read.
    pub(super) fn read(&self, name: &str) -> Result<Bytes, WeightsError> {
        self.open(name, |path| Ok(Bytes::Heap(std::fs::read(path)?.into())))
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
        let names = names_in(&folder).into_iter().map(|name| folder.join(name));
        names.into_iter().find(|path| is_pickle(path)).map(|path| path.display().to_string())
    }

    /// Names in a folder of the model, in alphabetical order; none for the embedded model.
    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        self.path().map_or_else(Vec::new, |path| names_in(&path.join(folder)))
    }
}

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
    let main = std::fs::read_to_string(path.join("refs").join("main")).unwrap_or_default();
    let named = Some(main.trim()).filter(|commit| !commit.is_empty()).map(str::to_owned);
    let only = || names_in(&snapshots).try_into().ok().map(|[name]: [String; 1]| name);
    let snapshot = named.or_else(only).map(|commit| snapshots.join(commit));
    snapshot.filter(|folder| folder.is_dir()).unwrap_or_else(|| path.to_owned())
}

/// Refuses a file that may be a pickle, by its name.
pub(super) fn refuse_pickle(path: &Path) -> Result<(), WeightsError> {
    if path.is_file() && is_pickle(path) {
        return Err(WeightsError::Pickled { file: path.display().to_string() });
    }
    Ok(())
}

/// `true` if a file has the extension of one of PyTorch's formats, which are pickles.
pub(super) fn is_pickle(path: &Path) -> bool {
    const EXTENSIONS: [&str; 4] = ["ckpt", "bin", "pt", "pth"];
    has_extension(path, &EXTENSIONS)
}

/// `true` if a file's name ends in one of these, in whatever case.
pub(super) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let own = path.extension().and_then(|extension| extension.to_str());
    own.is_some_and(|own| extensions.iter().any(|known| own.eq_ignore_ascii_case(known)))
}

/// `true` if these are the contents of a pickle, whatever the file is called: the zip archive of
/// PyTorch, or a bare one.
pub(super) fn is_pickled(bytes: &[u8]) -> bool {
    !is_safetensors(bytes) && (bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80\x02"))
}

/// `true` if these begin like a safetensors file: JSON after the eight bytes of its length.
pub(super) fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.get(size_of::<u64>()) == Some(&b'{')
}
