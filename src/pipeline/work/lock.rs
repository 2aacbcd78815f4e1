//! Lock of a work folder: one process at a time works in it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
};

use super::files::LOCK;
use crate::pipeline::error::Error;

/// Creates the folder and takes its lock, held until the file is closed.
///
/// # Errors
/// [`Error::Busy`] if another process holds the lock, or an I/O error.
pub fn lock(folder: &Path) -> Result<File, Error> {
    // The previous holder may remove the lock file between our open and our lock.
    loop {
        fs::create_dir_all(folder).map_err(|error| Error::in_file(folder, error))?;
        let path = folder.join(LOCK);
        let file = match File::options().create(true).truncate(false).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::in_file(&path, error)),
        };
        match file.try_lock() {
            Ok(()) if path.exists() => return Ok(file),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Busy { folder: folder.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(Error::in_file(&path, error)),
        }
    }
}
