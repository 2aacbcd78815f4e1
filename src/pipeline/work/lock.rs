//! Lock of a work folder: one process at a time works in it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
};

use super::files::LOCK;
use crate::{
    pipeline::error::Error,
    temporary::{is_own_folder, make_private, not_through_links},
};

/// Creates the folder, for this user alone, and takes its lock, held until the file is closed.
///
/// # Errors
/// [`Error::Busy`] if another process holds the lock, [`Error::NotOwn`] for a folder that another user made, or an
/// I/O error.
pub fn lock(folder: &Path) -> Result<File, Error> {
    // The previous holder may remove the lock file between our open and our lock.
    loop {
        let parent = folder.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|error| Error::in_file(parent, error))?;
        make_private(folder).map_err(|error| Error::in_file(folder, error))?;
        if !is_own_folder(folder) {
            // Gone again, by the previous holder.
            if !folder.is_symlink() && !folder.exists() {
                continue;
            }
            return Err(Error::NotOwn { folder: folder.to_owned() });
        }
        let path = folder.join(LOCK);
        let file = match not_through_links().create(true).truncate(false).open(&path) {
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
