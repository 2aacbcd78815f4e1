//! farbfeld: the size, and 16 bits of red, green, blue and alpha of each pixel.

use std::io::Write as _;

use super::{format_writer::FormatWriter, shape::SampleShape};
use crate::image::error::{ImageError, Result};
use crate::image::{output::OpenOutput, sink::Sink};

pub(super) struct FarbfeldWriter {
    sink: Sink,
    alpha: bool,
    name: String,
}

impl FarbfeldWriter {
    /// Writes the header; rows are RGB or RGBA of 16 bits.
    pub(super) fn new(target: &OpenOutput, shape: SampleShape) -> Result<Self> {
        let name = target.name().to_owned();
        let mut sink = target.sink()?;
        let size = [shape.width.to_be_bytes(), shape.height.to_be_bytes()];
        let header = [b"farbfeld", size.as_flattened()].concat();
        sink.write_all(&header).map_err(|e| ImageError::write(&name, e))?;
        Ok(Self { sink, alpha: shape.alpha, name })
    }

    fn failed(&self, error: std::io::Error) -> ImageError {
        ImageError::write(&self.name, self.sink.finish().err().unwrap_or(error))
    }
}

impl FormatWriter for FarbfeldWriter {
    fn write(&mut self, rows: &[u8]) -> Result<()> {
        let written = if self.alpha {
            self.sink.write_all(rows)
        } else {
            let pixels = rows.chunks_exact(6);
            let opaque = pixels.flat_map(|p| [p[0], p[1], p[2], p[3], p[4], p[5], 255, 255]);
            self.sink.write_all(&opaque.collect::<Vec<u8>>())
        };
        written.map_err(|e| self.failed(e))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.sink.finish().map_err(|e| ImageError::write(&self.name, e))
    }
}
