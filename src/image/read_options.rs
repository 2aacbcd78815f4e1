//! Options of reading a picture.

use std::num::NonZeroUsize;
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
    /// The picture of a file that holds several, from 1: a page of a TIFF, or a frame of an animation, composed as a
    /// viewer shows it. `None` is the one that is meant, or the first, with a
    /// [`Warning::FirstFrameOnly`](super::Warning::FirstFrameOnly).
    pub picture: Option<NonZeroUsize>,
    /// Folder for the planes of large pictures, which are files without a name; `None` is the folder for temporary
    /// files.
    pub scratch_folder: Option<PathBuf>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            allow_truncated: false,
            max_metadata: DEFAULT_MAX_METADATA,
            picture: None,
            scratch_folder: None,
        }
    }
}

impl ReadOptions {
    pub(crate) fn scratch(&self) -> Scratch {
        Scratch { folder: self.scratch_folder.clone(), ..Scratch::default() }
    }
}
