//! Where a model's files are: in a folder of the user's, or inside this program.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::{WeightsError, embedded};
pub use crate::backend::Bytes;

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder with a `model_index.json`, or a file with a whole model in it.
    Path(PathBuf),
    /// The model inside this program, `models/mini`.
    Embedded,
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Embedded => f.write_str("the embedded model"),
        }
    }
}

impl ModelSource {
    /// Checks that there is a file that is no pickle, or a folder in diffusers layout.
    ///
    /// # Errors
    /// Nothing there, a pickled file, or a folder without `model_index.json`.
    pub fn check(&self) -> Result<(), WeightsError> {
        let Self::Path(path) = self else { return Ok(()) };
        refuse_pickle(path)?;
        if path.is_file() {
            return Ok(());
        }
        if !path.is_dir() {
            return Err(WeightsError::NotFound(path.clone()));
        }
        if self.contains("model_index.json") {
            return Ok(());
        }
        Err(match self.find_pickle("") {
            Some(file) => WeightsError::Pickled { file },
            None => WeightsError::NotDiffusers(path.clone()),
        })
    }

    /// The full name of a file of the model, for messages.
    #[must_use]
    pub fn full_name(&self, name: &str) -> String {
        match self {
            Self::Path(path) => path.join(name).display().to_string(),
            Self::Embedded => format!("{self}: {name}"),
        }
    }

    /// Whether the model has the file `name`, relative to its root, with `/` between folders.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::Path(path) => path.join(name).is_file(),
            Self::Embedded => embedded::file(name).is_some(),
        }
    }

    /// Reads a (small) file.
    ///
    /// # Errors
    /// A file that is missing or cannot be read.
    pub fn read(&self, name: &str) -> Result<Bytes, WeightsError> {
        self.open(name, |path| Ok(Bytes::Heap(std::fs::read(path)?.into())))
    }

    /// Maps a (large) file into memory.
    ///
    /// # Errors
    /// A file that is missing or cannot be mapped.
    pub fn map(&self, name: &str) -> Result<Bytes, WeightsError> {
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
            Self::Embedded => embedded::file(name)
                .map(Bytes::Static)
                .ok_or_else(|| fail(io::ErrorKind::NotFound.into())),
        }
    }

    /// The full name of a pickled weights file in a folder of the model, if there is one.
    pub(super) fn find_pickle(&self, folder: &str) -> Option<String> {
        let Self::Path(path) = self else { return None };
        let mut names: Vec<_> = std::fs::read_dir(path.join(folder))
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_pickle(path))
            .collect();
        names.sort();
        names.first().map(|path| path.display().to_string())
    }
}

/// Refuses a file that may be a pickle, by its name.
pub(super) fn refuse_pickle(path: &Path) -> Result<(), WeightsError> {
    if path.is_file() && is_pickle(path) {
        return Err(WeightsError::Pickled { file: path.display().to_string() });
    }
    Ok(())
}

/// PyTorch's formats, all pickles inside.
fn is_pickle(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("ckpt" | "bin" | "pt" | "pth"))
}
