//! Advisory locks between processes. Lock files are never deleted: one that is deleted while another process waits
//! for it would let two in at once. A process that ends, however it ends, releases its locks.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
    thread::sleep,
    time::Duration,
};

use super::{HubError, TransferProgress};

/// Interval at which a waiting process tries again: a wait must remain interruptible.
const POLL: Duration = Duration::from_millis(100);

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Lock {
    /// Waits until no other process holds the lock of this file, and notes once that it waits.
    ///
    /// # Errors
    /// A lock file that cannot be made or locked; an interruption.
    pub fn exclusive(
        path: &Path,
        waiting: &str,
        progress: &mut dyn TransferProgress,
    ) -> Result<Self, HubError> {
        Self::take(path, waiting, progress, File::try_lock)
    }

    /// Waits until no other process holds it exclusively; others may share it.
    ///
    /// # Errors
    /// As [`exclusive`](Self::exclusive).
    pub fn shared(
        path: &Path,
        waiting: &str,
        progress: &mut dyn TransferProgress,
    ) -> Result<Self, HubError> {
        Self::take(path, waiting, progress, File::try_lock_shared)
    }

    fn take(
        path: &Path,
        waiting: &str,
        progress: &mut dyn TransferProgress,
        lock: fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Self, HubError> {
        let io = |error| HubError::io(path, error);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| HubError::io(folder, error))?;
        }
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(io)?;
        let mut told = false;
        loop {
            match lock(&file) {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::Error(error)) => return Err(io(error)),
                Err(TryLockError::WouldBlock) if progress.interrupted() => {
                    return Err(HubError::Interrupted);
                }
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut told, true) {
                        progress.note(waiting);
                    }
                    sleep(POLL);
                }
            }
        }
    }
}
