//! A decoded picture in memory.

use super::alpha::fill_transparent;
use super::colour;
use super::error::{Result, Warning};
use super::metadata::{ColourChunk, Metadata, Text, ifd, xmp};
use super::resize::{Filter, Resizer};

/// The most pixels an input may have (2²⁸, a square of 16,384): more is taken for a decompression bomb.
pub const MAX_PIXELS: u64 = 1 << 28;

/// An upright picture with its metadata.
#[derive(Clone, PartialEq)]
pub struct Picture {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `[height, width, 3]`, gamma-encoded (sRGB's curve on the picture's own primaries, see
    /// [`icc`](Self::icc)), in [0, 1]. Colour under fully transparent pixels has been replaced by
    /// that of the nearest visible ones.
    pub rgb: Vec<f32>,
    /// `[height, width]`, not premultiplied, in [0, 1].
    pub alpha: Option<Vec<f32>>,
    /// 8 or 16: the bits per sample that an output should have to lose nothing.
    pub bit_depth: u8,
    /// The file was greyscale; `rgb` then has three equal channels, and the output can be grey too.
    pub grey: bool,
    /// The profile to write into the output; `None` means sRGB. Pixels are converted on output by
    /// the same profile, so it always describes them rightly.
    pub icc: Option<Vec<u8>>,
    /// EXIF block (a TIFF structure, without the `Exif\0\0` that JPEG puts before it), marked upright.
    pub exif: Option<Vec<u8>>,
    /// XMP packet.
    pub xmp: Option<Vec<u8>>,
    /// Dots per inch, horizontal and vertical.
    pub dpi: Option<(f64, f64)>,
    /// Texts with keywords: PNG's text chunks, JPEG's comments.
    pub texts: Vec<Text>,
    /// Chunks of a PNG that say what [`icc`](Self::icc) says, or sRGB where that is `None`.
    pub colour_chunks: Vec<ColourChunk>,
    /// Problems met while reading that do not prevent it.
    pub warnings: Vec<Warning>,
}

/// Prints sizes instead of contents, for logs.
impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = |block: &Option<Vec<u8>>| block.as_ref().map(Vec::len);
        f.debug_struct("Picture")
            .field("width", &self.width)
            .field("height", &self.height)
            .field("alpha", &self.alpha.is_some())
            .field("bit_depth", &self.bit_depth)
            .field("grey", &self.grey)
            .field("icc_bytes", &bytes(&self.icc))
            .field("exif_bytes", &bytes(&self.exif))
            .field("xmp_bytes", &bytes(&self.xmp))
            .field("dpi", &self.dpi)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

impl Picture {
    /// A plain sRGB picture of 8 bits from `[height, width, 3]` samples in [0, 1].
    ///
    /// # Errors
    /// [`ImageError::Shape`](super::ImageError::Shape) when `rgb` has not that many samples.
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<f32>) -> Result<Self> {
        let expected = width as usize * height as usize * 3;
        if rgb.len() != expected {
            return Err(super::ImageError::Shape { what: "picture", expected, got: rgb.len() });
        }
        Ok(Self {
            width,
            height,
            rgb,
            alpha: None,
            bit_depth: 8,
            grey: false,
            icc: None,
            exif: None,
            xmp: None,
            dpi: None,
            texts: Vec::new(),
            colour_chunks: Vec::new(),
            warnings: Vec::new(),
        })
    }

    /// A plain sRGB picture from 8-bit samples, `[height, width, 3]`, as a window system or an editor holds them.
    ///
    /// # Errors
    /// [`ImageError::Shape`](super::ImageError::Shape) when `rgb` has not that many samples.
    pub fn from_rgb8(width: u32, height: u32, rgb: &[u8]) -> Result<Self> {
        Self::from_rgb(width, height, rgb.iter().map(|&v| f32::from(v) / 255.0).collect())
    }

    /// The same with alpha (not premultiplied), `[height, width, 4]`.
    ///
    /// # Errors
    /// [`ImageError::Shape`](super::ImageError::Shape) when `rgba` has not that many samples.
    pub fn from_rgba8(width: u32, height: u32, rgba: &[u8]) -> Result<Self> {
        let expected = width as usize * height as usize * 4;
        if rgba.len() != expected {
            return Err(super::ImageError::Shape { what: "picture", expected, got: rgba.len() });
        }
        let raw = DecodedSamples {
            width,
            height,
            layout: ChannelLayout::Rgba,
            samples: rgba.iter().map(|&v| f32::from(v) / 255.0).collect(),
            bit_depth: 8,
            metadata: Metadata::default(),
            warnings: Vec::new(),
        };
        Ok(raw.into_picture())
    }

    /// Feeds everything about the picture that an output depends on into a hash.
    pub fn hash_into(&self, hash: &mut sha2::Sha256) {
        use sha2::Digest as _;
        let mut floats = |values: &[f32]| {
            hash.update((values.len() as u64).to_le_bytes());
            for values in values.chunks(4096) {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                hash.update(&bytes);
            }
        };
        floats(&self.rgb);
        floats(self.alpha.as_deref().unwrap_or_default());
        let dpi = self.dpi.map_or([0.0; 2], |(x, y)| [x, y]);
        for number in [u64::from(self.width), self.bit_depth.into(), self.grey.into()]
            .into_iter()
            .chain(dpi.map(f64::to_bits))
        {
            hash.update(number.to_le_bytes());
        }
        for block in [&self.icc, &self.exif, &self.xmp] {
            let block = block.as_deref().unwrap_or_default();
            hash.update((block.len() as u64).to_le_bytes());
            hash.update(block);
        }
        for text in &self.texts {
            for part in [&text.keyword, &text.text, &text.language, &text.translated] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        for chunk in &self.colour_chunks {
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
        let resizer = Resizer::new(&self.rgb, 3, source, (width, height), Filter::Lanczos3)?;
        Ok(resizer.clamped())
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
                Resizer::new(alpha, 1, source, (width, height), Filter::Lanczos3)
                    .map(Resizer::clamped)
            })
            .transpose()
    }
}

/// Channel layout of a file's samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChannelLayout {
    Grey,
    GreyAlpha,
    Rgb,
    Rgba,
    /// Ink amounts: 1 is full ink.
    Cmyk,
}

impl ChannelLayout {
    pub(crate) fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba | Self::Cmyk => 4,
        }
    }
}

/// Output of a decoder, before colour, orientation and alpha are handled.
#[derive(Debug)]
pub(crate) struct DecodedSamples {
    pub width: u32,
    pub height: u32,
    pub layout: ChannelLayout,
    /// Interleaved samples in [0, 1].
    pub samples: Vec<f32>,
    pub bit_depth: u8,
    pub metadata: Metadata,
    pub warnings: Vec<Warning>,
}

impl DecodedSamples {
    pub(crate) fn into_picture(mut self) -> Picture {
        let grey = matches!(self.layout, ChannelLayout::Grey | ChannelLayout::GreyAlpha);
        let (mut rgb, mut alpha) = split(self.layout, self.samples, self.metadata.icc.as_deref());
        if self.layout == ChannelLayout::Cmyk {
            if self.metadata.icc.take().is_some() {
                let why = "the picture is CMYK, the output is RGB";
                self.warnings.push(Warning::ProfileDropped(why.into()));
            }
        } else if let Some(icc) = &self.metadata.icc {
            match colour::conversion(icc, grey) {
                Ok(colour) => colour.to_working(&mut rgb),
                Err(why) => {
                    self.warnings.push(Warning::ProfileDropped(why));
                    self.metadata.icc = None;
                    self.metadata.colour_chunks.clear();
                }
            }
        }
        let (width, height) = (self.width as usize, self.height as usize);
        if let Some(alpha) = &alpha {
            fill_transparent(&mut rgb, alpha, width, height);
        }
        let orientation = self.metadata.exif.as_deref().map_or(1, ifd::orientation);
        let mut dpi = self.metadata.dpi;
        let (mut width, mut height) = (self.width, self.height);
        if orientation != 1 {
            rgb = turned(&rgb, 3, width as usize, height as usize, orientation);
            alpha =
                alpha.map(|alpha| turned(&alpha, 1, width as usize, height as usize, orientation));
            if orientation >= 5 {
                (width, height) = (height, width);
                dpi = dpi.map(|(x, y)| (y, x));
            }
            self.metadata.exif.as_deref_mut().map(ifd::set_upright);
            self.metadata.xmp = self.metadata.xmp.map(xmp::upright);
        }
        Picture {
            width,
            height,
            rgb,
            alpha,
            bit_depth: self.bit_depth,
            grey,
            icc: self.metadata.icc,
            exif: self.metadata.exif,
            xmp: self.metadata.xmp,
            dpi,
            texts: self.metadata.texts,
            colour_chunks: self.metadata.colour_chunks,
            warnings: self.warnings,
        }
    }
}

/// Colour and alpha planes of interleaved samples; grey becomes three equal channels.
fn split(
    layout: ChannelLayout,
    samples: Vec<f32>,
    icc: Option<&[u8]>,
) -> (Vec<f32>, Option<Vec<f32>>) {
    let alpha = |channels: usize| -> Option<Vec<f32>> {
        Some(samples.iter().skip(channels - 1).step_by(channels).copied().collect())
    };
    match layout {
        ChannelLayout::Rgb => (samples, None),
        ChannelLayout::Grey => (samples.iter().flat_map(|&v| [v; 3]).collect(), None),
        ChannelLayout::GreyAlpha => {
            let rgb = samples.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect();
            (rgb, alpha(2))
        }
        ChannelLayout::Rgba => {
            let rgb = samples.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
            (rgb, alpha(4))
        }
        ChannelLayout::Cmyk => (colour::cmyk_to_srgb(&samples, icc), None),
    }
}

/// A `[height, width, channels]` plane turned upright from EXIF orientation 1 to 8
/// (EXIF 2.32, 4.6.4, tag 274: which corner of the scene the first row and column are).
fn turned(
    plane: &[f32],
    channels: usize,
    width: usize,
    height: usize,
    orientation: u8,
) -> Vec<f32> {
    let (out_width, out_height) = if orientation >= 5 { (height, width) } else { (width, height) };
    let mut out = Vec::with_capacity(plane.len());
    for y in 0..out_height {
        for x in 0..out_width {
            let (sx, sy) = match orientation {
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (y, height - 1 - x),
                7 => (width - 1 - y, height - 1 - x),
                8 => (width - 1 - y, x),
                _ => (x, y),
            };
            let at = (sy * width + sx) * channels;
            out.extend_from_slice(&plane[at..at + channels]);
        }
    }
    out
}
