//! JPEG. A walk over the Huffman codes says first which rows are really there (see [`walk`]); then `zune-jpeg`
//! decodes, and where that crate gets a kind of JPEG wrong or does not know it, [`render`] does. Metadata comes from the
//! segments before the pixels.

mod entropy;
mod frame;
mod render;
mod walk;

use std::io::Cursor;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use self::entropy::Stop;
use self::frame::{Colour, Frame, Refusal};
use self::render::Render;
use self::walk::{Reach, segment, walk};
use super::check_size;
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::metadata::{self, DEFAULT_MAX_METADATA};
use crate::image::picture::{ChannelLayout, DecodedSamples};

pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<DecodedSamples> {
    let jpeg = Jpeg::open(name, bytes, false)?;
    let (layout, frame) = (jpeg.layout(), jpeg.frame.clone());
    let (metadata, mut warnings) =
        metadata::read(name, Format::Jpeg, &mut Cursor::new(bytes), 0, DEFAULT_MAX_METADATA)?;
    let mut samples = Vec::new();
    warnings.extend(jpeg.rows(&mut |rows| {
        samples.extend_from_slice(rows);
        Ok(())
    })?);
    Ok(DecodedSamples {
        width: frame.width as u32,
        height: frame.height as u32,
        layout,
        samples,
        bit_depth: if frame.precision > 8 { 16 } else { 8 },
        metadata,
        warnings,
    })
}

/// A JPEG whose headers were read.
struct Jpeg<'a> {
    name: String,
    bytes: &'a [u8],
    segments: Vec<(u8, &'a [u8])>,
    frame: Frame,
    colour: Colour,
    /// Components of the first scan.
    first_scan: usize,
    allow_truncated: bool,
}

impl<'a> Jpeg<'a> {
    fn open(name: &str, bytes: &'a [u8], allow_truncated: bool) -> Result<Self> {
        let bad = |reason: &str| ImageError::unreadable(name, Format::Jpeg, reason);
        let (segments, scan) = segments(bytes).ok_or_else(|| bad("truncated before the pixels"))?;
        let (marker, data) = segments
            .iter()
            .find(|(marker, _)| is_frame(*marker))
            .ok_or_else(|| bad("no frame header"))?;
        let frame = Frame::parse(*marker, data).map_err(|why| refused(name, &why))?;
        check_size(name, Format::Jpeg, frame.width as u64, frame.height as u64)?;
        let bits = (bytes.len() - scan) as u64 * 8;
        if bits < frame.least_bits() && !allow_truncated {
            let reason = format!(
                "truncated, {} bytes cannot hold {} x {} pixels",
                bytes.len() - scan,
                frame.width,
                frame.height
            );
            return Err(bad(&reason));
        }
        let has = |marker, prefix: &[u8]| {
            segments.iter().find(|(m, data)| *m == marker && data.starts_with(prefix))
        };
        let adobe = has(0xEE, b"Adobe").and_then(|(_, data)| data.get(11).copied());
        let colour = Colour::of(&frame, has(0xE0, b"JFIF\0").is_some(), adobe);
        let first_scan = usize::from(bytes.get(scan + 2).copied().unwrap_or(0));
        let name = name.to_owned();
        Ok(Self { name, bytes, segments, frame, colour, first_scan, allow_truncated })
    }

    fn layout(&self) -> ChannelLayout {
        match self.colour {
            Colour::Grey => ChannelLayout::Grey,
            Colour::YCbCr | Colour::Rgb => ChannelLayout::Rgb,
            Colour::Cmyk | Colour::Ycck => ChannelLayout::Cmyk,
        }
    }

    /// Pixels from top to bottom, some rows a call.
    fn rows(self, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let reach = if self.frame.progressive {
            walk::<u64>(self.bytes, &self.frame).map(|(reach, _)| reach)
        } else {
            walk::<()>(self.bytes, &self.frame).map(|(reach, _)| reach)
        }
        .map_err(|why| refused(&self.name, &why))?;
        let height = self.frame.height;
        let whole = reach.complete || reach.end && reach.stop.is_none() && reach.rows == height;
        if !whole {
            return self.part(&reach, take);
        }
        let mut warnings = Vec::new();
        if !reach.end {
            warnings.push(Warning::EndMissing(Format::Jpeg));
        }
        match self.fast(&reach) {
            Some(data) => {
                let channels = self.frame.components.len();
                let inks = self.colour == Colour::Cmyk;
                for rows in data.chunks(self.frame.width * channels * 16) {
                    let samples = rows.iter().map(|&v| f32::from(v) / 255.0);
                    let samples: Vec<f32> =
                        if inks { samples.map(|v| 1.0 - v).collect() } else { samples.collect() };
                    take(&samples)?;
                }
            }
            None => {
                self.render(height, take)?;
            }
        }
        Ok(warnings)
    }

    /// The rows that are there, and the last of them again in place of the others.
    fn part(
        self,
        reach: &Reach,
        take: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<Vec<Warning>> {
        let height = self.frame.height;
        let what = match reach.stop {
            Some(Stop::Damaged) => "damaged pixels",
            _ => "truncated",
        };
        if !self.allow_truncated || reach.rows == 0 {
            let reason = if reach.rows == height {
                format!("{what}, the pixels lack their detail")
            } else {
                format!("{what}, {} of {height} rows are there", reach.rows)
            };
            return Err(ImageError::unreadable(&self.name, Format::Jpeg, reason));
        }
        let last = self.render(reach.rows, take)?;
        for _ in reach.rows..height {
            take(&last)?;
        }
        Ok(vec![if reach.rows == height {
            Warning::DetailMissing(Format::Jpeg)
        } else {
            Warning::Truncated { rows_read: reach.rows as u32, rows: height as u32 }
        }])
    }

    /// The first `rows` rows by the careful decoder; returns the last one.
    fn render(&self, rows: usize, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<f32>> {
        let (_, coefficients) =
            walk(self.bytes, &self.frame).map_err(|why| refused(&self.name, &why))?;
        let mut last = Vec::new();
        Render::new(&self.frame, &coefficients, self.colour).rows(rows, &mut |row| {
            last.clear();
            last.extend_from_slice(row);
            take(row)
        })?;
        Ok(last)
    }

    /// The fast decoder's pixels; `None` where it is known to be wrong or says that it cannot.
    fn fast(&self, reach: &Reach) -> Option<Vec<u8>> {
        let plain = |c: usize| self.frame.components[c].h == 1 && self.frame.components[c].v == 1;
        let (space, sampling) = match self.colour {
            Colour::Grey => (ColorSpace::Luma, true),
            Colour::YCbCr => {
                let luma = &self.frame.components[0];
                (ColorSpace::YCbCr, luma.h <= 2 && luma.v <= 2 && plain(1) && plain(2))
            }
            Colour::Rgb => (ColorSpace::RGB, (0..3).all(plain)),
            Colour::Cmyk => (ColorSpace::CMYK, (0..4).all(plain)),
            Colour::Ycck => return None,
        };
        let scans = self.frame.progressive || reach.scans == 1;
        if self.frame.precision != 8 || !sampling || !scans || !reach.end {
            return None;
        }
        let data = match pixels(self.bytes, space, true) {
            // Strictness is wanted for pixels; padding between headers harms nobody.
            Err(DecodeErrors::FormatStatic(why)) if why.contains("Extra bytes between headers") => {
                pixels(self.bytes, space, false)
            }
            result => result,
        }
        .ok()??;
        let samples = self.frame.width * self.frame.height * self.frame.components.len();
        (data.len() == samples).then_some(data)
    }
}

/// Grey, RGB or stored CMYK of a JPEG; `None` if the decoder takes it for another colour space than `space`.
fn pixels(
    bytes: &[u8],
    space: ColorSpace,
    strict: bool,
) -> std::result::Result<Option<Vec<u8>>, DecodeErrors> {
    let options = DecoderOptions::default()
        .set_strict_mode(strict)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers()?;
    if decoder.input_colorspace() != Some(space) {
        return Ok(None);
    }
    let wanted = if space == ColorSpace::YCbCr { ColorSpace::RGB } else { space };
    decoder.set_options(options.jpeg_set_out_colorspace(wanted));
    decoder.decode().map(Some)
}

fn refused(name: &str, why: &Refusal) -> ImageError {
    match why {
        Refusal::Damaged(reason) => ImageError::unreadable(name, Format::Jpeg, reason),
        Refusal::Unsupported { kind, help } => ImageError::unsupported(name, kind, help),
    }
}

/// Start-of-frame markers; the three in between are tables.
fn is_frame(marker: u8) -> bool {
    (0xC0..=0xCF).contains(&marker) && ![0xC4, 0xC8, 0xCC].contains(&marker)
}

/// Marker and contents of each segment before the first scan, and the place of that scan's length; `None` if the
/// bytes end before it.
fn segments(bytes: &[u8]) -> Option<(Vec<(u8, &[u8])>, usize)> {
    let mut segments = Vec::new();
    let mut at = 2;
    loop {
        // Fill bytes, and the stray ones some cameras leave, may precede a marker.
        while *bytes.get(at)? != 0xFF {
            at += 1;
        }
        while *bytes.get(at)? == 0xFF {
            at += 1;
        }
        let marker = bytes[at];
        at += 1;
        match marker {
            0x00 | 0x01 | 0xD0..=0xD8 => continue,
            0xD9 => return None,
            0xDA => return Some((segments, at)),
            _ => {}
        }
        let data = segment(bytes, at)?;
        segments.push((marker, data));
        at += 2 + data.len();
    }
}
