//! PGM, PPM and PAM: a header in text, and the samples as they are.

use std::io::Write as _;

use super::{
    format_writer::FormatWriter,
    shape::{Depth, SampleShape},
};
use crate::image::error::{ImageError, Result};
use crate::image::{format::Format, output::OpenOutput, sink::Sink};

pub(super) struct NetpbmWriter {
    sink: Sink,
    name: String,
}

impl NetpbmWriter {
    /// Writes the header: of a PAM, or of a PGM or a PPM, which have no alpha.
    pub(super) fn new(target: &OpenOutput, format: Format, shape: SampleShape) -> Result<Self> {
        let name = target.name().to_owned();
        let mut sink = target.sink()?;
        let SampleShape { width, height, grey, alpha, depth } = shape;
        let maximum = if depth == Depth::Eight { 255 } else { 65_535 };
        let header = if format == Format::Pam {
            let kind = match (grey, alpha) {
                (true, false) => "GRAYSCALE",
                (true, true) => "GRAYSCALE_ALPHA",
                (false, false) => "RGB",
                (false, true) => "RGB_ALPHA",
            };
            format!(
                "P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH {}\nMAXVAL {maximum}\nTUPLTYPE {kind}\nENDHDR\n",
                shape.channels()
            )
        } else {
            format!("P{}\n{width} {height}\n{maximum}\n", if grey { 5 } else { 6 })
        };
        sink.write_all(header.as_bytes()).map_err(|e| ImageError::write(&name, e))?;
        Ok(Self { sink, name })
    }
}

impl FormatWriter for NetpbmWriter {
    fn write(&mut self, rows: &[u8]) -> Result<()> {
        let written = self.sink.write_all(rows);
        written.map_err(|e| ImageError::write(&self.name, self.sink.finish().err().unwrap_or(e)))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.sink.finish().map_err(|e| ImageError::write(&self.name, e))
    }
}
