//! Lossless WebP in bounded memory: the prediction's residuals of every row are counted and spooled to
//! an unnamed file, and at the end, when the counts have made the codes, read again and written.
//! Source: RFC 9649, section 2 (the container).

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use super::vp8l::{Counter, Pixel, Predictor};
use super::{format_writer::FormatWriter, options::EncodeOptions, shape::SampleShape};
use crate::image::error::{ImageError, Result};
use crate::image::metadata::ifd::{Exif, IfdEntry, tag, with_resolution};
use crate::image::{output::OpenOutput, sink::Sink};

/// Bytes of a chunk before its data.
const CHUNK_HEAD: u64 = 8;
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
            options.exif = Some(exif.into_bytes());
        } else if let (Some(block), Some(dpi)) = (&options.exif, options.dpi) {
            options.exif = with_resolution(block, dpi).or(options.exif);
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
        write_head(&mut sink, shape, &options, length)?;
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
        write_tail(&mut file, &options, length)?;
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

/// Writes the file up to a pixel stream of `length` bytes.
fn write_head(
    file: &mut impl Write,
    shape: SampleShape,
    options: &EncodeOptions,
    length: u64,
) -> io::Result<()> {
    let blocks = [&options.icc, &options.exif, &options.xmp];
    let mut extended = Vec::new();
    if blocks.iter().any(|block| block.is_some()) {
        let flags = [0x20, 0x08, 0x04].into_iter().zip(blocks);
        let flags: u8 = flags.filter(|(_, block)| block.is_some()).map(|(flag, _)| flag).sum();
        extended.extend([flags | if shape.alpha { 0x10 } else { 0 }, 0, 0, 0]);
        extended.extend_from_slice(&(shape.width - 1).to_le_bytes()[..3]);
        extended.extend_from_slice(&(shape.height - 1).to_le_bytes()[..3]);
    }
    let chunks = blocks.into_iter().flatten().map(|block| block.len() as u64);
    let extension = (!extended.is_empty()).then_some(extended.len() as u64);
    let chunks = chunks.chain(extension).chain([length]);
    let all: u64 = chunks.map(|length| CHUNK_HEAD + length.next_multiple_of(2)).sum();
    let too_large = |_| io::Error::other("larger than the 4 GiB of a WebP file");
    let all = u32::try_from(b"WEBP".len() as u64 + all).map_err(too_large)?;
    file.write_all(b"RIFF")?;
    file.write_all(&all.to_le_bytes())?;
    file.write_all(b"WEBP")?;
    if extension.is_some() {
        write_chunk(file, b"VP8X", &extended)?;
    }
    if let Some(icc) = &options.icc {
        write_chunk(file, b"ICCP", icc)?;
    }
    file.write_all(b"VP8L")?;
    // Below `all`, so it fits.
    file.write_all(&(length as u32).to_le_bytes())
}

/// Writes what follows a pixel stream of `length` bytes.
fn write_tail(file: &mut impl Write, options: &EncodeOptions, length: u64) -> io::Result<()> {
    if length % 2 == 1 {
        file.write_all(&[0])?;
    }
    if let Some(exif) = &options.exif {
        write_chunk(file, b"EXIF", exif)?;
    }
    if let Some(xmp) = &options.xmp {
        write_chunk(file, b"XMP ", xmp)?;
    }
    Ok(())
}

/// A chunk, padded to an even length.
fn write_chunk(file: &mut impl Write, name: &[u8; 4], data: &[u8]) -> io::Result<()> {
    file.write_all(name)?;
    file.write_all(&(data.len() as u32).to_le_bytes())?;
    file.write_all(data)?;
    file.write_all(&[0][..data.len() % 2])
}
