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
use crate::image::metadata::ifd::Exif;
use crate::image::metadata::{
    JPEG_EXIF, JPEG_XMP, Metadata, exif_dpi, jpeg_segments, plausible_dpi,
};
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

const ICC: &[u8] = b"ICC_PROFILE\0";

pub(super) fn open(name: &str, source: Source, _: &ReadOptions) -> Result<Box<dyn Decode>> {
    let bytes = source.into_bytes().map_err(|source| read_error(name, source))?;
    decode(name, &bytes).map(DecodedSamples::into_decoder)
}

fn decode(name: &str, bytes: &[u8]) -> Result<DecodedSamples> {
    let bad = |reason: &dyn std::fmt::Display| ImageError::unreadable(name, Format::Jpeg, reason);
    let segments =
        jpeg_segments(&mut Cursor::new(bytes)).map_err(|_| bad(&"truncated before the pixels"))?;
    let frame = segments
        .iter()
        .find(|(marker, data)| is_frame(*marker) && data.len() >= 6)
        .ok_or_else(|| bad(&"no frame header"))?;
    let (width, height) = (be_u16(&frame.1, 3), be_u16(&frame.1, 1));
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
    let app = |marker: u8, prefix: &'static [u8]| {
        let mine = segments.iter().filter(move |(m, _)| *m == marker);
        mine.filter_map(move |(_, data)| data.strip_prefix(prefix))
    };
    let exif = app(0xE1, JPEG_EXIF).next().map(<[u8]>::to_vec);
    let dpi = app(0xE0, b"JFIF\0").next().and_then(jfif_dpi);
    let dpi = dpi.or_else(|| exif_dpi(&Exif::parse(exif.as_deref()?)?));
    Ok(DecodedSamples {
        width: width.into(),
        height: height.into(),
        layout,
        samples,
        bit_depth: 8,
        metadata: Metadata {
            icc: icc(app(0xE2, ICC).collect()),
            exif,
            xmp: app(0xE1, JPEG_XMP).next().map(<[u8]>::to_vec),
            dpi,
        },
        warnings: Vec::new(),
    })
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

/// Density from the rest of a JFIF segment: version (2 bytes), unit, x, y.
fn jfif_dpi(data: &[u8]) -> Option<(f64, f64)> {
    let body = data.get(..7)?;
    let (x, y) = (f64::from(be_u16(body, 3)), f64::from(be_u16(body, 5)));
    match body[2] {
        1 => plausible_dpi(x, y),
        2 => plausible_dpi(x * 2.54, y * 2.54),
        _ => None,
    }
}

/// A profile put together from its numbered parts; `None` when there is none or a part is missing.
fn icc(mut parts: Vec<&[u8]>) -> Option<Vec<u8>> {
    parts.retain(|part| part.len() > 2);
    parts.sort_by_key(|part| part[0]);
    let whole = !parts.is_empty()
        && usize::from(parts[0][1]) == parts.len()
        && parts.iter().zip(1..).all(|(part, n)| usize::from(part[0]) == n);
    whole.then(|| parts.iter().flat_map(|part| part[2..].iter().copied()).collect())
}
