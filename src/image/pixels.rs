//! Pixels without a file around them: interleaved samples, row by row from the top left, as ffmpeg's `rawvideo` and
//! editors pass them. The names of their formats are ffmpeg's.

use std::{fmt, str::FromStr};

use super::alpha::fill_transparent;
use super::colour::Colour;
use super::encode::{EncodeOptions, Encoder};
use super::error::{ImageError, Result};
use super::format::Format;
use super::light::{Light, Shoulder};
use super::picture::Picture;
use super::plane::{PlaneBuilder, Scratch, band_rows};

/// The samples of a pixel: gamma-encoded colours, and alpha that is not multiplied into them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PixelFormat {
    /// Red, green, blue; 8 bits each.
    Rgb24,
    /// Red, green, blue, alpha; 8 bits each.
    Rgba,
    /// Red, green, blue; 16 bits each, the low byte first.
    Rgb48Le,
    /// Red, green, blue, alpha; 32-bit floats, the low byte first, 1 is white. Colours may be above 1, where sRGB's curve goes
    /// on, and are not below 0; what is no number is 0, and what is infinite as bright as the brightest number.
    RgbaF32Le,
}

impl PixelFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Rgb24, Self::Rgba, Self::Rgb48Le, Self::RgbaF32Le];

    /// ffmpeg's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rgb24 => "rgb24",
            Self::Rgba => "rgba",
            Self::Rgb48Le => "rgb48le",
            Self::RgbaF32Le => "rgbaf32le",
        }
    }

    /// `true` if a pixel has alpha.
    #[must_use]
    pub fn has_alpha(self) -> bool {
        matches!(self, Self::Rgba | Self::RgbaF32Le)
    }

    /// Samples of a pixel.
    #[must_use]
    pub fn channels(self) -> usize {
        if self.has_alpha() { 4 } else { 3 }
    }

    /// Bytes of a pixel.
    #[must_use]
    pub fn pixel_bytes(self) -> usize {
        let sample = match self {
            Self::Rgb24 | Self::Rgba => 1,
            Self::Rgb48Le => 2,
            Self::RgbaF32Le => 4,
        };
        sample * self.channels()
    }

    /// Bytes of a picture of this width and height.
    #[must_use]
    pub fn frame_bytes(self, width: u32, height: u32) -> u64 {
        // Less than 2⁶⁸ / 2⁴ at most for sides that an output can have.
        u64::from(width).saturating_mul(height.into()).saturating_mul(self.pixel_bytes() as u64)
    }

    /// The brightest colour of these pixels, if it is above white.
    fn top(self, bytes: &[u8]) -> Option<f32> {
        if self != Self::RgbaF32Le {
            return None;
        }
        let values = |pixel: &[u8; 16]| {
            [0, 4, 8, 12].map(|at| f32::from_le_bytes([0, 1, 2, 3].map(|byte| pixel[at + byte])))
        };
        let visible = bytes.as_chunks().0.iter().map(values).filter(|pixel| pixel[3] > 0.0);
        let colours = visible.flat_map(|[r, g, b, _]| [r, g, b]).filter(|value| value.is_finite());
        Some(colours.fold(0.0, f32::max)).filter(|&top| top > 1.0)
    }

    /// Samples of these bytes, which are whole samples: in [0, 1], or colours up to `top`.
    fn floats(self, bytes: &[u8], top: f32, out: &mut Vec<f32>) {
        out.clear();
        match self {
            Self::Rgb24 | Self::Rgba => out.extend(bytes.iter().map(|&v| f32::from(v) / 255.0)),
            Self::Rgb48Le => out.extend(
                bytes.as_chunks().0.iter().map(|&v| f32::from(u16::from_le_bytes(v)) / 65535.0),
            ),
            Self::RgbaF32Le => {
                out.extend(bytes.as_chunks().0.iter().enumerate().map(|(at, &v)| {
                    let (value, most) =
                        (f32::from_le_bytes(v), if at % 4 == 3 { 1.0 } else { top });
                    if value.is_nan() { 0.0 } else { value.clamp(0.0, most) }
                }));
            }
        }
    }
}

impl fmt::Display for PixelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that names no format of pixels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given}: unknown format of pixels; known are rgb24, rgba, rgb48le and rgbaf32le")]
#[non_exhaustive]
pub struct UnknownPixelFormat {
    /// The name.
    pub given: String,
}

impl FromStr for PixelFormat {
    type Err = UnknownPixelFormat;

    fn from_str(given: &str) -> std::result::Result<Self, UnknownPixelFormat> {
        let found = Self::ALL.into_iter().find(|format| format.name() == given);
        found.ok_or_else(|| UnknownPixelFormat { given: given.to_owned() })
    }
}

impl Picture {
    /// A plain sRGB picture from 8-bit samples with alpha (not premultiplied), `[height, width, 4]`.
    ///
    /// # Errors
    /// Those of [`from_pixels`](Self::from_pixels).
    pub fn from_rgba8(width: u32, height: u32, rgba: &[u8]) -> Result<Self> {
        Self::from_pixels((width, height), PixelFormat::Rgba, rgba)
    }

    /// A plain sRGB picture of these pixels, `[height, width]`. The planes of a large one are files without a name.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when there are not that many bytes, [`ImageError::ZeroSize`] for a picture without pixels,
    /// [`ImageError::TooLarge`] for one of too many; [`ImageError::Scratch`] when a large one finds no room on the disk.
    pub fn from_pixels(
        (width, height): (u32, u32),
        format: PixelFormat,
        pixels: &[u8],
    ) -> Result<Self> {
        check_size(width, height)?;
        let expected = format.frame_bytes(width, height);
        if pixels.len() as u64 != expected {
            let (expected, got) = (expected as usize, pixels.len());
            return Err(ImageError::Shape { what: "bytes of the pixels", expected, got });
        }
        let top = format.top(pixels);
        let light = top.map(|top| Light { peak: Colour::Same.light(top), linear: false });
        let planes = || {
            let (columns, rows, scratch) = (width as usize, height as usize, Scratch::default());
            let mut rgb = PlaneBuilder::new(rows, 3 * columns, &scratch)?;
            let mut alpha = format
                .has_alpha()
                .then(|| PlaneBuilder::new(rows, columns, &scratch))
                .transpose()?;
            let band = band_rows(width) * columns * format.pixel_bytes();
            let mut samples = Vec::new();
            for band in pixels.chunks(band) {
                format.floats(band, top.unwrap_or(1.0), &mut samples);
                match &mut alpha {
                    None => rgb.push(&samples)?,
                    Some(alpha) => {
                        let colours = samples.as_chunks::<4>().0;
                        let rgba = colours.iter().flat_map(|&[r, g, b, _]| [r, g, b]);
                        let mut colours_alone: Vec<_> = rgba.collect();
                        if let Some(light) = light {
                            let shoulder = Shoulder::new(light.peak);
                            Colour::Same.enter_shoulder(&mut colours_alone, shoulder);
                        }
                        rgb.push(&colours_alone)?;
                        alpha.push(&colours.iter().map(|p| p[3]).collect::<Vec<_>>())?;
                    }
                }
            }
            if let Some(alpha) = &mut alpha {
                fill_transparent(&mut rgb, alpha, columns, rows, &scratch)?;
            }
            Ok((rgb.finish()?, alpha.map(PlaneBuilder::finish).transpose()?))
        };
        let on_disk = |source| ImageError::Scratch { name: NAME.into(), source };
        let (rgb, alpha) = planes().map_err(on_disk)?;
        let bit_depth = match light {
            Some(_) => 32,
            None if format.pixel_bytes() == format.channels() => 8,
            None => 16,
        };
        Ok(Self { bit_depth, light, ..Self::plain(width, height, rgb, alpha) })
    }
}

/// Name of pixels in messages.
const NAME: &str = "picture in memory";

fn check_size(width: u32, height: u32) -> Result<()> {
    let (name, limit) = (NAME.to_owned(), super::picture::MAX_PIXELS);
    if width == 0 || height == 0 {
        return Err(ImageError::ZeroSize { name, width, height });
    }
    if u64::from(width) * u64::from(height) > limit {
        let (width, height) = (width.into(), height.into());
        return Err(ImageError::TooLarge { name, width, height, limit });
    }
    Ok(())
}

/// Conversion of rows, as a job gives them, to pixels of a format.
pub struct PixelRows {
    format: PixelFormat,
    /// As for a file with the same samples.
    encoder: Encoder,
}

impl PixelRows {
    /// For an output of exactly this width and height, of a picture with this [light](Picture::light) above white, if it
    /// has any: floats keep it, whole numbers end at white.
    ///
    /// # Errors
    /// [`ImageError::ZeroSize`].
    pub fn new(
        (width, height): (u32, u32),
        format: PixelFormat,
        light: Option<Light>,
    ) -> Result<Self> {
        let bit_depth = match format {
            PixelFormat::Rgb24 | PixelFormat::Rgba => 8,
            PixelFormat::Rgb48Le => 16,
            PixelFormat::RgbaF32Le => 32,
        };
        let alpha = format.has_alpha();
        // Colours are encoded, whatever they were in a file.
        let light = light.map(|light| Light { linear: false, ..light });
        // Of the files, a TIFF has its samples as they are here: interleaved, the low byte first.
        let options = EncodeOptions { bit_depth, alpha, light, ..EncodeOptions::default() };
        let encoder = Encoder::new(NAME, Format::Tiff, width, height, options)?;
        Ok(Self { format, encoder })
    }

    /// The pixels of some rows: `rgb` is `[n, width, 3]`, `alpha` is `[n, width]`. A format with alpha takes rows without
    /// it as opaque; one without it leaves it out.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when rows are not whole.
    pub fn convert(&self, rgb: &[f32], alpha: Option<&[f32]>) -> Result<Vec<u8>> {
        let opaque;
        let alpha = match alpha {
            None if self.format.has_alpha() => {
                opaque = vec![1.0; rgb.len() / 3];
                Some(&opaque[..])
            }
            alpha => alpha.filter(|_| self.format.has_alpha()),
        };
        self.encoder.samples(rgb, alpha)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a picture of 5 × 3 pixels, none of them wholly transparent.
    fn pixels(format: PixelFormat) -> Vec<u8> {
        let samples = 5 * 3 * format.channels();
        match format {
            PixelFormat::RgbaF32Le => {
                (0..samples).flat_map(|at| ((at % 7 + 1) as f32 / 8.0).to_le_bytes()).collect()
            }
            _ => (0..5 * 3 * format.pixel_bytes()).map(|at| (at * 37 % 250 + 1) as u8).collect(),
        }
    }

    #[test]
    fn pixels_become_a_picture_and_the_same_pixels_again() {
        for format in PixelFormat::ALL {
            let bytes = pixels(format);
            let picture = Picture::from_pixels((5, 3), format, &bytes).unwrap();
            assert_eq!(picture.alpha.is_some(), format.has_alpha());
            let rows = PixelRows::new((5, 3), format, None).unwrap();
            assert_eq!(rows.convert(&picture.rgb, picture.alpha.as_deref()).unwrap(), bytes);
            assert_eq!(format.name().parse(), Ok(format));
        }
        let opaque = PixelRows::new((1, 1), PixelFormat::Rgba, None).unwrap();
        assert_eq!(opaque.convert(&[0.0, 0.5, 1.0], None).unwrap(), [0, 128, 255, 255]);
        let dropped = PixelRows::new((1, 1), PixelFormat::Rgb24, None).unwrap();
        assert_eq!(dropped.convert(&[0.0, 0.5, 1.0], Some(&[0.5])).unwrap(), [0, 128, 255]);
        assert!("rgb".parse::<PixelFormat>().is_err());
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn read(bytes: &[u8]) -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
    }

    #[test]
    fn floats_that_are_no_colours_are_cut() {
        let bytes = floats(&[f32::NAN, -1.0, f32::INFINITY, 2.0]);
        let picture = Picture::from_pixels((1, 1), PixelFormat::RgbaF32Le, &bytes).unwrap();
        assert_eq!((&picture.rgb[..], picture.light), (&[0.0, 0.0, 1.0][..], None));
        assert_eq!(picture.alpha.unwrap()[..], [1.0]);
    }

    #[test]
    fn floats_above_white_come_back_and_whole_numbers_end_there() {
        // What is transparent says nothing of the light.
        let wanted = [0.25, 0.5, 1.5, 1.0, 7.5, 1.0, 0.0, 0.5, 90.0, 0.1, 0.2, 0.0];
        let bytes = floats(&[&wanted[..], &[f32::INFINITY, 0.3, 0.3, 1.0]].concat());
        let picture = Picture::from_pixels((2, 2), PixelFormat::RgbaF32Le, &bytes).unwrap();
        assert!(picture.rgb.iter().all(|value| (0.0..=1.0).contains(value)));
        assert_eq!(picture.bit_depth, 32);
        let rows = |format| PixelRows::new((2, 2), format, picture.light).unwrap();
        let convert =
            |format| rows(format).convert(&picture.rgb, picture.alpha.as_deref()).unwrap();
        let back = read(&convert(PixelFormat::RgbaF32Le));
        for (at, (back, wanted)) in back.iter().zip(wanted).enumerate().take(8) {
            assert!((back - wanted).abs() <= 1e-4 * wanted.max(0.01), "{at}: {back} {wanted}");
        }
        assert!((back[12] - 7.5).abs() < 1e-3 && back[11] == 0.0);
        assert_eq!(convert(PixelFormat::Rgba)[..8], [64, 128, 255, 255, 255, 255, 0, 128]);
    }

    #[test]
    fn sizes_that_cannot_be_are_errors() {
        let of = |size, bytes: &[u8]| Picture::from_pixels(size, PixelFormat::Rgb24, bytes);
        assert!(matches!(of((2, 1), &[0; 5]), Err(ImageError::Shape { .. })));
        assert!(matches!(of((0, 1), &[]), Err(ImageError::ZeroSize { .. })));
        assert!(matches!(of((u32::MAX, u32::MAX), &[]), Err(ImageError::TooLarge { .. })));
    }
}
