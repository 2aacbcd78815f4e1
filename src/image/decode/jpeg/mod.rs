//! JPEG. A walk over the Huffman codes says first which rows are really there (see [`walk`]); then `zune-jpeg`
//! decodes, and where that crate gets a kind of JPEG wrong or does not know it, [`render`] does. Metadata comes from the
//! segments before the pixels.

mod entropy;
mod frame;
mod render;
mod walk;

use std::io::{self, BufRead, Cursor, Seek};

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use self::entropy::Stop;
use self::frame::{Colour, Frame, Refusal};
use self::render::Render;
use self::walk::{Reach, walk};
use super::header::{ChannelLayout, Decode, Header, check_size};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::input::read_error;
use crate::image::metadata::{self, jpeg::byte, jpeg::walk as walk_segments};
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

pub(super) fn open(
    name: &str,
    mut source: Source,
    options: &ReadOptions,
) -> Result<Box<dyn Decode>> {
    let (metadata, warnings) =
        metadata::read(name, Format::Jpeg, &mut source, 0, options.max_metadata)?;
    let bad = |reason: &str| ImageError::unreadable(name, Format::Jpeg, reason);
    let length = source.byte_len().map_err(|source| read_error(name, source))?;
    let headers = Headers::read(&mut source)
        .map_err(|source| read_error(name, source))?
        .map_err(|why| refused(name, &why))?;
    let frame = &headers.frame;
    check_size(name, Format::Jpeg, frame.width as u64, frame.height as u64)?;
    let rest = length.saturating_sub(headers.scan);
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
        scratch_bytes: length.saturating_add(headers.decoded_bytes()),
    };
    let (name, allow_truncated) = (name.to_owned(), options.allow_truncated);
    Ok(Box::new(Opened { name, source, headers, header, allow_truncated }))
}

/// A JPEG whose headers were read. The decoders need the whole file in memory: it is read with the pixels, when what it
/// takes is known.
struct Opened {
    name: String,
    source: Source,
    headers: Headers,
    header: Header,
    allow_truncated: bool,
}

impl Decode for Opened {
    fn header(&self) -> &Header {
        &self.header
    }

    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let Self { name, source, headers: Headers { frame, colour, .. }, allow_truncated, .. } =
            *self;
        let bytes = source.into_bytes().map_err(|source| read_error(&name, source))?;
        Jpeg { name: &name, bytes: &bytes, frame, colour, allow_truncated }.rows(take)
    }
}

/// What the segments before the first scan say.
struct Headers {
    frame: Frame,
    colour: Colour,
    /// Place of the first scan's header.
    scan: u64,
    /// Components of the first scan.
    scan_components: usize,
}

impl Headers {
    /// Reads the segments of a file one by one: there may be any number of them, and few are needed.
    fn read<F: BufRead + Seek>(file: &mut F) -> io::Result<std::result::Result<Self, Refusal>> {
        let mut found = Segments::default();
        match found.read(file) {
            Ok((scan, scan_components)) => Ok(found.headers(scan, scan_components)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Ok(Err(Refusal::Damaged("truncated before the pixels")))
            }
            Err(error) => Err(error),
        }
    }

    /// Bytes that a decoder holds: samples, and coefficients where they come in several scans. The careful decoder
    /// holds the coefficients alone.
    fn decoded_bytes(&self) -> u64 {
        let components = self.frame.components.len();
        let stored = |c| {
            let (across, down) = self.frame.stored_blocks(c);
            (across * down * 64) as u64
        };
        let stored: u64 = (0..components).map(stored).sum();
        let samples = (self.frame.width * self.frame.height * components) as u64;
        let several = self.frame.progressive || self.scan_components < components;
        if several { samples + 2 * stored } else { samples.max(2 * stored) }
    }
}

/// What is kept of the segments before the first scan.
#[derive(Default)]
struct Segments {
    /// Marker and contents of the first frame header.
    frame: Option<(u8, Vec<u8>)>,
    jfif: bool,
    /// Adobe's number of the colour transform; within, `None` for a segment that is too short for one.
    adobe: Option<Option<u8>>,
}

impl Segments {
    /// Reads up to the first scan; returns the place of its length and the number of its components.
    fn read<F: BufRead + Seek>(&mut self, file: &mut F) -> io::Result<(u64, usize)> {
        let end = walk_segments(file, |marker, data| {
            match marker {
                0xE0 => self.jfif |= data.starts_with(b"JFIF\0"),
                0xEE if self.adobe.is_none() && data.starts_with(b"Adobe") => {
                    self.adobe = Some(data.get(11).copied());
                }
                marker if is_frame(marker) && self.frame.is_none() => {
                    self.frame = Some((marker, data.to_vec()));
                }
                _ => {}
            }
            true
        })?;
        if end != Some(0xDA) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = file.stream_position()?;
        file.read_exact(&mut [0; 2])?;
        // A count that is missing is none: the walk says what is wrong with the scan.
        Ok((start, byte(file).unwrap_or(0).into()))
    }

    fn headers(self, scan: u64, scan_components: usize) -> std::result::Result<Headers, Refusal> {
        let (marker, data) = self.frame.ok_or(Refusal::Damaged("no frame header"))?;
        let frame = Frame::parse(marker, &data)?;
        let colour = Colour::of(&frame, self.jfif, self.adobe.flatten());
        Ok(Headers { frame, colour, scan, scan_components })
    }
}

/// Samples of a strip or a tile of a TIFF.
pub(super) struct Chunk {
    pub width: usize,
    pub channels: usize,
    /// Rows of interleaved samples of 8 bits.
    pub data: Vec<u8>,
}

/// Decodes a chunk of a TIFF, of the size `most`, whose tables may stand elsewhere. Channels are given as they are stored,
/// or, from `ycbcr`, as RGB: the TIFF says what they are, whatever the JPEG says.
///
/// # Errors
/// One line that says what is wrong with it.
pub(super) fn tiff_chunk(
    tables: &[u8],
    chunk: &[u8],
    most: (usize, usize),
    ycbcr: bool,
) -> std::result::Result<Chunk, String> {
    let mut bytes = tables.strip_suffix(b"\xff\xd9").unwrap_or(tables).to_vec();
    bytes.extend_from_slice(if bytes.is_empty() { chunk } else { chunk.get(2..).unwrap_or(&[]) });
    let headers = Headers::read(&mut Cursor::new(&bytes)).map_err(|error| error.to_string())?;
    let headers = headers.map_err(|why| why.to_string())?;
    let frame = headers.frame;
    let (width, channels) = (frame.width, frame.components.len());
    if frame.precision != 8 || width * frame.height == 0 || ycbcr && channels != 3 {
        return Err("a JPEG of another kind than its TIFF".to_owned());
    }
    // Some writers fill up the last units. Beyond them, memory would be taken that nobody has counted.
    let (across, down) = frame.units_of(most);
    if width > across || frame.height > down {
        return Err("a strip or tile of another size".to_owned());
    }
    let rest = (bytes.len() as u64).saturating_sub(headers.scan);
    if rest * 8 < frame.least_bits() {
        return Err("truncated".to_owned());
    }
    let colour = if ycbcr { Colour::YCbCr } else { Colour::Stored };
    let jpeg = Jpeg { name: "", bytes: &bytes, frame, colour, allow_truncated: false };
    let mut data = Vec::with_capacity(width * jpeg.frame.height * channels);
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
            Warning::DetailMissing(Format::Jpeg.into())
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    fn segment(marker: u8, data: &[u8]) -> Vec<u8> {
        [&[0xFF, marker][..], &(data.len() as u16 + 2).to_be_bytes(), data].concat()
    }

    /// Headers of a picture of 8 x 8 pixels in three channels, up to its first scan; luma is sampled `luma` times.
    fn head(luma: u8) -> Vec<u8> {
        let parts = [1, luma, 0, 2, 0x11, 0, 3, 0x11, 0];
        let frame = segment(0xC0, &[&[8, 0, 8, 0, 8, 3][..], &parts].concat());
        let scan = segment(0xDA, &[3, 1, 0, 2, 0, 3, 0, 0, 63, 0]);
        [vec![0xFF, 0xD8], frame, scan].concat()
    }

    /// Whoever has the header can refuse what the rest would take.
    #[test]
    fn a_file_is_not_read_before_its_pixels() {
        let length = 1 << 40;
        let mut file: File = tempfile::tempfile().unwrap();
        file.write_all(&head(0x11)).unwrap();
        file.set_len(length).unwrap();
        let opened = open("large.jpg", Source::file(file), &ReadOptions::default()).unwrap();
        assert!(opened.header().scratch_bytes > length);
    }

    #[test]
    fn coefficients_are_counted_wherever_the_careful_decoder_may_be_needed() {
        for (luma, stored) in [(0x11, 3 * 64), (0x41, 6 * 64)] {
            let read = Headers::read(&mut Cursor::new(head(luma))).unwrap().unwrap();
            assert_eq!(read.decoded_bytes(), 2 * stored, "{luma:x}");
        }
    }

    #[test]
    fn a_chunk_may_fill_up_its_last_units_and_no_more() {
        let refused = |most| {
            let error = tiff_chunk(&[], &head(0x11), most, true).map(drop).unwrap_err();
            error == "a strip or tile of another size"
        };
        assert!(refused((7, 0)) && refused((0, 7)));
        assert!(!refused((7, 1)) && !refused((16, 8)));
    }
}
