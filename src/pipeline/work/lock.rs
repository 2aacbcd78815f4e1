//! Lock of a work folder: one process at a time works in it, on whichever host. A lock of a file says at once that its
//! holder is gone, where the file system has such locks; a lease beside it counts where it has none, or none that other
//! hosts see.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
};

use super::files::{LEASE, LOCK};
use crate::{
    lease::{Holder, Lease, LeaseWatch, has_no_locks, holder},
    pipeline::error::Error,
    temporary::{is_own_folder, make_private, not_through_links},
};

/// Attempts after which a lock's file need only be there.
const MOST_ATTEMPTS: u32 = 1000;

/// How a file is locked.
type Flock = fn(&File) -> Result<(), TryLockError>;

/// The lock of a work folder, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    // It ends first: who comes next finds neither.
    lease: Lease,
    /// The locked file; open without a lock where there are none.
    _file: File,
}

impl Lock {
    /// `true` unless another process has taken the folder over, while this one stood still for long.
    pub fn is_held(&self) -> bool {
        // A file system that does not answer has given it to nobody.
        self.lease.is_held().unwrap_or(true)
    }

    /// For whoever must not write without it.
    pub fn watch(&self) -> LeaseWatch {
        self.lease.watch()
    }
}

/// Creates the folder, for this user alone, and takes its lock.
///
/// # Errors
/// [`Error::Busy`] if another process holds the lock, [`Error::NotOwn`] for a folder that another user made, or an
/// I/O error.
pub fn lock(folder: &Path) -> Result<Lock, Error> {
    lock_by(folder, File::try_lock)
}

fn lock_by(folder: &Path, flock: Flock) -> Result<Lock, Error> {
    let busy = |Holder(by)| Error::Busy { folder: folder.to_owned(), by };
    // The previous holder may remove both files at any time until both are ours.
    let mut attempt = 0_u32;
    loop {
        attempt = attempt.saturating_add(1);
        // Numbers of files that never agree are those of a file system that has none.
        let is_named = |file: &File, path: &Path| match attempt < MOST_ATTEMPTS {
            true => is_named(file, path),
            false => path.exists(),
        };
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
        let (path, lease) = (folder.join(LOCK), folder.join(LEASE));
        let file = match not_through_links().create(true).truncate(false).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::in_file(&path, error)),
        };
        let is_locked = match flock(&file) {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => {
                let by = holder(&lease, Some(&file), true);
                return Err(busy(by.unwrap_or_else(|| Holder("another process".to_owned()))));
            }
            Err(TryLockError::Error(error)) if has_no_locks(&error) => false,
            Err(TryLockError::Error(error)) => return Err(Error::in_file(&path, error)),
        };
        // A lock of a file that is gone, or whose name is another's by now, keeps nobody out.
        if is_locked && !is_named(&file, &path) {
            continue;
        }
        match Lease::take(&lease, is_locked.then_some(&file)) {
            Ok(Ok(lease)) if !is_locked || is_named(&file, &path) => {
                return Ok(Lock { lease, _file: file });
            }
            Ok(Ok(_)) => {}
            Ok(Err(by)) => return Err(busy(by)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::in_file(&lease, error)),
        }
    }
}

/// `false` while a process works in this work folder, on this host or, as far as its lease tells, on another one. Asked now
/// and then, at most some seconds apart, it becomes true of a process whose host is gone.
#[must_use]
pub fn is_free(folder: &Path) -> bool {
    let file = not_through_links().open(folder.join(LOCK)).ok();
    // Shared, so that two who ask do not find each other.
    let is_locked = file
        .as_ref()
        .is_some_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)));
    !is_locked && holder(&folder.join(LEASE), file.as_ref(), is_locked).is_none()
}

/// `true` if this open file is the one at the path.
fn is_named(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let (Ok(file), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
        file.nlink() > 0 && (file.dev(), file.ino()) == (named.dev(), named.ino())
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Lustre answers that is mounted without `flock`.
    #[cfg(target_os = "linux")]
    fn refused(_: &File) -> Result<(), TryLockError> {
        Err(TryLockError::Error(io::Error::from_raw_os_error(38)))
    }

    /// As NFS with `nolock` does among hosts: each gets the lock.
    #[cfg(target_os = "linux")]
    fn local(_: &File) -> Result<(), TryLockError> {
        Ok(())
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn with_locks_without_them_and_with_such_that_others_do_not_see_one_works_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("work");
        for flock in [File::try_lock as Flock, refused] {
            let first = lock_by(&folder, flock).unwrap();
            assert!(first.is_held() && !is_free(&folder));
            let error = lock_by(&folder, flock).unwrap_err();
            let Error::Busy { by, .. } = &error else { panic!("{error}") };
            assert!(by.starts_with(&format!("process {} on ", std::process::id())), "{by}");
            drop(first);
            assert!(is_free(&folder));
        }
        drop(lock_by(&folder, local).unwrap());
        assert!(!folder.join(LEASE).exists());
    }

    #[test]
    fn a_process_that_is_gone_is_found_out_by_its_lock() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("work");
        let first = lock(&folder).unwrap();
        let left = fs::read(folder.join(LEASE)).unwrap();
        drop(first);
        // As a kill leaves it.
        fs::write(folder.join(LEASE), &left).unwrap();
        assert!(is_free(&folder));
        let second = lock(&folder).unwrap();
        assert_ne!(fs::read(folder.join(LEASE)).unwrap(), left);
        // Somebody else's line.
        fs::write(folder.join(LEASE), &left).unwrap();
        assert!(!second.is_held() && !second.watch().is_held().unwrap());
        drop(second);
        assert_eq!(fs::read(folder.join(LEASE)).unwrap(), left);
    }

    #[test]
    fn a_lock_whose_file_was_replaced_is_taken_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("work");
        drop(lock(&folder).unwrap());
        let path = folder.join(LOCK);
        let old = File::options().write(true).open(&path).unwrap();
        assert!(is_named(&old, &path));
        fs::remove_file(&path).unwrap();
        assert!(!is_named(&old, &path));
        fs::write(&path, "").unwrap();
        assert!(!is_named(&old, &path));
        let held = lock(&folder).unwrap();
        assert!(held.is_held());
    }

    #[test]
    fn many_at_once_work_one_after_the_other() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("work");
        let at_work = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut done = 0;
                    while done < 25 {
                        let Ok(held) = lock(&folder) else {
                            std::thread::yield_now();
                            continue;
                        };
                        assert_eq!(at_work.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        assert!(held.is_held());
                        // What follows lets the next one in, step by step.
                        at_work.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        super::super::files::remove(&folder);
                        drop(held);
                        done += 1;
                    }
                });
            }
        });
        super::super::files::remove(&folder);
        assert!(!folder.exists());
    }
}
