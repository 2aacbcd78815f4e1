//! Reasons why a download failed, in one line each: what, where, and what to do about it.

use std::{io, path::Path};

/// Reason why a download failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "a variant's message says what its fields are")]
pub enum HubError {
    #[error("{what}: HF_HUB_OFFLINE is set, so nothing is downloaded; unset it and pull again")]
    Offline { what: String },
    #[error("{0}: not the address of a hub (https://HOST)")]
    Endpoint(String),
    /// The hub is reached without encryption, over a network.
    #[error(
        "{0}: the connection is not encrypted, so the token would be there for anybody on the way to read; nothing was sent"
    )]
    TokenInClear(String),
    #[error("{file}: {reason}")]
    Token { file: String, reason: String },
    /// `detail` is the hub's own message.
    #[error(
        "{what}: refused by the hub ({status}{detail}); accept the licence at {page}, and set HF_TOKEN to a token that may read it"
    )]
    Refused { what: String, status: u16, detail: String, page: String },
    #[error("{what}: not on the hub at {endpoint} ({status})")]
    NotFound { what: String, endpoint: String, status: u16 },
    #[error("{what}: the hub answered {status}; pull again later")]
    Status { what: String, status: u16 },
    #[error("{what}: {reason}; pull again to go on where it ended")]
    Network { what: String, reason: String },
    #[error("{what}: {reason}")]
    Answer { what: String, reason: String },
    #[error("{what}: `{path}` cannot be stored under that name")]
    UnsafePath { what: String, path: String },
    #[error("{file}: wrong size ({expected} bytes expected, {got} got); deleted, pull again")]
    WrongSize { file: String, expected: u64, got: u64 },
    #[error("{file}: wrong bytes (SHA-256 {expected} expected, {got} got); deleted, pull again")]
    WrongHash { file: String, expected: String, got: String },
    #[error(
        "{file}: the hub's file is another one than the registry's ({expected} expected, the hub has {got}); nothing was downloaded"
    )]
    Differs { file: String, expected: String, got: String },
    #[error("{file}: the disk is full; what arrived is kept, free some space and pull again")]
    DiskFull { file: String },
    #[error("{file}: {source}")]
    Io { file: String, source: io::Error },
    #[error("interrupted; what arrived is kept, pull again to go on")]
    Interrupted,
}

impl HubError {
    /// Error of the disk, with the name of the file.
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let file = path.display().to_string();
        match source.kind() {
            // A limit on the size of files reads the same to a user as a full disk.
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::DiskFull { file },
            _ => Self::Io { file, source },
        }
    }
}
