//! Temporary files: a folder of this user alone for them, because a fixed name in a shared folder can be taken, or
//! made a link to somebody's file, by any other user of the machine.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io,
    path::{Path, PathBuf},
};

/// Errors of temporary files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemporaryError {
    /// A file or folder cannot be made.
    #[error("{}: cannot hold temporary files ({source})", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// What bears the name of the user's own folder is not his, or not his alone.
    #[error(
        "{}: {what}, so temporary files are not safe in it; remove it, or set TMPDIR to a folder of your own",
        path.display()
    )]
    NotPrivate {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl From<TemporaryError> for io::Error {
    fn from(error: TemporaryError) -> Self {
        let kind = match &error {
            TemporaryError::Io { source, .. } => source.kind(),
            TemporaryError::NotPrivate { .. } => io::ErrorKind::PermissionDenied,
        };
        Self::new(kind, error)
    }
}

/// The folder of this user for temporary files, made if it is not there: `cupscale-UID` in `$TMPDIR` or `/tmp`, which
/// no other user may read, write or have made.
///
/// # Errors
/// [`TemporaryError::NotPrivate`] for a symbolic link, another user's folder, or one that others may enter;
/// [`TemporaryError::Io`] if it cannot be made.
pub fn private_folder() -> Result<PathBuf, TemporaryError> {
    private_folder_in(&std::env::temp_dir())
}

fn private_folder_in(parent: &Path) -> Result<PathBuf, TemporaryError> {
    let folder = parent.join(user_name());
    let failed = |source| TemporaryError::Io { path: folder.clone(), source };
    make_private(&folder).map_err(failed)?;
    // The name itself is looked at: the parent's sticky bit keeps others from exchanging it afterwards.
    let found = fs::symlink_metadata(&folder).map_err(failed)?;
    match weakness(&found, parent) {
        Some(what) => Err(TemporaryError::NotPrivate { path: folder, what }),
        None => Ok(folder),
    }
}

/// A new file in `folder` that has no name, so that it is gone with the process, however that ends.
///
/// # Errors
/// [`TemporaryError::Io`]: a folder that is not there, is read-only or full.
pub fn unlinked_file(folder: &Path) -> Result<File, TemporaryError> {
    tempfile::tempfile_in(folder)
        .map_err(|source| TemporaryError::Io { path: folder.to_owned(), source: plain(source) })
}

/// A new folder within the [private one](private_folder), removed with all its files when it is dropped.
///
/// # Errors
/// Those of [`private_folder`].
#[cfg(feature = "mistralrs")]
pub(crate) fn removed_folder() -> Result<tempfile::TempDir, TemporaryError> {
    let parent = private_folder()?;
    tempfile::tempdir_in(&parent)
        .map_err(|source| TemporaryError::Io { path: parent, source: plain(source) })
}

/// Makes a folder that its owner alone may enter; one that is there stays as it is. Its parent must exist.
///
/// # Errors
/// The operating system's.
pub fn make_private(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// True if what is at `path` (itself, not what it links to) is a folder of this user: in a folder that others may
/// write to, theirs may bear any name.
pub fn is_own_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| {
        found.is_dir() && path.parent().is_none_or(|parent| is_own(&found, parent))
    })
}

/// True if no other user but root can exchange the folder at `path`, or one that it lies in.
#[cfg(unix)]
pub(crate) fn is_out_of_reach(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let held = |folder: &Path| {
        fs::metadata(folder).is_ok_and(|found| {
            let (shared, sticky) = (found.mode() & 0o002 != 0, found.mode() & 0o1000 != 0);
            [0, user_id()].contains(&found.uid()) && (!shared || sticky)
        })
    };
    fs::canonicalize(path).is_ok_and(|path| path.ancestors().all(held))
}

#[cfg(not(unix))]
pub(crate) fn is_out_of_reach(_: &Path) -> bool {
    true
}

/// Options that open a file to read and write it, itself and not what a symbolic link of that name leads to.
pub(crate) fn not_through_links() -> OpenOptions {
    let mut options = File::options();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW);
    options
}

/// `tempfile` repeats a random path in its messages; the system's own words are enough.
pub(crate) fn plain(error: io::Error) -> io::Error {
    let kind = error.kind();
    let words = error.get_ref().and_then(|inner| inner.source()).map(ToString::to_string);
    words.map_or(error, |words| io::Error::new(kind, words))
}

/// What keeps a folder in `parent` from being this user's alone.
#[cfg(unix)]
fn weakness(found: &Metadata, parent: &Path) -> Option<&'static str> {
    use std::os::unix::fs::PermissionsExt as _;
    if found.is_symlink() {
        Some("it is a symbolic link")
    } else if !found.is_dir() {
        Some("it is not a folder")
    } else if !is_own(found, parent) {
        Some("it belongs to another user")
    } else if found.permissions().mode() & 0o077 != 0 {
        Some("other users may enter it")
    } else {
        None
    }
}

/// Temporary folders of other systems are each user's own.
#[cfg(not(unix))]
fn weakness(found: &Metadata, _: &Path) -> Option<&'static str> {
    (!found.is_dir()).then_some("it is not a folder")
}

/// True if this has the owner that a new file of this process has in `parent`, which on some network file systems is
/// not the process's user.
#[cfg(unix)]
fn is_own(found: &Metadata, parent: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    found.uid() == user_id()
        || tempfile::tempfile_in(parent)
            .and_then(|file| file.metadata())
            .is_ok_and(|new| new.uid() == found.uid())
}

#[cfg(not(unix))]
fn is_own(_: &Metadata, _: &Path) -> bool {
    true
}

/// The user that this process acts as.
#[cfg(unix)]
pub(crate) fn user_id() -> u32 {
    // SAFETY: the call takes nothing, changes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(unix)]
fn user_name() -> String {
    format!("cupscale-{}", user_id())
}

#[cfg(not(unix))]
fn user_name() -> String {
    "cupscale".to_owned()
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        io::{Read as _, Seek as _, Write as _},
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    #[test]
    fn the_folder_is_made_for_its_owner_alone_and_found_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = private_folder_in(parent.path()).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(is_own_folder(&folder));
        assert_eq!(private_folder_in(parent.path()).unwrap(), folder);
    }

    #[test]
    fn a_link_a_file_and_a_folder_that_others_enter_are_refused_by_name() {
        let parent = tempfile::tempdir().unwrap();
        let refused = || private_folder_in(parent.path()).unwrap_err().to_string();
        let path = parent.path().join(user_name());
        let target = parent.path().join("target");
        fs::create_dir(&target).unwrap();
        symlink(&target, &path).unwrap();
        assert!(refused().contains("symbolic link") && refused().contains("TMPDIR"));
        assert!(!is_own_folder(&path));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(refused().contains("not a folder"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(refused().contains("other users may enter"));
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join(user_name());
        fs::create_dir(&path).unwrap();
        // Only root can give a folder away.
        if std::os::unix::fs::chown(&path, Some(12345), None).is_ok() {
            let error = private_folder_in(parent.path()).unwrap_err();
            assert!(matches!(error, TemporaryError::NotPrivate { .. }), "{error}");
            assert!(!is_own_folder(&path));
        }
    }

    #[test]
    fn an_unlinked_file_holds_bytes_and_leaves_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = unlinked_file(folder.path()).unwrap();
        file.write_all(b"rows").unwrap();
        file.rewind().unwrap();
        let mut read = String::new();
        file.read_to_string(&mut read).unwrap();
        assert_eq!(read, "rows");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let gone = folder.path().join("gone");
        let error = unlinked_file(&gone).unwrap_err();
        let expected = format!("{}: cannot hold temporary files", gone.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
    }
}
