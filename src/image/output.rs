//! Output of pictures: a path, a standard stream, a caller's writer or a buffer, as types instead of strings with a
//! magic `-`. An output path is written through a temporary file in the same folder and renamed when complete, so
//! that nothing half-written is ever left behind.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io::{self, Write},
    mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tempfile::NamedTempFile;

use super::{
    error::{ImageError, Result},
    format::Format,
    sink::Sink,
};
#[cfg(unix)]
use crate::temporary::user_id;
use crate::temporary::{private_folder, unlinked_file};

/// The destination of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Standard output.
    Stdout,
    /// A file, which appears complete or not at all.
    Path(PathBuf),
    /// A stream of the caller's, which gets the file's bytes in order as they are made.
    Writer(Stream),
    /// Memory: the one destination that holds the whole file.
    Buffer(Buffer),
}

/// A caller's writer, as [`Output::Writer`] shares it. Clones write to the same stream.
#[derive(Clone)]
pub struct Stream(Arc<Mutex<Box<dyn Write + Send>>>);

impl Stream {
    /// Takes a writer over. It needs no buffer: it gets blocks of 64 KiB, and is flushed at the end.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(writer))))
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Write + Send>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().flush()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stream").finish_non_exhaustive()
    }
}

/// The same stream, not the same bytes.
impl PartialEq for Stream {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Stream {}

/// Memory for [`Output::Buffer`]. Clones are the same buffer: keep one, and take the file from it when the job is done.
#[derive(Clone, Default)]
pub struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    /// The bytes written so far: the whole file once the job has succeeded. The buffer is empty afterwards.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.lock().len())
    }
}

/// The same buffer, not the same bytes.
impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Buffer {}

impl Output {
    /// `-` is standard output, everything else a path.
    pub fn parse(argument: &OsStr) -> Self {
        if argument == "-" { Self::Stdout } else { Self::Path(argument.into()) }
    }

    /// The name used in messages.
    pub fn name(&self) -> String {
        match self {
            Self::Stdout => "stdout".to_owned(),
            Self::Path(path) => path.display().to_string(),
            Self::Writer(_) => "stream".to_owned(),
            Self::Buffer(_) => "buffer".to_owned(),
        }
    }

    /// Format by the path's extension; `None` without a path, and for unknown extensions.
    pub fn format(&self) -> Option<Format> {
        match self {
            Self::Path(path) => Format::from_extension(path),
            Self::Stdout | Self::Writer(_) | Self::Buffer(_) => None,
        }
    }

    /// `true` if bytes go to a reader as they are written; a file appears only when it is complete.
    pub(crate) fn is_stream(&self) -> bool {
        match self {
            Self::Path(path) => is_special(path),
            Self::Stdout | Self::Writer(_) | Self::Buffer(_) => true,
        }
    }

    /// Writes a whole file (or stream) that is no picture, as carefully as a picture: complete or
    /// not at all.
    ///
    /// # Errors
    /// Those of [`check_writable`](Self::check_writable), or an error of the operating system.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut writer = self.create()?;
        // The error comes back when the writer is finished.
        let _ = writer.write_all(bytes);
        writer.finish()
    }

    /// Opens the output for bytes that are no picture, to be written as carefully as one: a file appears with
    /// [`OutputWriter::finish`] or not at all.
    ///
    /// # Errors
    /// Those of [`check_writable`](Self::check_writable).
    pub fn create(&self) -> Result<OutputWriter> {
        let target = OpenOutput::open(self, None)?;
        Ok(OutputWriter { sink: target.sink()?, target })
    }

    /// Checks, before any work is done, that a picture can be put here: the folder exists and files
    /// can be made in it, and the target is neither a directory nor read-only. Leaves no trace.
    ///
    /// # Errors
    /// [`ImageError::Unwritable`] with the one reason.
    pub fn check_writable(&self) -> Result<()> {
        match self {
            // A named pipe is not opened as a test: its reader would see the close as the end of the data.
            Self::Path(path) if is_special(path) => Ok(()),
            _ => OpenOutput::open(self, None).map(drop),
        }
    }
}

/// An output that bytes are written to. Dropped before it is [finished](Self::finish), it leaves no file.
pub struct OutputWriter {
    // Declared before the target: it must let go of the file before that is removed.
    sink: Sink,
    target: OpenOutput,
}

impl OutputWriter {
    /// Completes the output.
    ///
    /// # Errors
    /// The first error of all writes, which [`ImageError::is_broken_pipe`] may tell as harmless.
    pub fn finish(self) -> Result<()> {
        let Self { sink, target } = self;
        sink.finish().map_err(|source| ImageError::write(target.name(), source))?;
        drop(sink);
        target.commit()
    }
}

impl Write for OutputWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// An opened destination. Dropped without [`OpenOutput::commit`], it removes its temporary file.
#[derive(Debug)]
pub(crate) enum OpenOutput {
    Stdout,
    Writer(Stream),
    /// Cleared when it is opened, so that it never mixes two files.
    Buffer(Buffer),
    /// A temporary file beside `path`, to be renamed to it.
    Temporary {
        file: NamedTempFile,
        path: PathBuf,
        name: String,
    },
    /// A device or a named pipe, which must be written in place and never replaced.
    Special {
        file: File,
        name: String,
    },
}

impl OpenOutput {
    /// `partial` is the name of the temporary file, which replaces one that is there; without it the file
    /// gets a name of its own.
    pub(crate) fn open(output: &Output, partial: Option<&OsStr>) -> Result<Self> {
        let path = match output {
            Output::Path(path) => path,
            Output::Stdout => return Ok(Self::Stdout),
            Output::Writer(stream) => return Ok(Self::Writer(stream.clone())),
            Output::Buffer(buffer) => {
                // Left over from an abandoned job.
                drop(buffer.take());
                return Ok(Self::Buffer(buffer.clone()));
            }
        };
        let name = output.name();
        let unwritable = |reason: String| ImageError::Unwritable { name: name.clone(), reason };
        if path.as_os_str().is_empty() {
            return Err(unwritable("the path is empty".into()));
        }
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                let length = path.file_name().map_or(0, OsStr::len);
                return Err(unwritable(format!(
                    "the path is too long for this file system, {length} bytes of it the file's name"
                )));
            }
            Ok(found) if found.is_symlink() && is_a_strangers_link(&found, path) => {
                let reason = "a symbolic link that another user made in a shared folder";
                return Err(unwritable(reason.into()));
            }
            _ => {}
        }
        // Through a symbolic link the file it points to is replaced, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let existing = fs::metadata(&path).ok();
        if let Some(existing) = &existing {
            if existing.is_dir() {
                return Err(unwritable("it is a directory".into()));
            }
            if !existing.is_file() {
                let file = File::options()
                    .write(true)
                    .open(&path)
                    .map_err(|e| unwritable(e.to_string()))?;
                return Ok(Self::Special { file, name });
            }
            if existing.permissions().readonly() {
                return Err(unwritable("the existing file is read-only".into()));
            }
            if is_a_strangers_file(existing, &path) {
                let reason = "the existing file belongs to another user, and its folder is shared";
                return Err(unwritable(reason.into()));
            }
            // One that must not be changed cannot be replaced either; rights do not say so.
            if let Err(error) = File::options().write(true).open(&path)
                && error.kind() == io::ErrorKind::PermissionDenied
                && error.raw_os_error() == Some(NOT_PERMITTED)
            {
                return Err(unwritable("the existing file is protected from changes".into()));
            }
        }
        let Some(file_name) = path.file_name() else {
            return Err(unwritable("the path names no file".into()));
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if !folder.exists() {
            return Err(unwritable(format!("the folder {} does not exist", folder.display())));
        }
        if !folder.is_dir() {
            return Err(unwritable(format!("{} is not a folder", folder.display())));
        }
        let temporary = match partial {
            Some(partial) => replacing(&folder.join(partial)),
            None => {
                let mut prefix = std::ffi::OsString::from(".");
                prefix.push(file_name);
                temporary_in(folder, &prefix)
            }
        };
        let file = temporary.map_err(|e| {
            // tempfile's message repeats the random path; the system's own words are enough.
            let reason = match e.kind() {
                io::ErrorKind::PermissionDenied => {
                    format!("no permission to make files in {}", folder.display())
                }
                _ => e
                    .get_ref()
                    .and_then(|inner| inner.source())
                    .map_or_else(|| e.to_string(), ToString::to_string),
            };
            unwritable(reason)
        })?;
        if let Some(existing) = existing {
            // Best effort: some file systems have no permissions to copy.
            let _ = file.as_file().set_permissions(existing.permissions());
        }
        Ok(Self::Temporary { file, path, name })
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Stdout => "stdout",
            Self::Writer(_) => "stream",
            Self::Buffer(_) => "buffer",
            Self::Temporary { name, .. } | Self::Special { name, .. } => name,
        }
    }

    /// A buffered writer to this target that keeps its first error.
    pub(crate) fn sink(&self) -> Result<Sink> {
        let raw: Box<dyn Write + Send> = match self {
            Self::Stdout => Box::new(io::stdout()),
            Self::Writer(stream) => Box::new(stream.clone()),
            Self::Buffer(buffer) => Box::new(buffer.clone()),
            Self::Temporary { file, .. } => Box::new(self.cloned(file.as_file())?),
            Self::Special { file, .. } => Box::new(self.cloned(file)?),
        };
        Ok(Sink::new(raw))
    }

    /// The file itself where the target can seek (`None` for streams and devices).
    pub(crate) fn seekable(&self) -> Result<Option<File>> {
        match self {
            Self::Temporary { file, .. } => self.cloned(file.as_file()).map(Some),
            _ => Ok(None),
        }
    }

    /// An unnamed temporary file for data that is read again: beside the target, which has room for a picture,
    /// else in the user's own temporary folder.
    pub(crate) fn spool(&self) -> Result<File> {
        let file = match self {
            Self::Temporary { path, .. } => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                unlinked_file(folder.unwrap_or(Path::new(".")))
            }
            Self::Stdout | Self::Writer(_) | Self::Buffer(_) | Self::Special { .. } => {
                private_folder().and_then(|folder| unlinked_file(&folder))
            }
        };
        file.map_err(|error| ImageError::write(self.name(), error.into()))
    }

    fn cloned(&self, file: &File) -> Result<File> {
        file.try_clone().map_err(|e| ImageError::write(self.name(), e))
    }

    /// Moves the complete picture to its final place.
    pub(crate) fn commit(self) -> Result<()> {
        match self {
            Self::Temporary { file, path, name } => {
                file.persist(path).map(drop).map_err(|e| ImageError::write(&name, e.error))
            }
            Self::Stdout | Self::Writer(_) | Self::Buffer(_) | Self::Special { .. } => Ok(()),
        }
    }
}

/// `true` for a device or a named pipe.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// EPERM: what a file gives that is immutable or append-only, in contrast to one without the right to write.
const NOT_PERMITTED: i32 = 1;

/// Owner of the folder that `path` lies in, if in it each user may replace his own files only (`/tmp` is one).
#[cfg(unix)]
fn owner_of_shared_folder(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    const STICKY: u32 = 0o1000;
    let parent = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::metadata(parent.unwrap_or(Path::new("."))).ok()?;
    (folder.mode() & STICKY != 0).then_some(folder.uid())
}

/// True for a symbolic link in a shared folder that would lead to a file of another user's choice.
#[cfg(unix)]
fn is_a_strangers_link(link: &fs::Metadata, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    owner_of_shared_folder(path).is_some_and(|owner| ![owner, user_id()].contains(&link.uid()))
}

/// True for a file that only another user may replace.
#[cfg(unix)]
fn is_a_strangers_file(file: &fs::Metadata, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    owner_of_shared_folder(path).is_some_and(|owner| ![0, owner, file.uid()].contains(&user_id()))
}

#[cfg(not(unix))]
fn is_a_strangers_link(_: &fs::Metadata, _: &Path) -> bool {
    false
}

#[cfg(not(unix))]
fn is_a_strangers_file(_: &fs::Metadata, _: &Path) -> bool {
    false
}

fn temporary_in(folder: &Path, prefix: &OsStr) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(".part");
    #[cfg(unix)]
    {
        // tempfile's default is 0600; a picture should get what the user's umask gives any new file.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    match builder.tempfile_in(folder) {
        // A name near the system's limit leaves no room for prefix and suffix.
        Err(e) if e.kind() == io::ErrorKind::InvalidFilename => {
            builder.prefix(".cupscale").tempfile_in(folder)
        }
        result => result,
    }
}

/// A temporary file with this exact name. An existing file is removed, not overwritten: it may be a link.
fn replacing(path: &Path) -> io::Result<NamedTempFile> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    Ok(NamedTempFile::from_parts(file, tempfile::TempPath::try_from_path(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_is_a_stream_and_everything_else_a_path() {
        assert_eq!(Output::parse(OsStr::new("-")), Output::Stdout);
        assert_eq!(Output::parse(OsStr::new("./-")), Output::Path(PathBuf::from("./-")));
    }

    #[test]
    fn a_buffer_holds_one_file_and_a_writer_gets_every_byte() {
        let buffer = Buffer::default();
        for _ in 0..2 {
            Output::Buffer(buffer.clone()).write(b"whole").unwrap();
        }
        assert_eq!(buffer.take(), b"whole");
        assert_eq!(buffer.take(), b"");
        Output::Writer(Stream::new(buffer.clone())).write(b"stream").unwrap();
        assert_eq!(buffer.take(), b"stream");
    }
}
