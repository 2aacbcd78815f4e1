//! SHA-256 of files, in pieces, so that a long computation can be watched and stopped.

use std::{fs::File, io::Read as _, path::Path};

use sha2::{Digest as _, Sha256};

use super::{HubError, TransferProgress};
use crate::units::hex;

/// Bytes that are read, hashed and written at once.
pub const CHUNK: usize = 256 << 10;

/// Size and SHA-256 of a file. `progress` has been told that work on it begins.
///
/// # Errors
/// A file that cannot be read; an interruption.
pub fn sha256_file(
    path: &Path,
    progress: &mut dyn TransferProgress,
) -> Result<(u64, String), HubError> {
    let mut file = File::open(path).map_err(|error| HubError::io(path, error))?;
    let mut hasher = Sha256::new();
    let size = feed(&mut file, &mut hasher, path, progress)?;
    Ok((size, hex(&hasher.finalize())))
}

/// Feeds the rest of a file to the hasher; returns its length.
pub fn feed(
    file: &mut File,
    hasher: &mut Sha256,
    path: &Path,
    progress: &mut dyn TransferProgress,
) -> Result<u64, HubError> {
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        if progress.interrupted() {
            return Err(HubError::Interrupted);
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(size),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                size += count as u64;
                progress.advance(count as u64);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(HubError::io(path, error)),
        }
    }
}
