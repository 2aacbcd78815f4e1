//! The file that is edited: what the file system knows of it, its backup, and its replacement.

use std::{
    ffi::OsString,
    fs::{self, File, FileTimes, Metadata},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use cupscale::{image::ImageError, pipeline::Error};

use crate::cli::error::CliError;

/// Ending of the new file's name until it takes that of the original.
const EDITED: &str = ".cupscale-edit";
/// Bytes that are compared at once.
const BLOCK: usize = 1 << 16;

/// A file as it was found.
pub struct Original {
    /// Behind symbolic links.
    pub path: PathBuf,
    /// As the user names it.
    pub name: String,
    metadata: Metadata,
}

impl Original {
    /// # Errors
    /// A file that is not there, or is no plain file.
    pub fn find(path: &Path) -> Result<Self, CliError> {
        let name = path.display().to_string();
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ImageError::NotFound { name: name.clone() },
            _ => ImageError::Read { name: name.clone(), source },
        };
        let path = fs::canonicalize(path).map_err(|error| Error::from(unreadable(error)))?;
        let metadata = fs::metadata(&path).map_err(|error| Error::from(unreadable(error)))?;
        if !metadata.is_file() {
            let reason = "is no plain file".to_owned();
            return Err(CliError::NotEdited { name, reason });
        }
        Ok(Self { path, name, metadata })
    }

    /// Names that it has.
    pub fn names(&self) -> u64 {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            fs::metadata(&self.path).map_or(1, |found| found.nlink())
        }
        #[cfg(not(unix))]
        1
    }

    /// Where the new picture is written.
    pub fn edited(&self) -> PathBuf {
        self.with_suffix(EDITED)
    }

    fn with_suffix(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.file_name().map_or_else(OsString::new, OsString::from);
        name.push(suffix);
        self.path.with_file_name(name)
    }

    /// Keeps it under its name with this suffix as well: as a second name, or as a copy where there are none. What an
    /// interrupted run kept is taken up.
    ///
    /// # Errors
    /// Another file has that name.
    pub fn backup(&self, suffix: &str) -> Result<Backup, CliError> {
        let path = self.with_suffix(suffix);
        let failed = |error: io::Error| {
            self.failed(&format!("cannot be kept as {} ({error})", path.display()))
        };
        match fs::hard_link(&self.path, &path) {
            Ok(()) => return Ok(Backup { path, is_link: true }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let is_same = is_same_file(&self.path, &path);
                if is_same || have_same_bytes(&self.path, &path).unwrap_or(false) {
                    return Ok(Backup { path, is_link: is_same });
                }
                return Err(self.failed(&format!(
                    "cannot be kept as {}: that is another file",
                    path.display()
                )));
            }
            Err(_) => {}
        }
        fs::copy(&self.path, &path).map_err(failed)?;
        let _ = set_times(&path, &self.metadata);
        Ok(Backup { path, is_link: false })
    }

    /// Gives the new picture the attributes of this file, and its name.
    ///
    /// # Errors
    /// A file that was changed meanwhile, or that cannot be replaced.
    pub fn replace(&self, keep_times: bool) -> Result<(), CliError> {
        let edited = self.edited();
        let now = fs::metadata(&self.path).ok();
        let is_unchanged = now.is_some_and(|now| {
            now.len() == self.metadata.len() && now.modified().ok() == self.metadata.modified().ok()
        });
        if !is_unchanged {
            return Err(self.failed(&format!(
                "was changed while it was enlarged, and is left alone; the new picture is {}",
                edited.display()
            )));
        }
        copy_attributes(&self.path, &self.metadata, &edited);
        if keep_times {
            let _ = set_times(&edited, &self.metadata);
        }
        // What is behind the name must be on the disk before the original is gone.
        let replaced = File::open(&edited)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&edited, &self.path));
        replaced.map_err(|error| {
            let _ = fs::remove_file(&edited);
            self.failed(&format!("cannot be replaced ({error})"))
        })
    }

    fn failed(&self, reason: &str) -> CliError {
        CliError::NotEdited { name: self.name.clone(), reason: reason.to_owned() }
    }
}

/// The kept original.
pub struct Backup {
    path: PathBuf,
    is_link: bool,
}

impl Backup {
    /// `true` for a second name of the original.
    pub fn is_link(&self) -> bool {
        self.is_link
    }

    /// Removes it, because the original stays.
    pub fn undo(self) {
        let _ = fs::remove_file(self.path);
    }
}

/// Owner, extended attributes (lists of access rights among them) and mode, as far as the system lets the user.
fn copy_attributes(from: &Path, metadata: &Metadata, to: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt as _, chown};
        let (owner, group) = (metadata.uid(), metadata.gid());
        // A user can give a file to one of his groups, not to another user.
        if chown(to, Some(owner), Some(group)).is_err() {
            let _ = chown(to, None, Some(group));
        }
        for name in xattr::list(from).into_iter().flatten() {
            if let Ok(Some(value)) = xattr::get(from, &name) {
                let _ = xattr::set(to, &name, &value);
            }
        }
    }
    #[cfg(not(unix))]
    let _ = from;
    let _ = fs::set_permissions(to, metadata.permissions());
}

/// Sets the times of access and change.
fn set_times(path: &Path, like: &Metadata) -> io::Result<()> {
    let mut times = FileTimes::new().set_modified(like.modified()?);
    if let Ok(accessed) = like.accessed() {
        times = times.set_accessed(accessed);
    }
    File::options().write(true).open(path)?.set_times(times)
}

/// `true` for two names of one file.
fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let identity = |path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        identity(a).is_some() && identity(a) == identity(b)
    }
    #[cfg(not(unix))]
    {
        let _ = (a, b);
        false
    }
}

/// `true` for two files of the same content.
fn have_same_bytes(a: &Path, b: &Path) -> io::Result<bool> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        let count = a.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        b.read_exact(&mut right[..count])?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
}
