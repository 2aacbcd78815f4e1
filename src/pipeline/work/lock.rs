//! Lock of a work folder: one process at a time works in it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
};

use super::files::LOCK;
use crate::pipeline::error::Error;

/// Makes the folder and takes its lock, which is held as long as the file stays open.
///
/// # Errors
/// [`Error::Busy`] where another process has it, or what the system says.
pub fn lock(folder: &Path) -> Result<File, Error> {
    // The process that had it may remove it between our opening the lock and our taking it.
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
