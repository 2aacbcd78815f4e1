//! Errors of `integrate`.

use std::{io, path::PathBuf};

/// Errors of `integrate`.
#[derive(Debug, thiserror::Error)]
pub enum IntegrateError {
    #[error("{name} is not of this system")]
    System { name: &'static str },
    #[error("{}: is not this program's; nothing was written; move it away, or remove it", .0.display())]
    Foreign(PathBuf),
    #[error("{}: was changed since this program wrote it, and is kept; --force {} it all the same", path.display(), if *remove { "removes" } else { "writes" })]
    Changed { path: PathBuf, remove: bool },
    #[error("{}: this path cannot be written into {}; move the program to a plainer one", path.display(), file.display())]
    Name { path: PathBuf, file: PathBuf },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("this program does not know where it is ({0})")]
    Lost(io::Error),
}
