//! JPEG through `zune-jpeg`, strict about damage: that decoder by default paints what is missing grey.
//! A file without its end marker is refused before; pixels lost from the middle of a file that still
//! has one are found only where the Huffman codes become invalid, as in libjpeg. Metadata comes from a walk over the
//! segments.

use std::io::Cursor;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::header::{ChannelLayout, Decode, check_size, from_u8};
use super::whole::DecodedSamples;
use crate::image::error::{ImageError, Result};
use crate::image::format::Format;
use crate::image::input::read_error;
use crate::image::metadata;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

pub(super) fn open(name: &str, source: Source, options: &ReadOptions) -> Result<Box<dyn Decode>> {
    let bytes = source.into_bytes().map_err(|source| read_error(name, source))?;
    decode(name, &bytes, options).map(DecodedSamples::into_decoder)
}

fn decode(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<DecodedSamples> {
    let bad = |reason: &dyn std::fmt::Display| ImageError::unreadable(name, Format::Jpeg, reason);
    let (width, height) = frame_size(bytes).ok_or_else(|| bad(&"truncated before the pixels"))?;
    check_size(name, Format::Jpeg, width.into(), height.into())?;
    if !has_end(bytes) {
        return Err(bad(&"truncated, the end is missing"));
    }

    let (data, space) = match pixels(bytes, true) {
        // Strictness is wanted for pixels; padding between headers harms nobody.
        Err(DecodeErrors::FormatStatic(why)) if why.contains("Extra bytes between headers") => {
            pixels(bytes, false)
        }
        result => result,
    }
    .map_err(|e| bad(&reason(&e)))?;

    let (layout, samples) = match space {
        ColorSpace::Luma => (ChannelLayout::Grey, from_u8(&data)),
        ColorSpace::CMYK => (ChannelLayout::Cmyk, inks(&data)),
        ColorSpace::YCCK => (ChannelLayout::Cmyk, inks(&ycck_to_cmyk(data))),
        _ => (ChannelLayout::Rgb, from_u8(&data)),
    };
    if samples.len() != usize::from(width) * usize::from(height) * layout.channels() {
        return Err(bad(&"the pixels do not fill the stated size"));
    }
    let (metadata, warnings) =
        metadata::read(name, Format::Jpeg, &mut Cursor::new(bytes), 0, options.max_metadata)?;
    Ok(DecodedSamples {
        width: width.into(),
        height: height.into(),
        layout,
        samples,
        bit_depth: 8,
        metadata,
        warnings,
    })
}

/// Width and height of the first frame header.
fn frame_size(bytes: &[u8]) -> Option<(u16, u16)> {
    let mut at = 2;
    loop {
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
            0xD9 | 0xDA => return None,
            _ => {}
        }
        let data = bytes.get(at..at + 7)?;
        if is_frame(marker) {
            return Some((be_u16(data, 5), be_u16(data, 3)));
        }
        at += usize::from(be_u16(data, 0)).max(2);
    }
}

/// Start-of-frame markers; the three in between are tables.
fn is_frame(marker: u8) -> bool {
    (0xC0..=0xCF).contains(&marker) && ![0xC4, 0xC8, 0xCC].contains(&marker)
}

fn be_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn pixels(bytes: &[u8], strict: bool) -> std::result::Result<(Vec<u8>, ColorSpace), DecodeErrors> {
    let options = DecoderOptions::default()
        .set_strict_mode(strict)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers()?;
    // Ink and grey pictures are wanted as they are, everything else as RGB.
    let space = match decoder.input_colorspace() {
        Some(space @ (ColorSpace::Luma | ColorSpace::CMYK | ColorSpace::YCCK)) => space,
        _ => ColorSpace::RGB,
    };
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    Ok((decoder.decode()?, space))
}

fn reason(error: &DecodeErrors) -> String {
    match error {
        DecodeErrors::ExhaustedData => "truncated".to_owned(),
        DecodeErrors::FormatStatic(why) if why.contains("Premature end") => {
            "damaged or truncated pixels".to_owned()
        }
        DecodeErrors::HuffmanDecode(_) | DecodeErrors::MCUError(_) => "damaged pixels".to_owned(),
        // Debug formatting puts some of these messages in quotes.
        other => other.to_string().replace('"', ""),
    }
}

/// `true` if an end-of-image marker follows the pixels. Inside entropy-coded data FF is followed by 00
/// or a restart marker; other segments are jumped over, since they may hold a thumbnail's own end marker.
fn has_end(bytes: &[u8]) -> bool {
    let mut at = 2;
    while at + 1 < bytes.len() {
        if bytes[at] != 0xFF {
            at += 1;
            continue;
        }
        match bytes[at + 1] {
            0xD9 => return true,
            0xFF => at += 1,
            0x00 | 0x01 | 0xD0..=0xD8 => at += 2,
            _ => {
                let Some(length) = bytes.get(at + 2..at + 4) else {
                    return false;
                };
                at += 2 + usize::from(be_u16(length, 0)).max(2);
            }
        }
    }
    false
}

/// Adobe's programs, and after them everybody, store CMYK inverted: 255 is no ink.
fn inks(samples: &[u8]) -> Vec<f32> {
    samples.iter().map(|&v| 1.0 - f32::from(v) / 255.0).collect()
}

/// YCCK holds inverted CMY as YCbCr of "RGB" (JFIF's matrix), and K as it is.
fn ycck_to_cmyk(mut data: Vec<u8>) -> Vec<u8> {
    for pixel in data.chunks_exact_mut(4) {
        let [y, cb, cr] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
        let (cb, cr) = (cb - 128.0, cr - 128.0);
        let rgb = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
        for (out, v) in pixel.iter_mut().zip(rgb) {
            *out = v.round().clamp(0.0, 255.0) as u8;
        }
    }
    data
}
