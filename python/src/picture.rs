//! Pictures on their way in and out: pixels in memory, files, and the rows of a job as the samples that were asked for.

use std::{io, path::PathBuf, sync::Arc};

use cupscale::{
    image::{self, EncodeOptions, Encoder, Format, Input, Light, PixelFormat, ReadOptions},
    pipeline::Rows,
};
use pyo3::{
    prelude::*,
    types::{PyByteArray, PyBytes, PyDict},
};

use crate::{
    errors::{Class, Failure},
    keywords::Keywords,
    names::READ,
    process,
    progress::log,
    reading::read_options,
};

/// A picture that has been read.
#[pyclass(frozen, module = "cupscale._cupscale")]
pub struct Picture {
    pub picture: Arc<image::Picture>,
    /// For metadata and messages.
    pub name: String,
}

#[pymethods]
impl Picture {
    /// The picture of these samples, `[height, width, channels]`, the low byte first: whole numbers of 8 or 16 bits, or floats of
    /// 32; gamma-encoded, with alpha that is not multiplied into the colours.
    #[staticmethod]
    fn from_pixels(
        py: Python<'_>,
        pixels: &Bound<'_, PyBytes>,
        size: (u32, u32),
        channels: usize,
        bits: u8,
    ) -> PyResult<Self> {
        process::check()?;
        let bytes = pixels.as_bytes();
        let picture = py.detach(|| of_samples(bytes, size, channels, bits))?;
        Ok(Self { picture: Arc::new(picture), name: "array".to_owned() })
    }

    /// The picture in a file: its path, or its bytes.
    #[staticmethod]
    fn read(
        py: Python<'_>,
        file: &Bound<'_, PyAny>,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        process::check()?;
        let options = read_options(&Keywords::new(options, &READ, (&[], ""))?)?;
        let input = input(file)?;
        let picture = py.detach(|| decode(&input, &options))?;
        Ok(Self { picture: Arc::new(picture), name: name(&input) })
    }

    #[getter]
    fn size(&self) -> (u32, u32) {
        (self.picture.width, self.picture.height)
    }

    #[getter]
    fn is_grey(&self) -> bool {
        self.picture.grey
    }

    #[getter]
    fn has_alpha(&self) -> bool {
        self.picture.alpha.is_some()
    }

    #[getter]
    fn bit_depth(&self) -> u8 {
        self.picture.bit_depth
    }

    #[getter]
    fn icc(&self) -> Option<&[u8]> {
        self.picture.metadata.icc.as_deref()
    }

    /// The EXIF block, which says that the picture is upright.
    #[getter]
    fn exif(&self) -> Option<&[u8]> {
        self.picture.metadata.exif.as_deref()
    }

    #[getter]
    fn dpi(&self) -> Option<(f64, f64)> {
        self.picture.metadata.dpi
    }
}

/// Where a picture's file is.
///
/// # Errors
/// What is neither a path nor bytes.
pub fn input(file: &Bound<'_, PyAny>) -> PyResult<Input> {
    if let Ok(bytes) = file.cast::<PyBytes>() {
        return Ok(Input::Bytes(bytes.as_bytes().into()));
    }
    match file.extract::<PathBuf>() {
        Ok(path) => Ok(Input::Path(path)),
        Err(_) => {
            let reason = "a path, or the bytes of a picture's file, is wanted".to_owned();
            Err(Failure::new(Class::Type, reason).into())
        }
    }
}

/// The file's own name.
fn name(input: &Input) -> String {
    match input {
        Input::Path(path) => {
            path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
        }
        _ => "picture".to_owned(),
    }
}

fn decode(input: &Input, options: &ReadOptions) -> Result<image::Picture, Failure> {
    let picture = image::open(input, options)?.decode()?;
    picture.warnings.iter().for_each(|warning| log(&warning.to_string()));
    Ok(picture)
}

/// The picture of samples; one channel is grey, two have alpha.
fn of_samples(
    bytes: &[u8],
    size: (u32, u32),
    channels: usize,
    bits: u8,
) -> Result<image::Picture, Failure> {
    let has_alpha = channels.is_multiple_of(2);
    let (pixels, format) = match (bits, has_alpha) {
        (8, true) => (widened::<1>(bytes, channels, None), PixelFormat::Rgba),
        (8, false) => (widened::<1>(bytes, channels, None), PixelFormat::Rgb24),
        (16, false) => (widened::<2>(bytes, channels, None), PixelFormat::Rgb48Le),
        (16, true) => {
            let share = |&value| f32::from(u16::from_le_bytes(value)) / 65535.0;
            let floats = bytes.as_chunks().0.iter().map(share);
            let floats: Vec<u8> = floats.flat_map(f32::to_le_bytes).collect();
            (widened::<4>(&floats, channels, None), PixelFormat::RgbaF32Le)
        }
        _ => {
            let opaque = (!has_alpha).then(|| 1_f32.to_le_bytes());
            (widened::<4>(bytes, channels, opaque), PixelFormat::RgbaF32Le)
        }
    };
    let mut picture = image::Picture::from_pixels(size, format, &pixels)?;
    if !has_alpha {
        picture.alpha = None;
    }
    if bits < 32 {
        picture.bit_depth = bits;
    }
    picture.grey = channels < 3;
    Ok(picture)
}

/// Samples of `N` bytes with three colours for one grey, and with this alpha behind each pixel's.
fn widened<const N: usize>(bytes: &[u8], channels: usize, alpha: Option<[u8; N]>) -> Vec<u8> {
    let samples = bytes.as_chunks::<N>().0;
    let mut wide = Vec::with_capacity(samples.len() / channels * 4 * N);
    for pixel in samples.chunks(channels) {
        match pixel {
            [grey] => [grey; 3].iter().for_each(|sample| wide.extend(*sample)),
            [grey, alpha] => {
                [grey, grey, grey, alpha].iter().for_each(|sample| wide.extend(*sample))
            }
            pixel => pixel.iter().for_each(|sample| wide.extend(sample)),
        }
        wide.extend(alpha.iter().flatten());
    }
    wide
}

/// Samples that are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// 1 or 2 for greys, 3 or 4 for colours; the last of an even number is alpha.
    pub channels: usize,
    /// 8, 16, or 32 for floats.
    pub bits: u8,
}

impl Form {
    /// Bytes of a picture of this width and height.
    fn bytes(self, (width, height): (u32, u32)) -> usize {
        width as usize * height as usize * self.channels * usize::from(self.bits / 8)
    }
}

/// Receives the rows of a job.
pub struct Samples {
    encoder: Encoder,
    pixels: Py<PyByteArray>,
    at: usize,
}

impl Samples {
    /// Room for the output of `picture`, of this size.
    ///
    /// # Errors
    /// Memory that there is not.
    pub fn new(picture: &image::Picture, size: (u32, u32), form: Form) -> PyResult<Self> {
        // Colours are encoded, whatever they were in a file.
        let light = picture.light.map(|light| Light { linear: false, ..light });
        // Of the files, a TIFF has its samples as they are wanted here: interleaved, the low byte first.
        let options = EncodeOptions {
            bit_depth: form.bits,
            alpha: form.channels.is_multiple_of(2),
            grey: form.channels < 3,
            icc: picture.metadata.icc.clone(),
            light,
            ..EncodeOptions::default()
        };
        let encoder = Encoder::new("picture", Format::Tiff, size.0, size.1, options);
        let encoder = encoder.map_err(Failure::from)?;
        let length = form.bytes(size);
        let pixels =
            Python::attach(|py| PyByteArray::new_with(py, length, |_| Ok(())).map(Bound::unbind))?;
        Ok(Self { encoder, pixels, at: 0 })
    }

    /// The samples, once all rows are there.
    pub fn into_pixels(self) -> Py<PyByteArray> {
        self.pixels
    }
}

impl Rows for Samples {
    fn put(&mut self, rgb: &[f32], alpha: Option<&[f32]>) -> io::Result<()> {
        let samples = self.encoder.samples(rgb, alpha).map_err(io::Error::other)?;
        Python::attach(|py| {
            let pixels = self.pixels.bind(py);
            // SAFETY: nobody else has this object before the job is done, and no code of Python's runs meanwhile.
            let room = unsafe { pixels.as_bytes_mut() };
            let end = self.at + samples.len();
            let room = room.get_mut(self.at..end).ok_or(io::ErrorKind::WriteZero)?;
            room.copy_from_slice(&samples);
            self.at = end;
            Ok(())
        })
    }
}
