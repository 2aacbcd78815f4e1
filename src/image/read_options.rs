//! Options of reading a picture.

use std::path::PathBuf;

use super::metadata::DEFAULT_MAX_METADATA;
use super::plane::Scratch;

/// How a picture is read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReadOptions {
    /// A picture that ends early is read as far as it goes, and a
    /// [`Warning::Truncated`](super::Warning::Truncated) says how far; otherwise it is an error.
    pub allow_truncated: bool,
    /// The most bytes of all metadata together, inflated.
    pub max_metadata: u64,
    /// Folder for the planes of large pictures, which are files without a name; `None` is the folder for temporary
    /// files.
    pub scratch_folder: Option<PathBuf>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { allow_truncated: false, max_metadata: DEFAULT_MAX_METADATA, scratch_folder: None }
    }
}

impl ReadOptions {
    pub(crate) fn scratch(&self) -> Scratch {
        Scratch { folder: self.scratch_folder.clone(), ..Scratch::default() }
    }
}
