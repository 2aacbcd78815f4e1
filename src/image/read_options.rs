//! Options of reading a picture.

use std::path::PathBuf;

use super::plane::Scratch;

/// The most bytes of metadata that a picture may have unless more is allowed (64 MiB): a profile, a thumbnail and an
/// editor's history are far smaller, and a few kilobytes of compressed text can claim gigabytes.
pub const MAX_METADATA: u64 = 64 << 20;

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
        Self { allow_truncated: false, max_metadata: MAX_METADATA, scratch_folder: None }
    }
}

impl ReadOptions {
    pub(crate) fn scratch(&self) -> Scratch {
        Scratch { folder: self.scratch_folder.clone(), ..Scratch::default() }
    }
}
