//! New files that get their name when they are complete: until then they have none where the system allows it, so that
//! a process that is killed leaves nothing of their size behind.
//!
//! Source: `open(2)`, `O_TMPFILE`.

use std::{
    fs::{self, File},
    io::{self, Error, ErrorKind},
    path::{Path, PathBuf},
};

use tempfile::{Builder, TempPath};

use crate::temporary::plain;

/// Beginning of the names that such files have where a file must have one. What a killed process left under such a
/// name is removed by the next one that makes a file in the same folder.
const PREFIX: &str = ".cupscale-new-";
/// Attempts to make a file that another process takes for one that was left behind.
const MOST_ATTEMPTS: usize = 16;

/// A file that is being written, and the name that it will have.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    target: PathBuf,
    /// name that it has meanwhile, if it has one; removed when this is dropped
    hidden: Option<TempPath>,
}

impl NewFile {
    /// Makes a file in the folder of `target`, which stays as it is until [`finish`](Self::finish).
    ///
    /// # Errors
    /// A name that no file can have, such as that of a folder, or a folder that cannot be written to.
    pub(crate) fn create(target: &Path) -> io::Result<Self> {
        check_name(target)?;
        let folder = folder_of(target);
        remove_abandoned(folder);
        let (file, hidden) = match nameless(folder) {
            Some(file) => (file, None),
            None => named(folder)?,
        };
        Ok(Self { file, target: target.to_owned(), hidden })
    }

    /// The file, for writing.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Brings the file to the disk and gives it its name, which it takes from a file that has it.
    ///
    /// # Errors
    /// Those of writing and of naming; nothing is left then.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        let hidden = match self.hidden {
            Some(hidden) => hidden,
            None => match link(&self.file, &self.target) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    // A link never takes a name that is taken: a hidden one is moved over it.
                    let linked = Builder::new()
                        .prefix(PREFIX)
                        .make_in(folder_of(&self.target), |path| link(&self.file, path))?;
                    linked.into_temp_path()
                }
                result => return result,
            },
        };
        hidden.persist(&self.target).map_err(|error| error.error)
    }
}

/// Folder in which a file of this name lies.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Checks a name before anything is written.
fn check_name(target: &Path) -> io::Result<()> {
    let ends_as_folder = target.as_os_str().as_encoded_bytes().ends_with(b"/");
    if target.file_name().is_none() || ends_as_folder {
        return Err(ErrorKind::IsADirectory.into());
    }
    match fs::symlink_metadata(target) {
        Ok(there) if there.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A file without a name in this folder, if the system and the disk have such files.
#[cfg(target_os = "linux")]
fn nameless(folder: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // It gets its name through this folder of the system's.
    if !Path::new("/proc/self/fd").is_dir() {
        return None;
    }
    let mut options = File::options();
    options.read(true).write(true).mode(0o666).custom_flags(libc::O_TMPFILE).open(folder).ok()
}

#[cfg(not(target_os = "linux"))]
fn nameless(_: &Path) -> Option<File> {
    None
}

/// Gives a nameless file a name that is free.
#[cfg(target_os = "linux")]
fn link(file: &File, to: &Path) -> io::Result<()> {
    use std::{
        ffi::CString,
        os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    };
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = CString::new(to.as_os_str().as_bytes())?;
    // SAFETY: both texts end with a zero byte and live until the call returns.
    let result = unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn link(_: &File, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// A file with a hidden name, locked for as long as it is open, so that others can tell that it is in use.
fn named(folder: &Path) -> io::Result<(File, Option<TempPath>)> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // The user's own mask applies, as for any file of his.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    for _ in 0..MOST_ATTEMPTS {
        let (file, hidden) = builder.tempfile_in(folder).map_err(plain)?.into_parts();
        // Where there are no locks nobody takes the file for an abandoned one.
        let is_taken = matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock));
        if !is_taken && hidden.exists() {
            return Ok((file, Some(hidden)));
        }
    }
    Err(Error::other("another process removes new files as fast as they are made"))
}

/// Removes what processes that were killed have left in a folder: files of ours that nobody has locked.
fn remove_abandoned(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let ours = entries.filter(|entry| {
        entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry.file_type().is_ok_and(|kind| kind.is_file())
    });
    for path in ours.map(|entry| entry.path()) {
        let file = File::options().write(true).open(&path);
        if file.is_ok_and(|file| file.try_lock().is_ok() && fs::remove_file(&path).is_ok()) {
            tracing::debug!(file = %path.display(), "removed what a killed process left");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A file as it is made where files cannot be nameless.
    fn with_name(target: &Path) -> NewFile {
        let (file, hidden) = named(folder_of(target)).unwrap();
        NewFile { file, target: target.to_owned(), hidden }
    }

    #[test]
    fn a_file_has_its_name_once_it_is_complete_and_takes_it_from_another() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model.gguf");
        let named = |path: &Path| Ok(with_name(path));
        for (make, text) in [
            (&NewFile::create as &dyn Fn(&Path) -> io::Result<NewFile>, "first"),
            (&NewFile::create, "second"),
            (&named, "third"),
        ] {
            let before = fs::read(&target).ok();
            let file = make(&target).unwrap();
            file.file().write_all(text.as_bytes()).unwrap();
            assert_eq!(fs::read(&target).ok(), before);
            file.finish().unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), text);
            assert_eq!(names(folder.path()), ["model.gguf"]);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_is_being_written_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = NewFile::create(&folder.path().join("a")).unwrap();
        file.file().write_all(b"x").unwrap();
        // Some disks have no such files; the next test is about those.
        if file.hidden.is_none() {
            assert_eq!(names(folder.path()), [""; 0]);
        }
    }

    #[test]
    fn what_was_left_is_removed_and_what_is_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        let abandoned = folder.path().join(format!("{PREFIX}abandoned"));
        let other = folder.path().join(".cupscale-other");
        fs::write(&abandoned, "x").unwrap();
        fs::write(&other, "x").unwrap();
        let in_use = with_name(&folder.path().join("a"));
        drop(NewFile::create(&folder.path().join("b")).unwrap());
        assert!(!abandoned.exists() && other.exists());
        in_use.finish().unwrap();
        assert_eq!(names(folder.path()), [".cupscale-other", "a"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_no_file_can_have_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |name: &str| NewFile::create(&folder.path().join(name)).unwrap_err().kind();
        assert_eq!(refused(""), ErrorKind::IsADirectory);
        assert_eq!(refused("x/"), ErrorKind::IsADirectory);
        assert_eq!(refused("absent/x"), ErrorKind::NotFound);
        assert_eq!(refused(&"x".repeat(300)), ErrorKind::InvalidFilename);
    }
}
