//! The protocol of the model hub: which commit a revision is, which files it has, and a download of
//! each that survives cut connections, wrong bytes, a full disk and a second process. Nothing here
//! knows what a model is.

mod client;
mod digest;
mod error;
mod lock;
pub(super) mod names;
mod progress;
mod transfer;
mod url;

pub use client::{DEFAULT_ENDPOINT, Hub, HubOptions, RemoteFile, RepoInfo};
pub use error::HubError;
pub use progress::{NoProgress, TransferProgress, Work};

pub(super) use digest::sha256_file;
pub(super) use lock::Lock;
pub(super) use transfer::{Wanted, fetch, part_path};
