//! File in which a format goes back to fill in places: the output itself, or, on its way to a stream, a file without a
//! name that is copied when it is complete.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use crate::image::error::{ImageError, Result};
use crate::image::{output::OpenOutput, sink::Sink};

pub(super) struct SeekableFile {
    file: BufWriter<File>,
    /// Destination of the finished file if it could not be written in place.
    stream: Option<Sink>,
    name: String,
}

impl SeekableFile {
    /// # Errors
    /// A target that cannot be written.
    pub(super) fn open(target: &OpenOutput) -> Result<Self> {
        let (file, stream) = match target.seekable()? {
            Some(file) => (file, None),
            None => (target.spool()?, Some(target.sink()?)),
        };
        let file = BufWriter::with_capacity(1 << 16, file);
        Ok(Self { file, stream, name: target.name().to_owned() })
    }

    /// Brings everything to where it goes.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.file.flush()?;
        if let Some(stream) = &mut self.stream {
            let file = self.file.get_mut();
            file.seek(SeekFrom::Start(0))?;
            io::copy(file, stream)?;
            stream.finish()?;
        }
        Ok(())
    }

    /// The error of the output for one of writing here.
    pub(super) fn failed(&self, error: io::Error) -> ImageError {
        // The stream's own error, where it has one, says more than its echo.
        let own = self.stream.as_ref().and_then(|s| s.finish().err());
        ImageError::write(&self.name, own.unwrap_or(error))
    }
}

impl Write for SeekableFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for SeekableFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
