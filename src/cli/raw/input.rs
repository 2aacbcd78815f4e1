//! Frames that come: read ahead on a thread of their own, so that who sends them works on the next one meanwhile, and
//! Ctrl-C is obeyed while none comes.

use std::{
    fs::File,
    io::{self, Read},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use cupscale::{
    image::{ImageError, Input},
    pipeline::Error,
};

use crate::cli::{error::CliError, progress::Interruption};

/// Interval at which an interruption is looked for while no frame comes.
const POLL: Duration = Duration::from_millis(50);

/// The frames of a stream, in order.
pub struct FrameReader {
    frames: Receiver<io::Result<Vec<u8>>>,
    /// Bytes of a frame.
    length: u64,
    /// Frames that came whole.
    count: u64,
    name: String,
}

impl FrameReader {
    /// Begins to read frames of `length` bytes each.
    ///
    /// # Errors
    /// An input that cannot be opened.
    pub fn start(input: &Input, length: u64) -> Result<Self, CliError> {
        let name = input.name();
        let mut source: Box<dyn Read + Send> = match input {
            Input::Path(path) => {
                let file = File::open(path);
                Box::new(file.map_err(|source| failed(&name, source))?)
            }
            _ => Box::new(io::stdin()),
        };
        let (sender, frames) = sync_channel(1);
        let read = move || {
            loop {
                let frame = read_frame(&mut source, length);
                let is_last = !matches!(&frame, Ok(bytes) if bytes.len() as u64 == length);
                // Nobody takes it once the job has ended.
                if sender.send(frame).is_err() || is_last {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("frames in".to_owned()).spawn(read);
        thread.map_err(|source| Error::Thread { source })?;
        Ok(Self { frames, length, count: 0, name })
    }

    /// The next frame; `None` at the end of the stream.
    ///
    /// # Errors
    /// A stream that ends within a frame, an error of the operating system, an interruption.
    pub fn next(&mut self, interruption: &Interruption) -> Result<Option<Vec<u8>>, CliError> {
        let frame = loop {
            match self.frames.recv_timeout(POLL) {
                Ok(frame) => break frame.map_err(|source| failed(&self.name, source))?,
                Err(RecvTimeoutError::Timeout) if interruption.is_asked() => {
                    return Err(Error::Interrupted(None).into());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        };
        match frame.len() as u64 {
            0 => Ok(None),
            got if got < self.length => {
                let reason = format!(
                    "frame {} ends after {got} of {} bytes: do width, height and --pix fit?",
                    self.count + 1,
                    self.length
                );
                Err(CliError::Frames { name: self.name.clone(), reason })
            }
            _ => {
                self.count += 1;
                Ok(Some(frame))
            }
        }
    }
}

/// A frame, or what there is of it.
fn read_frame(source: &mut dyn Read, length: u64) -> io::Result<Vec<u8>> {
    // Grows by what is there, not by what is claimed.
    let mut bytes = Vec::new();
    source.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn failed(name: &str, source: io::Error) -> CliError {
    let name = name.to_owned();
    let error = match source.kind() {
        io::ErrorKind::NotFound => ImageError::NotFound { name },
        io::ErrorKind::IsADirectory => ImageError::IsDirectory { name },
        _ => ImageError::Read { name, source },
    };
    Error::from(error).into()
}
