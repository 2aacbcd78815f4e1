//! TIFF: 1 to 32 bits, or float, per sample; strips or tiles, interleaved or in planes; grey, RGB and
//! CMYK, with associated or unassociated alpha. Float samples are taken as gamma-encoded in [0, 1]
//! unless a profile says otherwise, and cut to that range. Palettes are not supported.

use std::io::Cursor;

use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;

use super::{check_size, from_u8};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::metadata::{self, DEFAULT_MAX_METADATA};
use crate::image::picture::{ChannelLayout, DecodedSamples};

/// ExtraSamples value of premultiplied alpha.
const ASSOCIATED: u64 = 1;

pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<DecodedSamples> {
    let bad = |reason: &dyn std::fmt::Display| ImageError::unreadable(name, Format::Tiff, reason);
    let mut limits = Limits::default();
    limits.decoding_buffer_size = 1 << 33;
    limits.intermediate_buffer_size = 1 << 33;
    limits.ifd_value_size = 1 << 28;
    let mut decoder =
        Decoder::new(Cursor::new(bytes)).map_err(|e| bad(&reason(&e)))?.with_limits(limits);
    let (width, height) = decoder.dimensions().map_err(|e| bad(&reason(&e)))?;
    check_size(name, Format::Tiff, width.into(), height.into())?;
    check_chunks(&mut decoder, bytes.len() as u64).map_err(|why| bad(&why))?;

    let kind = decoder.colortype().map_err(|e| bad(&reason(&e)))?;
    let extra =
        decoder.find_tag_unsigned_vec::<u64>(Tag::ExtraSamples).ok().flatten().unwrap_or_default();
    let layout = match kind {
        ColorType::Gray(_) => ChannelLayout::Grey,
        ColorType::GrayA(_) => ChannelLayout::GreyAlpha,
        ColorType::RGB(_) => ChannelLayout::Rgb,
        ColorType::RGBA(_) => ChannelLayout::Rgba,
        ColorType::CMYK(_) => ChannelLayout::Cmyk,
        // Compressed as JPEG, these arrive as RGB.
        ColorType::YCbCr(_) => ChannelLayout::Rgb,
        // Grey with extra samples; the first extra one is alpha only if it says so.
        ColorType::Multiband { .. } if matches!(extra.first(), Some(1 | 2)) => {
            ChannelLayout::GreyAlpha
        }
        ColorType::Multiband { .. } => ChannelLayout::Grey,
        other => {
            return Err(ImageError::Unsupported {
                name: name.to_owned(),
                kind: format!("TIFF of kind {other:?}"),
            });
        }
    };

    let mut result = DecodingResult::U8(Vec::new());
    decoder.read_image_to_buffer(&mut result).map_err(|e| bad(&reason(&e)))?;
    let bits = kind.bit_depth();
    let planar =
        decoder.find_tag_unsigned::<u16>(Tag::PlanarConfiguration).ok().flatten() == Some(2);
    // Of interleaved samples the crate leaves out those that it does not know; planes all arrive.
    let per_pixel = if planar {
        decoder.find_tag_unsigned::<u16>(Tag::SamplesPerPixel).ok().flatten().map_or(1, usize::from)
    } else {
        usize::from(kind.num_samples())
    };
    let pixels = width as usize * height as usize;
    let row_len = width as usize * if planar { 1 } else { per_pixel };
    let samples =
        floats(result, bits, row_len).ok_or_else(|| bad(&"samples of an unusual kind"))?;
    if samples.len() < pixels * per_pixel {
        return Err(bad(&"the pixels do not fill the stated size"));
    }
    let mut samples = arranged(samples, pixels, per_pixel, layout.channels(), planar)
        .ok_or_else(|| bad(&"fewer samples per pixel than its kind needs"))?;
    if extra.first() == Some(&ASSOCIATED)
        && matches!(layout, ChannelLayout::Rgba | ChannelLayout::GreyAlpha)
    {
        unpremultiply(&mut samples, layout.channels());
    }
    let mut warnings = Vec::new();
    if decoder.more_images() {
        warnings.push(Warning::FirstFrameOnly(Format::Tiff));
    }
    let (metadata, more) =
        metadata::read(name, Format::Tiff, &mut Cursor::new(bytes), 0, DEFAULT_MAX_METADATA)?;
    warnings.extend(more);
    Ok(DecodedSamples {
        width,
        height,
        layout,
        samples,
        bit_depth: if bits > 8 { 16 } else { 8 },
        metadata,
        warnings,
    })
}

/// The crate's message without its classes ("format error: ...").
fn reason(error: &tiff::TiffError) -> String {
    match error {
        tiff::TiffError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            "truncated".to_owned()
        }
        tiff::TiffError::LimitsExceeded => "larger than the decoder allows".to_owned(),
        other => {
            let text = other.to_string();
            let text = text.strip_prefix("format error: ").unwrap_or(&text);
            text.strip_prefix("unsupported error: ").unwrap_or(text).to_owned()
        }
    }
}

/// Every strip or tile must lie inside the file.
fn check_chunks(
    decoder: &mut Decoder<Cursor<&[u8]>>,
    length: u64,
) -> std::result::Result<(), String> {
    for (offsets, counts) in
        [(Tag::StripOffsets, Tag::StripByteCounts), (Tag::TileOffsets, Tag::TileByteCounts)]
    {
        let read = |decoder: &mut Decoder<_>, tag| {
            decoder.find_tag_unsigned_vec::<u64>(tag).ok().flatten()
        };
        let (Some(offsets), Some(counts)) = (read(decoder, offsets), read(decoder, counts)) else {
            continue;
        };
        let outside = |(at, n): (&u64, &u64)| at.checked_add(*n).is_none_or(|end| end > length);
        if offsets.iter().zip(&counts).any(outside) {
            return Err("truncated".to_owned());
        }
    }
    Ok(())
}

/// Samples in [0, 1]. Depths below 8 arrive packed, each row of `row_len` samples beginning on a byte.
fn floats(result: DecodingResult, bits: u8, row_len: usize) -> Option<Vec<f32>> {
    let unit = |v: f64| if v.is_nan() { 0.0 } else { v.clamp(0.0, 1.0) as f32 };
    Some(match result {
        DecodingResult::U8(v) if bits == 8 => from_u8(&v),
        DecodingResult::U8(v) if matches!(bits, 1 | 2 | 4) => unpacked(&v, bits, row_len),
        DecodingResult::U16(v) => v.iter().map(|&v| f32::from(v) / 65535.0).collect(),
        DecodingResult::U32(v) => {
            v.iter().map(|&v| unit(f64::from(v) / f64::from(u32::MAX))).collect()
        }
        DecodingResult::F16(v) => v.iter().map(|v| unit(f64::from(v.to_f32()))).collect(),
        DecodingResult::F32(v) => v.iter().map(|&v| unit(f64::from(v))).collect(),
        DecodingResult::F64(v) => v.iter().map(|&v| unit(v)).collect(),
        _ => return None,
    })
}

fn unpacked(bytes: &[u8], bits: u8, row_len: usize) -> Vec<f32> {
    let per_byte = usize::from(8 / bits);
    let maximum = ((1u16 << bits) - 1) as u8;
    bytes
        .chunks(row_len.div_ceil(per_byte))
        .flat_map(|row| {
            (0..row_len.min(row.len() * per_byte)).map(move |i| {
                let shift = 8 - bits - (i % per_byte) as u8 * bits;
                f32::from(row[i / per_byte] >> shift & maximum) / f32::from(maximum)
            })
        })
        .collect()
}

/// Interleaves planes where needed, and leaves out extra samples that are no alpha.
fn arranged(
    samples: Vec<f32>,
    pixels: usize,
    per_pixel: usize,
    channels: usize,
    planar: bool,
) -> Option<Vec<f32>> {
    if channels > per_pixel {
        return None;
    }
    if !planar && channels == per_pixel {
        return Some(samples);
    }
    let at = |pixel: usize, channel: usize| {
        if planar { channel * pixels + pixel } else { pixel * per_pixel + channel }
    };
    Some(
        (0..pixels)
            .flat_map(|pixel| (0..channels).map(move |channel| (pixel, channel)))
            .map(|(pixel, channel)| samples[at(pixel, channel)])
            .collect(),
    )
}

fn unpremultiply(samples: &mut [f32], channels: usize) {
    for pixel in samples.chunks_exact_mut(channels) {
        let alpha = pixel[channels - 1];
        if alpha > 0.0 {
            for v in &mut pixel[..channels - 1] {
                *v = (*v / alpha).min(1.0);
            }
        }
    }
}
