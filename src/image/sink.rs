//! Sink: the one buffered writer through which encoders write, which loses no error.

use std::{
    io::{self, BufWriter, Write},
    sync::{Arc, Mutex, PoisonError},
};

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
    pub(crate) fn new(raw: Box<dyn Write + Send>) -> Self {
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
    use super::{super::error::ImageError, *};

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
