//! Client of the model hub: the commit of a revision, its files, and a download of each that survives cut
//! connections, wrong bytes, a full disk and a second process. Nothing here knows what a model is.
//!
//! The crate hf-hub is not used (looked at: 0.4.3). It resumes and locks, but it does not compare a file's SHA-256
//! with the one that the hub or our registry declares, it cannot be interrupted from its progress callback,
//! it does not check the room on the disk first, and its files are laid out as a cache with links, where the
//! models folder has one plain folder for each commit.

mod client;
mod digest;
mod error;
mod lock;
pub(super) mod names;
mod progress;
mod transfer;
pub(super) mod url;

pub(super) use client::RemoteFile;
pub use client::{Hub, HubOptions};
#[cfg(fuzzing)]
pub(super) use client::{content_range, understand};
pub use error::HubError;
pub use progress::{NoProgress, TransferProgress, TransferWork};

pub(super) use digest::sha256_file;
pub(super) use lock::Lock;
pub(super) use transfer::{Wanted, fetch, part_path};
