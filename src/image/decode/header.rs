//! Header: what a decoder knows of a picture before its pixels, and the rows that it gives afterwards. Everything that
//! costs memory or time is decided from the header.

use super::super::error::{ImageError, Result, Warning};
use super::super::metadata::Metadata;
use super::super::picture::MAX_PIXELS;
use super::super::plane::band_rows;
use super::InputKind;

/// Channel layout of a file's samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChannelLayout {
    Grey,
    GreyAlpha,
    Rgb,
    Rgba,
    /// Ink amounts: 1 is full ink.
    Cmyk,
    CmykAlpha,
}

impl ChannelLayout {
    pub(crate) fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba | Self::Cmyk => 4,
            Self::CmykAlpha => 5,
        }
    }

    pub(crate) fn has_alpha(self) -> bool {
        matches!(self, Self::GreyAlpha | Self::Rgba | Self::CmykAlpha)
    }

    pub(crate) fn is_cmyk(self) -> bool {
        matches!(self, Self::Cmyk | Self::CmykAlpha)
    }

    pub(crate) fn is_grey(self) -> bool {
        matches!(self, Self::Grey | Self::GreyAlpha)
    }
}

/// What is known before the pixels.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    /// Pixels per row, as stored (before orientation).
    pub width: u32,
    /// Rows, as stored.
    pub height: u32,
    pub layout: ChannelLayout,
    /// 8, 16 or, for floats, 32: the bits per sample that an output should have to lose nothing.
    pub bit_depth: u8,
    pub metadata: Metadata,
    /// Problems of the header and the metadata.
    pub warnings: Vec<Warning>,
    /// What the decoder itself holds at most while it decodes, in bytes: 0 where it decodes row by row, the whole
    /// picture's samples where it does not.
    pub scratch_bytes: u64,
}

/// What the colours of a picture go up to whose samples may be above 1. They are not below 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Extent {
    /// Samples are light, up to this.
    Linear(f32),
    /// Samples are encoded by the tone curve of the profile, sRGB's without one, up to this.
    Encoded(f32),
}

/// A decoder that has read the header.
pub(crate) trait Decode {
    fn header(&self) -> &Header;

    /// Number of pictures in the file: pages, or frames of an animation.
    fn pictures(&self) -> usize {
        1
    }

    /// What the colours go up to if it is not 1. Asked once, before the rows; it may take reading all pixels.
    ///
    /// # Errors
    /// Pixels that are damaged or missing.
    fn extent(&mut self) -> Result<Option<Extent>> {
        Ok(None)
    }

    /// Pixels from top to bottom, any whole number of rows a call: interleaved samples in [0, 1], colours up to the
    /// extent where there is one. Returns what it met on the way.
    ///
    /// # Errors
    /// Those of `take`; pixels that are damaged or missing.
    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>>;
}

/// Checks a header's size before anything is allocated for it.
pub(crate) fn check_size(
    name: &str,
    kind: impl Into<InputKind>,
    width: u64,
    height: u64,
) -> Result<()> {
    if width == 0 || height == 0 {
        let reason = format!("a size of {width} x {height}");
        return Err(ImageError::unreadable(name, kind, reason));
    }
    if width.checked_mul(height).is_none_or(|n| n > MAX_PIXELS) {
        return Err(ImageError::TooLarge {
            name: name.to_owned(),
            width,
            height,
            limit: MAX_PIXELS,
        });
    }
    Ok(())
}

/// 8-bit samples as floats in [0, 1].
pub(crate) fn from_u8(samples: &[u8]) -> Vec<f32> {
    samples.iter().map(|&v| f32::from(v) / 255.0).collect()
}

/// Passes on the rows of a whole picture of 8 bits.
///
/// # Errors
/// Those of `take`.
pub(crate) fn pass_bytes(
    header: &Header,
    data: &[u8],
    take: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let row = header.width as usize * header.layout.channels();
    data.chunks(band_rows(header.width) * row).try_for_each(|band| take(&from_u8(band)))
}

/// Passes on the rows of a whole picture of 16 bits.
///
/// # Errors
/// Those of `take`.
pub(crate) fn pass_words(
    header: &Header,
    data: &[u16],
    take: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let row = header.width as usize * header.layout.channels();
    let mut samples = Vec::new();
    data.chunks(band_rows(header.width) * row).try_for_each(|band| {
        samples.clear();
        samples.extend(band.iter().map(|&v| f32::from(v) / 65535.0));
        take(&samples)
    })
}

/// What a layout without inks has of pixels of red, green, blue and alpha.
pub(crate) fn of_rgba<T: Copy>(mut data: Vec<T>, layout: ChannelLayout) -> Vec<T> {
    let kept: &[usize] = match layout {
        ChannelLayout::Grey => &[0],
        ChannelLayout::GreyAlpha => &[0, 3],
        ChannelLayout::Rgb => &[0, 1, 2],
        _ => return data,
    };
    let pixels = data.len() / 4;
    for at in 0..pixels {
        for (to, &from) in kept.iter().enumerate() {
            data[at * kept.len() + to] = data[at * 4 + from];
        }
    }
    data.truncate(pixels * kept.len());
    data
}
