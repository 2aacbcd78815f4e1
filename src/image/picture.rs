//! Picture: decoded and upright, its planes in memory or, if it is large, in files.

use super::colour::ScreenColours;
use super::error::{ImageError, Result, Warning};
use super::light::Light;
use super::metadata::Metadata;
use super::plane::{self, Plane, band_rows};
use super::resize::{Filter, Resizer};

/// The most pixels an input may have (2²⁸, a square of 16,384): more is taken for a decompression bomb.
pub const MAX_PIXELS: u64 = 1 << 28;

/// Bytes of a pixel on its way from the decoder to the planes: samples, floats, colours, alpha, and levels of the
/// filling under transparent pixels.
const BAND_PIXEL_BYTES: u64 = 48;

/// Samples of a plane in a file that are read at once to be hashed.
const HASH_BAND: usize = 1 << 18;

/// An upright picture with its metadata.
#[derive(Clone, PartialEq)]
pub struct Picture {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `[height, width, 3]`, gamma-encoded (sRGB's curve on the picture's own primaries, see
    /// [`Metadata::icc`]), in [0, 1]. Colour under fully transparent pixels has been replaced by
    /// that of the nearest visible ones.
    pub rgb: Plane,
    /// `[height, width]`, not premultiplied, in [0, 1].
    pub alpha: Option<Plane>,
    /// 8, 16 or, for floats, 32: the bits per sample that an output should have to lose nothing.
    pub bit_depth: u8,
    /// The file was greyscale; `rgb` then has three equal channels, and the output can be grey too.
    pub grey: bool,
    /// The file held light that may go above white; [`rgb`](Self::rgb) is then encoded by sRGB's curve up to half of
    /// white, and above by a logarithm that reaches 1 at the peak (docs/method.md §9).
    pub light: Option<Light>,
    /// Metadata for the output; EXIF and XMP are marked upright.
    pub metadata: Metadata,
    /// Problems met while reading that do not prevent it.
    pub warnings: Vec<Warning>,
    /// What its decoder held beside the planes, in bytes.
    pub(super) decoder_bytes: u64,
}

/// Size of a picture before its pixels are read, and what reading them takes: enough to plan a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PictureShape {
    /// Pixels per row, upright.
    pub width: u32,
    /// Rows, upright.
    pub height: u32,
    /// It has an alpha plane.
    pub alpha: bool,
    /// What its decoder holds beside the planes, in bytes: 0 where it decodes row by row.
    pub decoder_bytes: u64,
}

impl PictureShape {
    /// Bytes of the planes that are in memory; those of a large picture are in files, of which rows are in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.planes(|bytes| if bytes <= plane::MEMORY_BYTES { bytes } else { 0 })
    }

    /// Bytes of the planes that are in files.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.planes(|bytes| if bytes <= plane::MEMORY_BYTES { 0 } else { bytes })
    }

    /// Bytes that reading the pixels takes beside the planes: the decoder's, and a band on its way.
    #[must_use]
    pub fn reading_bytes(&self) -> u64 {
        let band = band_rows(self.width) as u64 * u64::from(self.width);
        let pixels = u64::from(self.width) * u64::from(self.height);
        self.decoder_bytes + band.min(pixels) * BAND_PIXEL_BYTES
    }

    /// The sum over the planes.
    fn planes(&self, of_plane: impl Fn(u64) -> u64) -> u64 {
        let plane = u64::from(self.width) * u64::from(self.height) * size_of::<f32>() as u64;
        of_plane(3 * plane) + if self.alpha { of_plane(plane) } else { 0 }
    }
}

/// A picture without alpha that is in memory.
impl From<(u32, u32)> for PictureShape {
    fn from((width, height): (u32, u32)) -> Self {
        Self { width, height, alpha: false, decoder_bytes: 0 }
    }
}

/// Prints sizes instead of contents, for logs.
impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Picture")
            .field("width", &self.width)
            .field("height", &self.height)
            .field("alpha", &self.alpha.is_some())
            .field("bit_depth", &self.bit_depth)
            .field("grey", &self.grey)
            .field("light", &self.light)
            .field("metadata", &self.metadata)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

impl Picture {
    /// A plain sRGB picture of 8 bits from `[height, width, 3]` samples in [0, 1].
    ///
    /// # Errors
    /// [`ImageError::Shape`] when `rgb` has not that many samples.
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<f32>) -> Result<Self> {
        check_samples((width, height), 3, rgb.len())?;
        Ok(Self::plain(width, height, rgb.into(), None))
    }

    /// A plain sRGB picture from 8-bit samples, `[height, width, 3]`, as a window system or an editor holds them.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when `rgb` has not that many samples.
    pub fn from_rgb8(width: u32, height: u32, rgb: &[u8]) -> Result<Self> {
        Self::from_rgb(width, height, rgb.iter().map(|&v| f32::from(v) / 255.0).collect())
    }

    /// A plain picture of this plane, `[height, width, 3]`.
    pub(crate) fn of_plane(width: u32, height: u32, rgb: Plane) -> Self {
        Self::plain(width, height, rgb, None)
    }

    pub(super) fn plain(width: u32, height: u32, rgb: Plane, alpha: Option<Plane>) -> Self {
        Self {
            width,
            height,
            rgb,
            alpha,
            bit_depth: 8,
            grey: false,
            light: None,
            metadata: Metadata::default(),
            warnings: Vec::new(),
            decoder_bytes: 0,
        }
    }

    /// Its size, and what reading it took.
    #[must_use]
    pub fn shape(&self) -> PictureShape {
        PictureShape {
            width: self.width,
            height: self.height,
            alpha: self.alpha.is_some(),
            decoder_bytes: self.decoder_bytes,
        }
    }

    /// Feeds everything about the picture that an output depends on into a hash.
    pub fn hash_into(&self, hash: &mut sha2::Sha256) {
        use sha2::Digest as _;
        let mut floats = |plane: &Plane| {
            hash.update((plane.len() as u64).to_le_bytes());
            let mut buffer = Vec::new();
            for start in (0..plane.len()).step_by(HASH_BAND) {
                let band = start..(start + HASH_BAND).min(plane.len());
                for values in plane.samples(band, &mut buffer).chunks(4096) {
                    let bytes: Vec<u8> =
                        values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    hash.update(&bytes);
                }
            }
        };
        floats(&self.rgb);
        floats(self.alpha.as_ref().unwrap_or(&Vec::new().into()));
        let Metadata { icc, exif, xmp, photoshop, dpi, texts, colour_chunks } = &self.metadata;
        let dpi = dpi.map_or([0.0; 2], |(x, y)| [x, y]);
        for number in [u64::from(self.width), self.bit_depth.into(), self.grey.into()]
            .into_iter()
            .chain(dpi.map(f64::to_bits))
        {
            hash.update(number.to_le_bytes());
        }
        if let Some(Light { peak, linear }) = self.light {
            hash.update(peak.to_le_bytes());
            hash.update([u8::from(linear)]);
        }
        let blocks = [icc, exif, xmp].map(|block| block.as_deref().unwrap_or_default());
        for block in blocks.into_iter().chain(photoshop.as_deref()) {
            hash.update((block.len() as u64).to_le_bytes());
            hash.update(block);
        }
        for text in texts {
            for part in [&text.keyword, &text.text, &text.language, &text.translated] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        for chunk in colour_chunks {
            hash.update(chunk.kind);
            hash.update((chunk.data.len() as u64).to_le_bytes());
            hash.update(&chunk.data);
        }
    }

    /// Lanczos resizer of the colours to exactly `width` × `height`, clamped to [0, 1].
    ///
    /// # Errors
    /// A size of zero.
    pub fn resizer(&self, width: u32, height: u32) -> Result<Resizer<'_>> {
        let source = (self.width, self.height);
        let resizer = Resizer::of_plane(&self.rgb, 3, source, (width, height), Filter::Lanczos3)?;
        Ok(resizer.clamped())
    }

    /// Conversion of colours of this picture to sRGB.
    pub(crate) fn screen_colours(&self) -> ScreenColours {
        ScreenColours::new(self.metadata.icc.as_deref())
    }

    /// The same resizer for the alpha plane; `None` without one.
    ///
    /// # Errors
    /// A size of zero.
    pub fn alpha_resizer(&self, width: u32, height: u32) -> Result<Option<Resizer<'_>>> {
        let source = (self.width, self.height);
        self.alpha
            .as_ref()
            .map(|alpha| {
                Resizer::of_plane(alpha, 1, source, (width, height), Filter::Lanczos3)
                    .map(Resizer::clamped)
            })
            .transpose()
    }
}

/// Checks the number of samples of a caller's buffer.
fn check_samples((width, height): (u32, u32), channels: usize, got: usize) -> Result<()> {
    let expected = width as usize * height as usize * channels;
    if got == expected { Ok(()) } else { Err(ImageError::Shape { what: "picture", expected, got }) }
}
