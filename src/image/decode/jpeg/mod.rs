//! JPEG. A walk over the Huffman codes says first which rows are really there (see [`walk`]); then `zune-jpeg`
//! decodes, and where that crate gets a kind of JPEG wrong or does not know it, [`render`] does. Metadata comes from the
//! segments before the pixels.

mod entropy;
mod frame;
mod render;
mod walk;

use std::sync::Arc;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use self::entropy::Stop;
use self::frame::{Colour, Frame, Refusal};
use self::render::Render;
use self::walk::{Reach, segment, walk};
use super::header::{ChannelLayout, Decode, Header, check_size};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::input::read_error;
use crate::image::metadata;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

pub(super) fn open(
    name: &str,
    mut source: Source,
    options: &ReadOptions,
) -> Result<Box<dyn Decode>> {
    let (metadata, warnings) =
        metadata::read(name, Format::Jpeg, &mut source, 0, options.max_metadata)?;
    let bytes = source.into_bytes().map_err(|source| read_error(name, source))?;
    let bad = |reason: &str| ImageError::unreadable(name, Format::Jpeg, reason);
    let headers = Headers::read(&bytes).map_err(|why| refused(name, &why))?;
    let (frame, scan) = (&headers.frame, headers.scan);
    check_size(name, Format::Jpeg, frame.width as u64, frame.height as u64)?;
    let rest = (bytes.len() - scan) as u64;
    if rest * 8 < frame.least_bits() && !options.allow_truncated {
        let (width, height) = (frame.width, frame.height);
        let reason = format!("truncated, {rest} bytes cannot hold {width} x {height} pixels");
        return Err(bad(&reason));
    }
    let header = Header {
        width: frame.width as u32,
        height: frame.height as u32,
        layout: match headers.colour {
            Colour::Cmyk | Colour::Ycck => ChannelLayout::Cmyk,
            Colour::Grey => ChannelLayout::Grey,
            Colour::YCbCr | Colour::Rgb | Colour::Stored => ChannelLayout::Rgb,
        },
        bit_depth: if frame.precision > 8 { 16 } else { 8 },
        metadata,
        warnings,
        scratch_bytes: bytes.len() as u64 + headers.decoded_bytes(),
    };
    let (name, allow_truncated) = (name.to_owned(), options.allow_truncated);
    Ok(Box::new(Opened { name, bytes, headers, header, allow_truncated }))
}

/// A JPEG whose headers were read.
struct Opened {
    name: String,
    bytes: Arc<[u8]>,
    headers: Headers,
    header: Header,
    allow_truncated: bool,
}

impl Decode for Opened {
    fn header(&self) -> &Header {
        &self.header
    }

    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let Self { name, bytes, headers: Headers { frame, colour, .. }, allow_truncated, .. } =
            *self;
        Jpeg { name: &name, bytes: &bytes, frame, colour, allow_truncated }.rows(take)
    }
}

/// What the segments before the first scan say.
struct Headers {
    frame: Frame,
    colour: Colour,
    /// Place of the first scan's header.
    scan: usize,
    /// Components of the first scan.
    scan_components: usize,
}

impl Headers {
    fn read(bytes: &[u8]) -> std::result::Result<Self, Refusal> {
        let (segments, scan) =
            segments(bytes).ok_or(Refusal::Damaged("truncated before the pixels"))?;
        let frame = segments.iter().find(|(marker, _)| is_frame(*marker));
        let (marker, data) = frame.ok_or(Refusal::Damaged("no frame header"))?;
        let frame = Frame::parse(*marker, data)?;
        let has = |marker, prefix: &[u8]| {
            segments.iter().find(|(m, data)| *m == marker && data.starts_with(prefix))
        };
        let adobe = has(0xEE, b"Adobe").and_then(|(_, data)| data.get(11).copied());
        let colour = Colour::of(&frame, has(0xE0, b"JFIF\0").is_some(), adobe);
        let scan_components = bytes.get(scan + 2).copied().unwrap_or(0).into();
        Ok(Self { frame, colour, scan, scan_components })
    }

    /// Bytes that a decoder holds: samples, and coefficients where they come in several scans.
    fn decoded_bytes(&self) -> u64 {
        let components = self.frame.components.len();
        let stored = |c| {
            let (across, down) = self.frame.stored_blocks(c);
            (across * down * 64) as u64
        };
        let stored: u64 = (0..components).map(stored).sum();
        let samples = (self.frame.width * self.frame.height * components) as u64;
        let several = self.frame.progressive || self.scan_components < components;
        samples + if several || self.colour == Colour::Ycck { 2 * stored } else { 0 }
    }
}

/// Samples of a strip or a tile of a TIFF.
pub(super) struct Chunk {
    pub width: usize,
    pub channels: usize,
    /// Rows of interleaved samples of 8 bits.
    pub data: Vec<u8>,
}

/// Decodes a chunk of a TIFF whose tables may stand elsewhere. Channels are given as they are stored, or, from `ycbcr`,
/// as RGB: the TIFF says what they are, whatever the JPEG says.
///
/// # Errors
/// One line that says what is wrong with it.
pub(super) fn tiff_chunk(
    tables: &[u8],
    chunk: &[u8],
    ycbcr: bool,
) -> std::result::Result<Chunk, String> {
    let mut bytes = tables.strip_suffix(b"\xff\xd9").unwrap_or(tables).to_vec();
    bytes.extend_from_slice(if bytes.is_empty() { chunk } else { chunk.get(2..).unwrap_or(&[]) });
    let headers = Headers::read(&bytes).map_err(|why| why.to_string())?;
    let frame = headers.frame;
    let (width, channels) = (frame.width, frame.components.len());
    if frame.precision != 8 || width * frame.height == 0 || ycbcr && channels != 3 {
        return Err("a JPEG of another kind than its TIFF".to_owned());
    }
    let rest = (bytes.len() - headers.scan) as u64;
    if rest * 8 < frame.least_bits() {
        return Err("truncated".to_owned());
    }
    let colour = if ycbcr { Colour::YCbCr } else { Colour::Stored };
    let jpeg = Jpeg { name: "", bytes: &bytes, frame, colour, allow_truncated: false };
    let mut data = Vec::new();
    let mut take = |rows: &[f32]| {
        data.extend(rows.iter().map(|v| (v * 255.0).round() as u8));
        Ok(())
    };
    jpeg.rows(&mut take).map_err(|error| error.to_string())?;
    Ok(Chunk { width, channels, data })
}

/// The pixels of a JPEG.
struct Jpeg<'a> {
    name: &'a str,
    bytes: &'a [u8],
    frame: Frame,
    colour: Colour,
    allow_truncated: bool,
}

impl Jpeg<'_> {
    /// Pixels from top to bottom, some rows a call.
    fn rows(self, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let reach = if self.frame.progressive {
            walk::<u64>(self.bytes, &self.frame).map(|(reach, _)| reach)
        } else {
            walk::<()>(self.bytes, &self.frame).map(|(reach, _)| reach)
        }
        .map_err(|why| refused(self.name, &why))?;
        let height = self.frame.height;
        let whole = reach.complete || reach.end && reach.stop.is_none() && reach.rows == height;
        if !whole {
            return self.part(&reach, take);
        }
        let mut warnings = Vec::new();
        if !reach.end {
            // Only the end marker is missing.
            warnings.push(Warning::Truncated { rows_read: height as u32, rows: height as u32 });
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
        mut self,
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
            return Err(ImageError::unreadable(self.name, Format::Jpeg, reason));
        }
        // Room is made for what is there.
        self.frame.height = reach.rows;
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
            walk(self.bytes, &self.frame).map_err(|why| refused(self.name, &why))?;
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
        let all_plain = (0..self.frame.components.len()).all(plain);
        let luma = &self.frame.components[0];
        let (space, wanted, sampling) = match (self.colour, self.frame.components.len()) {
            (Colour::YCbCr, _) => {
                let usual = luma.h <= 2 && luma.v <= 2 && plain(1) && plain(2);
                (ColorSpace::YCbCr, ColorSpace::RGB, usual)
            }
            (Colour::Rgb, _) => (ColorSpace::RGB, ColorSpace::RGB, all_plain),
            (Colour::Cmyk, _) | (Colour::Stored, 4) => {
                (ColorSpace::CMYK, ColorSpace::CMYK, all_plain)
            }
            (Colour::Stored, 3) => (ColorSpace::YCbCr, ColorSpace::YCbCr, all_plain),
            (Colour::Grey | Colour::Stored, _) => (ColorSpace::Luma, ColorSpace::Luma, true),
            (Colour::Ycck, _) => return None,
        };
        let scans = self.frame.progressive || reach.scans == 1;
        if self.frame.precision != 8 || !sampling || !scans || !reach.end {
            return None;
        }
        let data = match pixels(self.bytes, (space, wanted), true) {
            // Strictness is wanted for pixels; padding between headers harms nobody.
            Err(DecodeErrors::FormatStatic(why)) if why.contains("Extra bytes between headers") => {
                pixels(self.bytes, (space, wanted), false)
            }
            result => result,
        }
        .ok()??;
        let samples = self.frame.width * self.frame.height * self.frame.components.len();
        (data.len() == samples).then_some(data)
    }
}

/// Samples of a JPEG in the `wanted` colour space; `None` if the decoder takes what is stored for another than `space`.
fn pixels(
    bytes: &[u8],
    (space, wanted): (ColorSpace, ColorSpace),
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

/// Marker and contents of a segment.
type Segment<'a> = (u8, &'a [u8]);

/// Each segment before the first scan, and the place of that scan's length; `None` if the
/// bytes end before it.
fn segments(bytes: &[u8]) -> Option<(Vec<Segment<'_>>, usize)> {
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
