//! WebP, lossy or lossless, through `image-webp`, which decodes a picture as a whole. Of an animation the first frame
//! is read.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use image_webp::WebPDecoder;

use super::animation;
use super::header::{ChannelLayout, Decode, Header, check_size, from_u8};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::input::read_error;
use crate::image::metadata;
use crate::image::plane::band_rows;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

/// Place of the first chunk.
const CHUNKS: u64 = 12;
/// Bytes of padding while only the header is read.
const HEADER_PADDING: u64 = 1 << 16;

/// Bytes that may stand for missing ones: to the codes of a lossless stream some of them mean what cannot be.
const FILLS: [u8; 6] = [0, 0xFF, 0x55, 0xAA, 0x33, 0x96];

struct WebPFile {
    name: String,
    header: Header,
    file: Source,
    frames: usize,
    is_truncated: bool,
    is_lossy: bool,
}

pub(super) fn open(name: &str, mut file: Source, options: &ReadOptions) -> Result<Box<dyn Decode>> {
    let bad = |reason: &dyn std::fmt::Display| ImageError::unreadable(name, Format::WebP, reason);
    let length = file.byte_len().map_err(|error| read_error(name, error))?;
    // The decoder is lenient with lossy pictures that end early; the container says how long it is.
    let mut stated = [0; 8];
    file.read_exact(&mut stated).map_err(|_| bad(&"truncated"))?;
    let [_, _, _, _, a, b, c, d] = stated;
    let is_truncated = length < u64::from(u32::from_le_bytes([a, b, c, d])) + 8;
    if is_truncated && !options.allow_truncated {
        return Err(bad(&"truncated"));
    }
    if !is_truncated {
        check_chunks(&mut file, length)
            .map_err(|error| read_error(name, error))?
            .map_err(|why| bad(&why))?;
    }
    let padding = if is_truncated { HEADER_PADDING } else { 0 };
    let mut padded = Padded::new(&mut file, padding, 0).map_err(|error| read_error(name, error))?;
    let mut decoder = WebPDecoder::new(&mut padded).map_err(|e| bad(&reason(&e)))?;
    let (width, height) = decoder.dimensions();
    let (has_alpha, is_animated) = (decoder.has_alpha(), decoder.is_animated());
    let is_lossy = decoder.is_lossy();
    let frames = decoder.num_frames().max(1) as usize;
    check_size(name, Format::WebP, width.into(), height.into())?;
    let (metadata, mut warnings) =
        metadata::read(name, Format::WebP, &mut file, 0, options.max_metadata)?;
    if is_animated && options.picture.is_none() {
        warnings.push(Warning::FirstFrameOnly(Format::WebP.into()));
    }
    // The samples, the planes of a lossy frame or the four channels of a lossless one, and a canvas of an animation.
    let of_pixel = if has_alpha { 4 + 6 } else { 3 + 4 } + if is_animated { 8 } else { 0 };
    let twice = if is_truncated { 4 } else { 0 };
    let header = Header {
        width,
        height,
        layout: if has_alpha { ChannelLayout::Rgba } else { ChannelLayout::Rgb },
        bit_depth: 8,
        metadata,
        warnings,
        scratch_bytes: u64::from(width) * u64::from(height) * (of_pixel + twice) + length,
    };
    if is_animated && !is_truncated && options.picture.is_some() {
        let kind = Format::WebP.into();
        file.rewind().map_err(|error| read_error(name, error))?;
        return Ok(animation::frame((name, kind), file, header, frames, options));
    }
    Ok(Box::new(WebPFile { name: name.to_owned(), header, file, frames, is_truncated, is_lossy }))
}

/// Holds every chunk to the file's length: the decoder takes what is there of one that claims more.
fn check_chunks(file: &mut Source, length: u64) -> io::Result<std::result::Result<(), String>> {
    let mut at = CHUNKS;
    while at + 8 <= length {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 8];
        file.read_exact(&mut head)?;
        let [a, b, c, d, size @ ..] = head;
        let size = u64::from(u32::from_le_bytes(size));
        if at + 8 + size > length {
            let name = String::from_utf8_lossy(&[a, b, c, d]).trim().to_owned();
            return Ok(Err(format!("the chunk {name} is longer than the file")));
        }
        at += 8 + size + size % 2;
    }
    file.rewind()?;
    Ok(Ok(()))
}

impl Decode for WebPFile {
    fn header(&self) -> &Header {
        &self.header
    }

    fn pictures(&self) -> usize {
        self.frames
    }

    fn rows(
        mut self: Box<Self>,
        take: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<Vec<Warning>> {
        let Header { width, height, layout, .. } = self.header;
        let row_bytes = width as usize * layout.channels();
        let mut warnings = Vec::new();
        let mut fills = FILLS.iter();
        let mut data = self.samples(&mut fills)?;
        if self.is_truncated {
            let rows_read = self.rows_read(&data, &mut fills, row_bytes)?;
            if rows_read == 0 {
                let why = "truncated before the first rows";
                return Err(ImageError::unreadable(&self.name, Format::WebP, why));
            }
            // The last row stands for the others.
            let last = (rows_read - 1) * row_bytes..rows_read * row_bytes;
            for row in rows_read..height as usize {
                data.copy_within(last.clone(), row * row_bytes);
            }
            warnings.push(Warning::Truncated { rows_read: rows_read as u32, rows: height });
        }
        for band in data.chunks(band_rows(width) * row_bytes) {
            take(&from_u8(band))?;
        }
        Ok(warnings)
    }
}

impl WebPFile {
    /// All samples; what the file lacks is taken for the first of these bytes with which it can be decoded.
    fn samples(&mut self, fills: &mut std::slice::Iter<'_, u8>) -> Result<Vec<u8>> {
        let mut result = self.filled(fills.next().copied().unwrap_or_default());
        while self.is_truncated && result.is_err() {
            let Some(&fill) = fills.next() else { break };
            result = self.filled(fill);
        }
        result
    }

    /// All samples; what the file lacks is taken for so many bytes `fill`.
    fn filled(&mut self, fill: u8) -> Result<Vec<u8>> {
        let Header { width, height, .. } = self.header;
        let name = &self.name;
        let bad =
            |reason: &dyn std::fmt::Display| ImageError::unreadable(name, Format::WebP, reason);
        let pixels = u64::from(width) * u64::from(height);
        let padding = if self.is_truncated { 4 * pixels + HEADER_PADDING } else { 0 };
        let padded = Padded::new(&mut self.file, padding, fill);
        let padded = padded.map_err(|error| read_error(name, error))?;
        let mut decoder = WebPDecoder::new(padded).map_err(|e| bad(&reason(&e)))?;
        let length = decoder.output_buffer_size().ok_or_else(|| bad(&"too large"))?;
        let mut data = vec![0; length];
        if decoder.is_animated() {
            decoder.read_frame(&mut data).map_err(|e| bad(&reason(&e)))?;
        } else {
            decoder.read_image(&mut data).map_err(|e| bad(&reason(&e)))?;
        }
        Ok(data)
    }

    /// Rows of a truncated picture that do not depend on what is missing: the decoder does not tell, but with other
    /// bytes in place of the missing ones only those come out the same.
    fn rows_read(
        &mut self,
        data: &[u8],
        fills: &mut std::slice::Iter<'_, u8>,
        row_bytes: usize,
    ) -> Result<usize> {
        let other = self.samples(fills)?;
        let rows = data.chunks_exact(row_bytes).zip(other.chunks_exact(row_bytes));
        let same = rows.take_while(|(row, other)| row == other).count();
        // Lossy pictures come in rows of blocks of 16, and the filter between them changes three rows of the one above.
        Ok(if self.is_lossy && same < self.header.height as usize {
            ((same + 3) / 16 * 16).saturating_sub(3)
        } else {
            same
        })
    }
}

/// A file, continued by a number of equal bytes past its end.
struct Padded<'a> {
    file: &'a mut Source,
    /// Bytes of the file itself.
    length: u64,
    /// Bytes with the padding.
    end: u64,
    at: u64,
    fill: [u8; 1024],
    /// The byte of flags in the extended header of a truncated file, without those that announce metadata: the chunks
    /// may be missing, and they are read elsewhere.
    flags: Option<[u8; 1]>,
}

/// Place of the flags of an extended header, and those of EXIF and XMP. Source: RFC 9649, section 2.7.
const FLAGS: u64 = 20;
const METADATA_FLAGS: u8 = 0x0C;

impl<'a> Padded<'a> {
    fn new(file: &'a mut Source, padding: u64, fill: u8) -> io::Result<Self> {
        let length = file.byte_len()?;
        let mut flags = None;
        if padding > 0 && length > FLAGS {
            let mut head = [0; FLAGS as usize + 1];
            file.rewind()?;
            file.read_exact(&mut head)?;
            if head[12..16] == *b"VP8X" {
                flags = Some([head[FLAGS as usize] & !METADATA_FLAGS]);
            }
        }
        file.rewind()?;
        Ok(Self { file, length, end: length + padding, at: 0, fill: [fill; 1024], flags })
    }
}

impl Read for Padded<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?;
        let count = read.len().min(out.len());
        out[..count].copy_from_slice(&read[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Padded<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let mut most = self.end - self.at.min(self.end);
        if let Some(flags) = &self.flags {
            match self.at {
                FLAGS => return Ok(flags),
                ..FLAGS => most = most.min(FLAGS - self.at),
                _ => {}
            }
        }
        let read = if self.at < self.length { self.file.fill_buf()? } else { &self.fill };
        Ok(&read[..(read.len() as u64).min(most) as usize])
    }

    fn consume(&mut self, count: usize) {
        if self.at < self.length {
            self.file.consume(count);
        }
        self.at += count as u64;
    }
}

impl Seek for Padded<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
        };
        let place = place.ok_or(io::ErrorKind::InvalidInput)?;
        if place != self.at {
            let (from, to) = (self.at.min(self.length), place.min(self.length));
            self.file.seek_relative(to as i64 - from as i64)?;
            self.at = place;
        }
        Ok(place)
    }
}

/// The decoder's message; a file that ends is told in our words.
fn reason(error: &image_webp::DecodingError) -> String {
    match error {
        image_webp::DecodingError::IoError(error)
            if error.kind() == io::ErrorKind::UnexpectedEof =>
        {
            "truncated".to_owned()
        }
        other => other.to_string(),
    }
}
