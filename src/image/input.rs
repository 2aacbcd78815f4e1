//! Input of pictures: a path, a standard stream or bytes, as types instead of strings with a magic `-`.

use std::{
    borrow::Cow,
    ffi::OsStr,
    fs,
    io::{self, Read as _},
    path::PathBuf,
    sync::Arc,
};

use super::error::{ImageError, Result};

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

    /// All bytes of the input.
    ///
    /// # Errors
    /// A missing file, a directory, an empty file, or whatever else the system says.
    pub fn read(&self) -> Result<Cow<'_, [u8]>> {
        let name = self.name();
        let bytes: Cow<[u8]> = match self {
            Self::Bytes(bytes) => Cow::Borrowed(&**bytes),
            Self::Stdin => {
                let mut bytes = Vec::new();
                io::stdin()
                    .lock()
                    .read_to_end(&mut bytes)
                    .map(|_| bytes.into())
                    .map_err(|source| ImageError::Read { name: name.clone(), source })?
            }
            Self::Path(path) => {
                // Asked first, because reading a directory fails with a different, obscure message on each system.
                if path.is_dir() {
                    return Err(ImageError::IsDirectory { name });
                }
                fs::read(path).map_err(|source| read_error(&name, source))?.into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_is_a_stream_and_everything_else_a_path() {
        assert_eq!(Input::parse(OsStr::new("-")), Input::Stdin);
        assert_eq!(Input::parse(OsStr::new("./-")), Input::Path(PathBuf::from("./-")));
    }

    #[test]
    fn bytes_are_read_as_they_are_and_must_not_be_none() {
        assert_eq!(*Input::Bytes([1, 2].into()).read().unwrap(), [1, 2]);
        assert!(matches!(Input::Bytes([].into()).read(), Err(ImageError::Empty { .. })));
    }
}
