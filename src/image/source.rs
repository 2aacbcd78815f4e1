//! Source: the bytes of an input, sought and read through a buffer, so that a file is never whole in memory.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom, Write as _},
    sync::Arc,
};

use super::plane::Scratch;

/// Streams up to this size stay in memory; longer ones go to a file without a name.
const MEMORY_BYTES: u64 = 16 << 20;

/// Bytes of an input.
#[derive(Debug)]
pub(crate) enum Source {
    File(BufReader<File>),
    Memory(Cursor<Arc<[u8]>>),
}

impl Source {
    /// The bytes of a file that can be sought.
    pub(crate) fn file(file: File) -> Self {
        Self::File(BufReader::with_capacity(1 << 16, file))
    }

    /// Bytes in memory.
    pub(crate) fn memory(bytes: Arc<[u8]>) -> Self {
        Self::Memory(Cursor::new(bytes))
    }

    /// Everything that a stream holds, after the bytes `head` that were read from it.
    ///
    /// # Errors
    /// An error of the stream or of the file that it goes to.
    pub(crate) fn spooled(
        head: Vec<u8>,
        mut stream: impl Read,
        scratch: &Scratch,
    ) -> io::Result<Self> {
        let mut bytes = head;
        stream.by_ref().take(MEMORY_BYTES).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < MEMORY_BYTES {
            return Ok(Self::memory(bytes.into()));
        }
        let mut file = scratch.file()?;
        file.write_all(&bytes)?;
        drop(bytes);
        io::copy(&mut stream, &mut file)?;
        file.rewind()?;
        Ok(Self::file(file))
    }

    /// Number of all bytes.
    ///
    /// # Errors
    /// An error of the operating system.
    pub(crate) fn byte_len(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.get_ref().metadata()?.len()),
            Self::Memory(bytes) => Ok(bytes.get_ref().len() as u64),
        }
    }

    /// All bytes, for a decoder that cannot seek.
    ///
    /// # Errors
    /// An error of the operating system.
    pub(crate) fn into_bytes(self) -> io::Result<Arc<[u8]>> {
        match self {
            Self::Memory(bytes) => Ok(bytes.into_inner()),
            Self::File(mut file) => {
                file.rewind()?;
                let length = file.get_ref().metadata()?.len();
                // Made in its place: a list of bytes would be copied into it, and there would be two of the file.
                let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, length as usize).collect();
                if let Some(place) = Arc::get_mut(&mut bytes) {
                    file.read_exact(place)?;
                }
                Ok(bytes)
            }
        }
    }
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(out),
            Self::Memory(bytes) => bytes.read(out),
        }
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::File(file) => file.fill_buf(),
            Self::Memory(bytes) => bytes.fill_buf(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::File(file) => file.consume(count),
            Self::Memory(bytes) => bytes.consume(count),
        }
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::File(file) => file.seek(to),
            Self::Memory(bytes) => bytes.seek(to),
        }
    }

    // That of the trait would seek, which drops what is buffered.
    fn stream_position(&mut self) -> io::Result<u64> {
        match self {
            Self::File(file) => file.stream_position(),
            Self::Memory(bytes) => bytes.stream_position(),
        }
    }

    fn seek_relative(&mut self, offset: i64) -> io::Result<()> {
        match self {
            // Keeps the buffer where the place is inside it.
            Self::File(file) => file.seek_relative(offset),
            Self::Memory(bytes) => bytes.seek_relative(offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_again_from_memory_or_from_a_file() {
        for length in [5, MEMORY_BYTES as usize + 5] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let (head, rest) = bytes.split_at(3);
            let mut source = Source::spooled(head.to_vec(), rest, &Scratch::default()).unwrap();
            assert_eq!(source.byte_len().unwrap(), length as u64);
            assert_eq!(matches!(source, Source::File(_)), length > 5);
            source.seek(SeekFrom::Start(2)).unwrap();
            source.seek_relative(1).unwrap();
            let mut read = Vec::new();
            source.read_to_end(&mut read).unwrap();
            assert!(read == bytes[3..]);
            assert!(*source.into_bytes().unwrap() == *bytes);
        }
    }
}
