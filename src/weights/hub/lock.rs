//! Advisory locks between processes. Lock files are never deleted: one that is deleted while another process waits
//! for it would let two in at once. A process that ends, however it ends, releases its locks.
//!
//! On a file system of several hosts locks may be unknown, or known to one host alone. Who has a lock by himself therefore
//! holds a lease beside it. Who shares one has none: where locks do not reach other hosts, or do not work, a removal does not
//! see who uses the folder elsewhere.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use super::{HubError, TransferProgress};
use crate::lease::{Lease, has_no_locks};

/// Interval at which a waiting process tries again: a wait must remain interruptible.
const POLL: Duration = Duration::from_millis(100);

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _lease: Option<Lease>,
    _file: File,
}

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
        let mut lease = path.file_name().unwrap_or_default().to_owned();
        lease.push(".lease");
        Self::take(path, Some(path.with_file_name(lease)), waiting, progress, File::try_lock)
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
        Self::take(path, None, waiting, progress, File::try_lock_shared)
    }

    /// Takes the lock of the file at `path`, and with it the lease at `alone`, if there is to be one.
    fn take(
        path: &Path,
        alone: Option<PathBuf>,
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
            let locked = match lock(&file) {
                Ok(()) => Some(Some(&file)),
                Err(TryLockError::Error(error)) if has_no_locks(&error) => Some(None),
                Err(TryLockError::Error(error)) => return Err(io(error)),
                Err(TryLockError::WouldBlock) => None,
            };
            match (locked, &alone) {
                (None, _) => {}
                (Some(_), None) => return Ok(Self { _lease: None, _file: file }),
                (Some(locked), Some(lease)) => match Lease::take(lease, locked).map_err(io)? {
                    Ok(lease) => return Ok(Self { _lease: Some(lease), _file: file }),
                    Err(_) => {
                        // Another host's: whoever is here need not wait behind this one.
                        let _ = file.unlock();
                    }
                },
            }
            if progress.interrupted() {
                return Err(HubError::Interrupted);
            }
            if !std::mem::replace(&mut told, true) {
                progress.note(waiting);
            }
            sleep(POLL);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::weights::hub::NoProgress;

    fn refused(_: &File) -> Result<(), TryLockError> {
        Err(TryLockError::Error(std::io::Error::from_raw_os_error(38)))
    }

    /// As NFS with `nolock` does among hosts: each gets the lock.
    fn local(_: &File) -> Result<(), TryLockError> {
        Ok(())
    }

    #[test]
    fn one_at_a_time_has_it_alone_whatever_locks_the_file_system_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("files--o--n");
        for lock in [File::try_lock, refused, File::try_lock] {
            let inside = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        let alone = Some(path.with_extension("lease"));
                        let held = Lock::take(&path, alone, "waiting", &mut NoProgress, lock);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        sleep(Duration::from_millis(20));
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(held.unwrap());
                    });
                }
            });
        }
        let alone = path.with_extension("lease");
        assert!(!alone.exists());
        drop(Lock::take(&path, Some(alone), "waiting", &mut NoProgress, local).unwrap());
    }
}
