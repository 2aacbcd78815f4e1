//! Input of pictures: a path, a standard stream or bytes, as types instead of strings with a magic `-`.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
};

use super::error::{ImageError, Result};
use super::source::Source;

/// The source of a picture.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// Standard input, to its end.
    Stdin,
    /// A file.
    Path(PathBuf),
    /// An encoded picture in memory. (Pixels need no input: see [`Picture`](super::Picture).)
    Bytes(Arc<[u8]>),
}

/// Sizes instead of contents.
impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin => f.write_str("Stdin"),
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
        }
    }
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
            Self::Bytes(_) => "picture in memory".to_owned(),
        }
    }

    /// Opens the input.
    ///
    /// # Errors
    /// A missing file, a directory, or whatever else the system says.
    pub(crate) fn open(&self) -> Result<OpenInput> {
        let name = self.name();
        match self {
            Self::Bytes(bytes) => Ok(OpenInput::Source(Source::memory(Arc::clone(bytes)))),
            Self::Stdin => Ok(OpenInput::Stream(Box::new(io::stdin().lock()))),
            Self::Path(path) => {
                // Asked first, because reading a directory fails with a different, obscure message on each system.
                if path.is_dir() {
                    return Err(ImageError::IsDirectory { name });
                }
                let file = File::open(path).map_err(|source| read_error(&name, source))?;
                let is_file = file.metadata().is_ok_and(|found| found.is_file());
                Ok(if is_file {
                    OpenInput::Source(Source::file(file))
                } else {
                    OpenInput::Stream(Box::new(file))
                })
            }
        }
    }
}

/// An opened input.
pub(crate) enum OpenInput {
    /// Bytes that can be sought.
    Source(Source),
    /// A stream or a pipe, read once.
    Stream(Box<dyn Read>),
}

pub(crate) fn read_error(name: &str, source: io::Error) -> ImageError {
    let name = name.to_owned();
    if source.kind() == io::ErrorKind::NotFound {
        ImageError::NotFound { name }
    } else {
        ImageError::Read { name, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_is_a_stream_and_everything_else_a_path() {
        assert_eq!(Input::parse(OsStr::new("-")), Input::Stdin);
        assert_eq!(Input::parse(OsStr::new("./-")), Input::Path(PathBuf::from("./-")));
    }
}
