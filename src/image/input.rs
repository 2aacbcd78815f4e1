//! Where a picture comes from and where it goes: a path or a standard stream, as types instead of
//! strings with a magic `-`. An output path is written through a temporary file in the same folder
//! and renamed when complete, so that nothing half-written is ever left behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::NamedTempFile;

use super::error::{ImageError, Result};
use super::format::Format;

/// The source of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Stdin,
    Path(PathBuf),
}

impl Input {
    /// `-` is standard input, everything else a path.
    pub fn parse(argument: &OsStr) -> Self {
        if argument == "-" { Self::Stdin } else { Self::Path(argument.into()) }
    }

    /// The name used in messages.
    pub fn name(&self) -> String {
        match self {
            Self::Stdin => "stdin".to_owned(),
            Self::Path(path) => path.display().to_string(),
        }
    }

    /// All bytes of the input.
    ///
    /// # Errors
    /// A missing file, a directory, an empty file, or whatever else the system says.
    pub fn read(&self) -> Result<Vec<u8>> {
        let name = self.name();
        let bytes = match self {
            Self::Stdin => {
                let mut bytes = Vec::new();
                io::stdin()
                    .lock()
                    .read_to_end(&mut bytes)
                    .map(|_| bytes)
                    .map_err(|source| ImageError::Read { name: name.clone(), source })?
            }
            Self::Path(path) => {
                // Asked first, because reading a directory fails with a different, obscure message on each system.
                if path.is_dir() {
                    return Err(ImageError::IsDirectory { name });
                }
                fs::read(path).map_err(|source| read_error(&name, source))?
            }
        };
        if bytes.is_empty() {
            return Err(ImageError::Empty { name });
        }
        Ok(bytes)
    }
}

pub(crate) fn read_error(name: &str, source: io::Error) -> ImageError {
    let name = name.to_owned();
    if source.kind() == io::ErrorKind::NotFound {
        ImageError::NotFound { name }
    } else {
        ImageError::Read { name, source }
    }
}

/// The destination of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Path(PathBuf),
}

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
        }
    }

    /// The format the path's extension asks for; `None` for standard output and unknown extensions.
    pub fn format(&self) -> Option<Format> {
        match self {
            Self::Stdout => None,
            Self::Path(path) => Format::from_extension(path),
        }
    }

    /// Writes a whole file (or stream) that is no picture, as carefully as a picture: complete or
    /// not at all.
    ///
    /// # Errors
    /// Those of [`check_writable`](Self::check_writable), or what the system says to the writing.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let target = Target::open(self, None)?;
        let mut sink = target.sink()?;
        sink.write_all(bytes)
            .and_then(|()| sink.finish())
            .map_err(|source| ImageError::write(target.name(), source))?;
        target.commit()
    }

    /// Checks, before any work is done, that a picture can be put here: the folder exists and files
    /// can be made in it, and the target is neither a directory nor read-only. Leaves no trace.
    ///
    /// # Errors
    /// [`ImageError::Unwritable`] with the one reason.
    pub fn check_writable(&self) -> Result<()> {
        // A named pipe is not opened to try: its reader would take the closing for the end.
        let is_special = |path: &PathBuf| {
            fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
        };
        match self {
            Self::Path(path) if is_special(path) => Ok(()),
            _ => Target::open(self, None).map(drop),
        }
    }
}

/// An opened destination. Dropped without [`Target::commit`], it removes its temporary file.
#[derive(Debug)]
pub(crate) enum Target {
    Stdout,
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

impl Target {
    /// `partial` is the name of the temporary file, which replaces one that is there; without it the file
    /// gets a name of its own.
    pub(crate) fn open(output: &Output, partial: Option<&OsStr>) -> Result<Self> {
        let Output::Path(path) = output else {
            return Ok(Self::Stdout);
        };
        let name = output.name();
        let unwritable = |reason: String| ImageError::Unwritable { name: name.clone(), reason };
        if path.as_os_str().is_empty() {
            return Err(unwritable("the path is empty".into()));
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
            Self::Temporary { name, .. } | Self::Special { name, .. } => name,
        }
    }

    /// A buffered writer to this target that keeps its first error.
    pub(crate) fn sink(&self) -> Result<Sink> {
        let raw: Box<dyn Write + Send> = match self {
            Self::Stdout => Box::new(io::stdout()),
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

    /// An unnamed temporary file for what must be read again: beside the target, where there is room for
    /// a picture, else in the system's folder.
    pub(crate) fn spool(&self) -> Result<File> {
        let file = match self {
            Self::Temporary { path, .. } => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                tempfile::tempfile_in(folder.unwrap_or(Path::new(".")))
            }
            Self::Stdout | Self::Special { .. } => tempfile::tempfile(),
        };
        file.map_err(|error| ImageError::write(self.name(), error))
    }

    fn cloned(&self, file: &File) -> Result<File> {
        file.try_clone().map_err(|e| ImageError::write(self.name(), e))
    }

    /// Puts the complete picture in its place.
    pub(crate) fn commit(self) -> Result<()> {
        match self {
            Self::Temporary { file, path, name } => {
                file.persist(path).map(drop).map_err(|e| ImageError::write(&name, e.error))
            }
            Self::Stdout | Self::Special { .. } => Ok(()),
        }
    }
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

/// A temporary file of this very name. What is there is removed and not written through: it may be a link.
fn replacing(path: &Path) -> io::Result<NamedTempFile> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    Ok(NamedTempFile::from_parts(file, tempfile::TempPath::try_from_path(path)?))
}

/// A shared, buffered writer that remembers its first error.
///
/// Encoders write their last bytes in destructors, where errors vanish; [`Sink::finish`] brings
/// back whatever went wrong, so that a full disk never passes for success.
#[derive(Clone)]
pub(crate) struct Sink(Arc<Mutex<SinkState>>);

struct SinkState {
    writer: BufWriter<Box<dyn Write + Send>>,
    error: Option<io::Error>,
}

impl Sink {
    fn new(raw: Box<dyn Write + Send>) -> Self {
        Self(Arc::new(Mutex::new(SinkState {
            writer: BufWriter::with_capacity(1 << 16, raw),
            error: None,
        })))
    }

    /// Flushes, and returns the first error of this sink's life.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.error.take() {
            Some(error) => Err(error),
            None => state.writer.flush(),
        }
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&mut BufWriter<Box<dyn Write + Send>>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &state.error {
            return Err(io::Error::from(error.kind()));
        }
        act(&mut state.writer).map_err(|error| {
            let repeated = io::Error::from(error.kind());
            state.error = Some(error);
            repeated
        })
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // All or nothing, so that an interrupted write is retried here and not counted as an error.
        self.with(|writer| writer.write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.with(Write::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_is_a_stream_and_everything_else_a_path() {
        assert_eq!(Input::parse(OsStr::new("-")), Input::Stdin);
        assert_eq!(Output::parse(OsStr::new("-")), Output::Stdout);
        assert_eq!(Output::parse(OsStr::new("./-")), Output::Path(PathBuf::from("./-")));
    }

    struct ClosedPipe;
    impl Write for ClosedPipe {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_error_swallowed_by_a_destructor_comes_back_when_the_sink_is_finished() {
        let mut sink = Sink::new(Box::new(ClosedPipe));
        // More than the buffer, so that the failing write really happens; the encoder ignores it.
        let _ = sink.write_all(&vec![0; 1 << 18]);
        let error = sink.finish().unwrap_err();
        assert!(ImageError::write("stdout", error).is_broken_pipe());
    }
}
