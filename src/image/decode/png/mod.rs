//! PNG, row by row, through the `png` crate; an interlaced one, whose rows come seven times, as a whole.

mod chunks;
mod decoder;
mod frames;

use std::io::Seek as _;

use png::{BitDepth, ColorType, DecodingError, InterlaceInfo, Reader, Transformations};

use super::header::{ChannelLayout, Decode, Header, check_size};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::input::read_error;
use crate::image::metadata;
use crate::image::plane::band_rows;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;
use chunks::{PixelChunks, Scan, ScanError};
use decoder::{LIMIT, reason};
use frames::Animation;

struct PngDecoder {
    name: String,
    header: Header,
    file: Source,
    interlaced: bool,
    frames: usize,
    allow_truncated: bool,
}

pub(super) fn open(name: &str, mut file: Source, options: &ReadOptions) -> Result<Box<dyn Decode>> {
    let bad = |reason: &str| ImageError::unreadable(name, Format::Png, reason);
    let scan = chunks::scan(&mut file).map_err(|error| match error {
        ScanError::Apple => ImageError::UnsupportedFormat {
            name: name.to_owned(),
            kind: "an iPhone-optimised PNG (CgBI)",
            hint: "on a Mac, `xcrun pngcrush -revert-iphone-optimizations` makes it a PNG",
        },
        ScanError::Damaged(why) => bad(why),
        ScanError::Io(error) => read_error(name, error),
    })?;
    check_size(name, Format::Png, scan.width.into(), scan.height.into())?;
    let layout = layout(&scan).ok_or_else(|| bad("a kind of pixel that there is not"))?;
    let (metadata, mut warnings) =
        metadata::read(name, Format::Png, &mut file, 0, options.max_metadata)?;
    let is_animation = scan.frames > 1;
    if is_animation && options.picture.is_none() {
        warnings.push(Warning::FirstFrameOnly(Format::Png.into()));
    }
    let bit_depth = if scan.depth == 16 { 16 } else { 8 };
    let pixel_bytes = layout.channels() * usize::from(bit_depth / 8);
    let pixels = u64::from(scan.width) * u64::from(scan.height);
    let header = Header {
        width: scan.width,
        height: scan.height,
        layout,
        bit_depth,
        metadata,
        warnings,
        scratch_bytes: if scan.interlaced { pixels * pixel_bytes as u64 } else { 0 },
    };
    let frames = scan.frames.max(1) as usize;
    if let (true, Some(number)) = (is_animation, options.picture) {
        file.rewind().map_err(|error| read_error(name, error))?;
        return Ok(Box::new(Animation::new(name, header, file, number, frames)));
    }
    let allow_truncated = options.allow_truncated;
    let (name, interlaced) = (name.to_owned(), scan.interlaced);
    Ok(Box::new(PngDecoder { name, header, file, interlaced, frames, allow_truncated }))
}

/// Layout of the decoded samples; `None` for a colour type that there is not.
fn layout(scan: &Scan) -> Option<ChannelLayout> {
    Some(match (scan.colour, scan.has_transparency) {
        (0, false) => ChannelLayout::Grey,
        (0, true) | (4, _) => ChannelLayout::GreyAlpha,
        (2 | 3, false) => ChannelLayout::Rgb,
        (2 | 3, true) | (6, _) => ChannelLayout::Rgba,
        _ => return None,
    })
}

impl Decode for PngDecoder {
    fn header(&self) -> &Header {
        &self.header
    }

    fn pictures(&self) -> usize {
        self.frames
    }

    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let Self { name, header, mut file, interlaced, allow_truncated, .. } = *self;
        let bad =
            |reason: &dyn std::fmt::Display| ImageError::unreadable(&name, Format::Png, reason);
        let whole = chunks::check(&mut file).map_err(|error| read_error(&name, error))?;
        if let (Err(why), false) = (&whole, allow_truncated) {
            return Err(bad(why));
        }
        let file = PixelChunks::new(file).map_err(|error| read_error(&name, error))?;
        let mut decoder = png::Decoder::new_with_limits(file, png::Limits { bytes: LIMIT });
        // Palettes, small depths and tRNS become 8 or 16 bits per sample with a real alpha channel.
        decoder.set_transformations(Transformations::EXPAND);
        let mut reader = decoder.read_info().map_err(|e| bad(&reason(&e)))?;
        if reader.output_color_type() != colour_type(&header) {
            return Err(bad(&"chunks that contradict each other"));
        }
        let decoded = if interlaced {
            interlaced_rows(&mut reader, &header, take)
        } else {
            plain_rows(&mut reader, &header, take)
        };
        let (rows_read, error) = decoded?;
        let rows = header.height;
        match error {
            // The decoder needs no end of the file where all pixels are there.
            None if whole.is_ok() => Ok(Vec::new()),
            Some(error) if !allow_truncated || rows_read.is_none() => Err(bad(&reason(&error))),
            _ => Ok(vec![Warning::Truncated { rows_read: rows_read.unwrap_or(0), rows }]),
        }
    }
}

/// Kind of the decoded samples.
fn colour_type(header: &Header) -> (ColorType, BitDepth) {
    let colour = match header.layout {
        ChannelLayout::Grey => ColorType::Grayscale,
        ChannelLayout::GreyAlpha => ColorType::GrayscaleAlpha,
        ChannelLayout::Rgba => ColorType::Rgba,
        _ => ColorType::Rgb,
    };
    (colour, if header.bit_depth == 16 { BitDepth::Sixteen } else { BitDepth::Eight })
}

/// Whole rows that were read, `None` without a pixel, and what ended them if it was not the end of the picture.
type Outcome = (Option<u32>, Option<DecodingError>);

/// Passes on the rows as they come; where they end early the last one stands for the others.
fn plain_rows(
    reader: &mut Reader<PixelChunks>,
    header: &Header,
    take: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<Outcome> {
    let row_bytes = reader.output_line_size(header.width).unwrap_or(0);
    let band = band_rows(header.width);
    let mut data = vec![0; band.min(header.height as usize) * row_bytes];
    let mut samples = Vec::new();
    let mut error = None;
    let mut rows_read = 0;
    let mut done = 0;
    while done < header.height as usize {
        let rows = band.min(header.height as usize - done);
        for at in 0..rows {
            let (before, row) = data.split_at_mut(at * row_bytes);
            if error.is_none() {
                match reader.read_row(&mut row[..row_bytes]) {
                    Ok(_) => {
                        rows_read += 1;
                        continue;
                    }
                    Err(why) => error = Some(why),
                }
            }
            if rows_read == 0 {
                return Ok((None, error));
            }
            // Of the band before, the last row is still at the end.
            match before.len().checked_sub(row_bytes) {
                Some(last) => row[..row_bytes].copy_from_slice(&before[last..]),
                None => data.copy_within((band - 1) * row_bytes..band * row_bytes, 0),
            }
        }
        to_floats(&data[..rows * row_bytes], header.bit_depth, &mut samples);
        take(&samples)?;
        done += rows;
    }
    if error.is_none() {
        // The checksum of the pixels follows them.
        error = reader.read_row(&mut data).err();
    }
    Ok((Some(rows_read), error))
}

/// Decodes the seven passes, each over the coarser ones before, and passes on the rows.
fn interlaced_rows(
    reader: &mut Reader<PixelChunks>,
    header: &Header,
    take: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<Outcome> {
    let row_bytes = reader.output_line_size(header.width).unwrap_or(0);
    let mut data = vec![0; row_bytes * header.height as usize];
    let bits = (header.layout.channels() * usize::from(header.bit_depth)) as u8;
    let mut row = vec![0; row_bytes];
    let mut passed = 0;
    let error = loop {
        match reader.read_row(&mut row) {
            Err(error) => break Some(error),
            Ok(None) => break None,
            Ok(Some(InterlaceInfo::Adam7(adam7))) => {
                png::splat_interlaced_row(&mut data, row_bytes, &row, &adam7, bits);
                passed += 1;
            }
            Ok(Some(InterlaceInfo::Null(_))) => {}
        }
    };
    if passed == 0 {
        return Ok((None, error));
    }
    let mut samples = Vec::new();
    for data in data.chunks(band_rows(header.width) * row_bytes) {
        to_floats(data, header.bit_depth, &mut samples);
        take(&samples)?;
    }
    Ok((Some(whole_rows(passed, header.width, header.height)), error))
}

/// Rows without a gap after so many rows of the passes. The last pass has every other row of the picture.
fn whole_rows(passed: u32, width: u32, height: u32) -> u32 {
    // First column, first row and rows apart of the passes before the last (PNG, section 8.1).
    let passes = [(0, 0, 8), (4, 0, 8), (0, 4, 8), (2, 0, 4), (0, 2, 4), (1, 0, 2)];
    let of_pass = |&(x, y, step): &(u32, u32, u32)| {
        if x < width { height.saturating_sub(y).div_ceil(step) } else { 0 }
    };
    let before: u32 = passes.iter().map(of_pass).sum();
    passed.checked_sub(before).map_or(0, |last| (2 * last + 1).min(height))
}

/// Samples in [0, 1].
fn to_floats(data: &[u8], bit_depth: u8, samples: &mut Vec<f32>) {
    samples.clear();
    if bit_depth == 16 {
        let wide = data.chunks_exact(2).map(|b| u16::from_be_bytes([b[0], b[1]]));
        samples.extend(wide.map(|v| f32::from(v) / 65535.0));
    } else {
        samples.extend(data.iter().map(|&v| f32::from(v) / 255.0));
    }
}
