//! Lossless WebP in bounded memory: the prediction's residuals of every row are counted and spooled to
//! an unnamed file, and at the end, when the counts have made the codes, read again and written.
//! Source: RFC 9649, section 2 (the container).

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use super::vp8l::{Counter, Pixel, Predictor};
use super::{format_writer::FormatWriter, options::EncodeOptions, shape::SampleShape};
use crate::image::error::{ImageError, Result};
use crate::image::metadata::ifd::{Exif, IfdEntry, tag};
use crate::image::{output::OpenOutput, sink::Sink};

/// Bytes that are spooled at once.
const BUFFER: usize = 1 << 18;

pub(super) struct WebPWriter {
    spool: BufWriter<File>,
    predictor: Predictor,
    counter: Counter,
    shape: SampleShape,
    options: EncodeOptions,
    sink: Sink,
    name: String,
}

impl WebPWriter {
    pub(super) fn new(
        target: &OpenOutput,
        shape: SampleShape,
        mut options: EncodeOptions,
    ) -> Result<Self> {
        // WebP has no field for the resolution but EXIF's.
        if let (None, Some((x, y))) = (&options.exif, options.dpi) {
            let exif = Exif {
                ifd0: vec![
                    IfdEntry::dpi(tag::X_RESOLUTION, x),
                    IfdEntry::dpi(tag::Y_RESOLUTION, y),
                    IfdEntry::short(tag::RESOLUTION_UNIT, 2),
                ],
                ..Exif::default()
            };
            options.exif = Some(exif.to_bytes());
        }
        Ok(Self {
            spool: BufWriter::with_capacity(BUFFER, target.spool()?),
            predictor: Predictor::new(shape.width as usize),
            counter: Counter::new(),
            shape,
            options,
            sink: target.sink()?,
            name: target.name().to_owned(),
        })
    }

    fn spool_rows(&mut self, rows: &[u8]) -> io::Result<()> {
        let Self { spool, predictor, counter, shape, .. } = self;
        let channels = shape.channels();
        let mut residuals = Vec::with_capacity(shape.row_bytes());
        for row in rows.chunks_exact(shape.row_bytes()) {
            predictor.row(row.chunks_exact(channels).map(pixel), |residual| {
                counter.push(residual);
                residuals.extend_from_slice(&residual[..channels]);
            });
            spool.write_all(&residuals)?;
            residuals.clear();
        }
        Ok(())
    }

    fn write_file(self) -> io::Result<()> {
        let Self { spool, counter, shape, options, mut sink, .. } = self;
        let mut spool = spool.into_inner().map_err(io::IntoInnerError::into_error)?;
        spool.rewind()?;
        let codes = counter.codes();
        let (bits, length) = codes.header(shape.width, shape.height, shape.alpha);
        let Container { head, tail } = Container::new(shape, &options, length)?;
        sink.write_all(&head)?;
        let mut pixels = codes.pixels(bits.into_writer(BufWriter::with_capacity(BUFFER, sink))?);
        let mut spool = BufReader::with_capacity(BUFFER, spool);
        let channels = shape.channels();
        let mut row = vec![0; shape.row_bytes()];
        for _ in 0..shape.height {
            spool.read_exact(&mut row)?;
            row.chunks_exact(channels).try_for_each(|residual| {
                // What has no alpha is opaque, as predicted.
                let mut pixel = [0; 4];
                pixel[..channels].copy_from_slice(residual);
                pixels.push(pixel)
            })?;
        }
        let mut file = pixels.finish()?;
        file.write_all(&tail)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.finish()
    }
}

impl FormatWriter for WebPWriter {
    fn write(&mut self, rows: &[u8]) -> Result<()> {
        self.spool_rows(rows).map_err(|error| ImageError::write(&self.name, error))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let (name, sink) = (self.name.clone(), self.sink.clone());
        self.write_file().map_err(|error| {
            // The sink's own error, where it has one, says more than its echo.
            ImageError::write(&name, sink.finish().err().unwrap_or(error))
        })
    }
}

/// A file's pixel of three or four samples.
fn pixel(samples: &[u8]) -> Pixel {
    let mut pixel = [255; 4];
    pixel[..samples.len()].copy_from_slice(samples);
    pixel
}

/// File content before and after the pixel stream.
struct Container {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Container {
    /// For a stream of `length` bytes.
    fn new(shape: SampleShape, options: &EncodeOptions, length: u64) -> io::Result<Self> {
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        let blocks = [&options.icc, &options.exif, &options.xmp];
        if blocks.iter().any(|block| block.is_some()) {
            let flags = [0x20, 0x08, 0x04].into_iter().zip(blocks);
            let flags: u8 = flags.filter(|(_, block)| block.is_some()).map(|(flag, _)| flag).sum();
            let mut extended = vec![flags | if shape.alpha { 0x10 } else { 0 }, 0, 0, 0];
            extended.extend_from_slice(&(shape.width - 1).to_le_bytes()[..3]);
            extended.extend_from_slice(&(shape.height - 1).to_le_bytes()[..3]);
            chunk(&mut head, b"VP8X", &extended);
        }
        if let Some(icc) = &options.icc {
            chunk(&mut head, b"ICCP", icc);
        }
        head.extend_from_slice(b"VP8L");
        if length % 2 == 1 {
            tail.push(0);
        }
        if let Some(exif) = &options.exif {
            chunk(&mut tail, b"EXIF", exif);
        }
        if let Some(xmp) = &options.xmp {
            chunk(&mut tail, b"XMP ", xmp);
        }
        let all = b"WEBP".len() + head.len() + size_of::<u32>() + tail.len();
        let too_large = |_| io::Error::other("larger than the 4 GiB of a WebP file");
        let all = u32::try_from(all as u64 + length).map_err(too_large)?;
        let head = [
            b"RIFF".as_slice(),
            &all.to_le_bytes(),
            b"WEBP",
            &head,
            // Below `all`, so it fits.
            &(length as u32).to_le_bytes(),
        ];
        Ok(Self { head: head.concat(), tail })
    }
}

/// A chunk, padded to an even length.
fn chunk(file: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    file.extend_from_slice(name);
    file.extend_from_slice(&(data.len() as u32).to_le_bytes());
    file.extend_from_slice(data);
    if data.len() % 2 == 1 {
        file.push(0);
    }
}
