//! Frames that leave: rows become pixels and are written on a thread of their own, so that the next rows are computed
//! while the reader takes these.

use std::{
    io::{self, Write as _},
    panic::resume_unwind,
    sync::mpsc::{SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use cupscale::{
    image::{OutputWriter, PixelRows},
    pipeline::{Error, Rows},
};

use crate::cli::{error::CliError, progress::Interruption};

/// Bytes of pixels that wait at once at most, in pieces of a share each.
const WAITING: usize = 16 << 20;
const PIECES: usize = 4;

/// Interval at which a reader that does not take anything is asked again.
const POLL: Duration = Duration::from_millis(1);

/// Writes the pixels of frames.
pub struct FrameWriter {
    pieces: SyncSender<Vec<u8>>,
    thread: JoinHandle<OutputWriter>,
}

impl FrameWriter {
    /// Begins to write to an opened output.
    ///
    /// # Errors
    /// No thread.
    pub fn start(mut output: OutputWriter) -> Result<Self, CliError> {
        let (pieces, waiting) = sync_channel::<Vec<u8>>(PIECES);
        let write = move || {
            while let Ok(piece) = waiting.recv() {
                // A reader gets a frame when it is complete, and not with the next one.
                if output.write_all(&piece).and_then(|()| output.flush()).is_err() {
                    break;
                }
            }
            output
        };
        let thread = thread::Builder::new().name("frames out".to_owned()).spawn(write);
        let thread = thread.map_err(|source| Error::Thread { source })?;
        Ok(Self { pieces, thread })
    }

    /// The receiver of a frame's rows, which become pixels by `rows`.
    pub fn rows<'a>(&'a self, rows: PixelRows, interruption: &'a Interruption) -> impl Rows + 'a {
        FrameRows { writer: self, rows, interruption }
    }

    /// Waits until everything is written; a file appears now.
    ///
    /// # Errors
    /// The first error of writing.
    pub fn finish(self) -> Result<(), CliError> {
        Ok(self.written().finish().map_err(Error::from)?)
    }

    /// Waits until a stream has everything; a file is given up.
    pub fn abandon(self) {
        drop(self.written());
    }

    fn written(self) -> OutputWriter {
        let Self { pieces, thread, .. } = self;
        drop(pieces);
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

struct FrameRows<'a> {
    writer: &'a FrameWriter,
    rows: PixelRows,
    interruption: &'a Interruption,
}

impl Rows for FrameRows<'_> {
    fn put(&mut self, rgb: &[f32], alpha: Option<&[f32]>) -> io::Result<()> {
        let pixels = self.rows.convert(rgb, alpha).map_err(io::Error::other)?;
        for piece in pixels.chunks(WAITING / PIECES) {
            let mut piece = piece.to_vec();
            loop {
                match self.writer.pieces.try_send(piece) {
                    Ok(()) => break,
                    Err(TrySendError::Full(back)) if !self.interruption.is_asked() => {
                        piece = back;
                        thread::sleep(POLL);
                    }
                    Err(TrySendError::Full(_)) => return Err(io::ErrorKind::Interrupted.into()),
                    // The writer's own error comes when it is finished.
                    Err(TrySendError::Disconnected(_)) => {
                        return Err(io::ErrorKind::BrokenPipe.into());
                    }
                }
            }
        }
        Ok(())
    }
}
