//! Encoding, a band of rows at a time, into a temporary file that is renamed when complete.
//!
//! Every format streams: memory does not grow with the output. JPEG's encoder pulls rows, so it runs in a
//! thread of its own and is fed through a short queue. Data that a format needs twice is spooled to an
//! unnamed temporary file: a TIFF or an OpenEXR on its way to a stream, because it needs offsets, and the
//! samples of a WebP, because its codes follow from all of them.

mod exr;
mod farbfeld;
mod format_writer;
mod jpeg;
mod limits;
mod netpbm;
mod numbers;
mod options;
mod png;
mod samples;
mod seekable;
mod shape;
mod texts;
mod tiff;
mod vp8l;
mod webp;

use std::ffi::OsStr;

use super::error::{ImageError, Result, Warning};
use super::format::Format;
use super::metadata::{ifd, xmp};
use super::output::{OpenOutput, Output};
use format_writer::FormatWriter;
use numbers::Numbers;
use samples::Quantizer;
use shape::{Depth, SampleShape};

pub use options::{DEFAULT_QUALITY, EncodeOptions};

/// Conversion of a picture to the samples of a file: everything decided, nothing opened yet.
///
/// A job that may be killed keeps the samples of finished rows ([`samples`](Self::samples)) and
/// writes the file from them when it has all ([`open`](Self::open)).
pub struct Encoder {
    format: Format,
    options: EncodeOptions,
    quantizer: Quantizer,
    warnings: Vec<Warning>,
}

impl Encoder {
    /// Decides how a picture of exactly `width` × `height` pixels is written; `name` is the output's,
    /// for messages.
    ///
    /// # Errors
    /// A size that does not fit the format.
    pub fn new(
        name: &str,
        format: Format,
        width: u32,
        height: u32,
        mut options: EncodeOptions,
    ) -> Result<Self> {
        format.check_size(name, width, height)?;
        let mut warnings = Vec::new();
        let shape = SampleShape {
            width,
            height,
            grey: options.grey && !matches!(format, Format::WebP | Format::Farbfeld),
            alpha: options.alpha && format.has_alpha(),
            depth: Depth::of(format, options.bit_depth),
        };
        if options.alpha && !shape.alpha {
            warnings.push(Warning::AlphaFlattened(format));
        }
        if options.bit_depth > 8 && shape.depth == Depth::Eight {
            warnings.push(Warning::DepthReduced(format));
        }
        // Of light, that it is cut says enough.
        let is_bright = options.light.is_some_and(|light| light.peak > 1.0);
        if options.bit_depth > 16 && shape.depth == Depth::Sixteen && !is_bright {
            warnings.push(Warning::FloatReduced(format));
        }
        let (numbers, cut) = Numbers::of(format, shape, &mut options, &mut warnings);
        if let Some(exif) = &mut options.exif {
            ifd::set_size(exif, width, height);
        }
        options.xmp = options.xmp.map(|packet| xmp::with_size(packet, width, height));
        let quantizer = Quantizer {
            shape,
            numbers,
            cut,
            flatten: options.alpha && !shape.alpha,
            big_endian: !matches!(format, Format::Tiff | Format::Exr),
        };
        Ok(Self { format, options, quantizer, warnings })
    }

    /// Opens `output` for a picture of exactly `width` × `height` pixels and writes its header.
    ///
    /// # Errors
    /// A size that does not fit the format, or an output that cannot be written.
    pub fn create(
        output: &Output,
        format: Format,
        width: u32,
        height: u32,
        options: EncodeOptions,
    ) -> Result<PictureWriter> {
        Self::new(&output.name(), format, width, height, options)?.open(output, None)
    }

    /// Adds the settings to write, for a job that knows them later.
    #[must_use]
    pub fn with_settings(mut self, settings: String) -> Self {
        self.options.settings = Some(settings);
        self
    }

    /// Deviations of the file from the options.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Bytes of one row of samples.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.quantizer.shape.row_bytes()
    }

    /// The samples of some rows as the file will hold them: `rgb` is `[n, width, 3]` and `alpha`, exactly when
    /// [`EncodeOptions::alpha`] is set, `[n, width]`. Values are those of [`Picture::rgb`](super::Picture::rgb),
    /// cut to what the file's samples hold and rounded to the nearest.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when rows are not whole or come without their alpha.
    pub fn samples(&self, rgb: &[f32], alpha: Option<&[f32]>) -> Result<Vec<u8>> {
        let width = self.quantizer.shape.width as usize;
        let rows = rgb.len() / (3 * width);
        if !rgb.len().is_multiple_of(3 * width) {
            return Err(shape_error("whole rows", (rows + 1) * 3 * width, rgb.len()));
        }
        let want = if self.options.alpha { rows * width } else { 0 };
        let got = alpha.map_or(0, <[f32]>::len);
        if want != got {
            return Err(shape_error("alpha of the rows", want, got));
        }
        Ok(self.quantizer.rows(rgb, alpha))
    }

    /// Opens `output` and writes the picture's header. Until the file is complete, its bytes go to a temporary file
    /// beside it, named `partial` if given, which replaces an earlier one.
    ///
    /// # Errors
    /// An output that cannot be written.
    pub fn open(mut self, output: &Output, partial: Option<&OsStr>) -> Result<PictureWriter> {
        // What is written besides pixels is moved, not copied: a block may be large.
        let mut options = std::mem::take(&mut self.options);
        self.options.alpha = options.alpha;
        texts::place(&mut options, self.format, &mut self.warnings);
        let shape = self.quantizer.shape;
        let target = OpenOutput::open(output, partial)?;
        let backend: Box<dyn FormatWriter> = match self.format {
            Format::Png => Box::new(png::PngWriter::new(&target, shape, &options)?),
            Format::Jpeg => {
                Box::new(jpeg::JpegWriter::new(&target, shape, options, &mut self.warnings)?)
            }
            Format::WebP => Box::new(webp::WebPWriter::new(&target, shape, options)?),
            Format::Tiff => {
                Box::new(tiff::TiffWriter::new(&target, shape, options, &mut self.warnings)?)
            }
            Format::Ppm | Format::Pam => {
                Box::new(netpbm::NetpbmWriter::new(&target, self.format, shape)?)
            }
            Format::Farbfeld => Box::new(farbfeld::FarbfeldWriter::new(&target, shape)?),
            Format::Exr => Box::new(exr::ExrWriter::new(&target, shape, &options)?),
        };
        Ok(PictureWriter {
            backend: Some(backend),
            target: Some(target),
            rows_left: shape.height,
            encoder: self,
        })
    }
}

fn shape_error(what: &'static str, expected: usize, got: usize) -> ImageError {
    ImageError::Shape { what, expected, got }
}

/// An output being written. Dropping it before [`finish`](Self::finish) leaves nothing behind.
pub struct PictureWriter {
    // Declared before the target: an abandoned encoder must let go of the file before it is removed.
    backend: Option<Box<dyn FormatWriter>>,
    target: Option<OpenOutput>,
    encoder: Encoder,
    rows_left: u32,
}

impl std::fmt::Debug for PictureWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PictureWriter")
            .field("target", &self.target)
            .field("shape", &self.encoder.quantizer.shape)
            .field("rows_left", &self.rows_left)
            .finish_non_exhaustive()
    }
}

impl PictureWriter {
    /// The next rows, top to bottom, as [`Encoder::samples`] takes them.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when rows are not whole, too many, or come without their alpha; otherwise
    /// writing failed ([`ImageError::is_broken_pipe`] tells one harmless way).
    pub fn write_rows(&mut self, rgb: &[f32], alpha: Option<&[f32]>) -> Result<()> {
        let samples = self.samples(rgb, alpha)?;
        self.write_samples(&samples)
    }

    /// As [`Encoder::samples`].
    ///
    /// # Errors
    /// Same as there.
    pub fn samples(&self, rgb: &[f32], alpha: Option<&[f32]>) -> Result<Vec<u8>> {
        self.encoder.samples(rgb, alpha)
    }

    /// The next rows, top to bottom, as [`samples`](Self::samples) gave them.
    ///
    /// # Errors
    /// Same as [`write_rows`](Self::write_rows).
    pub fn write_samples(&mut self, samples: &[u8]) -> Result<()> {
        let row_bytes = self.encoder.row_bytes();
        let rows = samples.len() / row_bytes;
        if !samples.len().is_multiple_of(row_bytes) {
            return Err(shape_error("whole rows", (rows + 1) * row_bytes, samples.len()));
        }
        if rows > self.rows_left as usize {
            let expected = self.rows_left as usize * row_bytes;
            return Err(shape_error("rows of the picture", expected, samples.len()));
        }
        if let Some(backend) = &mut self.backend {
            backend.write(samples)?;
        }
        self.rows_left -= rows as u32;
        Ok(())
    }

    /// Deviations of the file from the options, known from the beginning.
    pub fn warnings(&self) -> &[Warning] {
        self.encoder.warnings()
    }

    /// Bytes of one row of samples.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.encoder.row_bytes()
    }

    /// Completes the picture and moves it to its final place.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when rows are missing; otherwise writing failed. Nothing is left behind then.
    pub fn finish(mut self) -> Result<Vec<Warning>> {
        if self.rows_left > 0 {
            let shape = self.encoder.quantizer.shape;
            let row_bytes = shape.row_bytes();
            let rows = (shape.height - self.rows_left) as usize;
            let expected = shape.height as usize * row_bytes;
            return Err(shape_error("picture to finish", expected, rows * row_bytes));
        }
        if let Some(backend) = self.backend.take() {
            backend.finish()?;
        }
        if let Some(target) = self.target.take() {
            target.commit()?;
        }
        Ok(std::mem::take(&mut self.encoder.warnings))
    }
}
