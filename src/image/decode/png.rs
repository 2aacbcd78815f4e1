//! PNG. Chunks are checked first (lengths, CRCs of critical chunks, the end), for errors that say where
//! the damage is; then the `png` crate decodes.

use std::io::Cursor;

use png::{BitDepth, ColorType, Transformations};

use super::header::{ChannelLayout, Decode, check_size, from_u8};
use super::whole::DecodedSamples;
use crate::image::error::{ImageError, Result, Warning};
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
    let bad = |reason: &dyn std::fmt::Display| ImageError::unreadable(name, Format::Png, reason);
    check_chunks(bytes).map_err(|reason| bad(&reason))?;
    let (width, height) = (be_u32(bytes, 16), be_u32(bytes, 20));
    check_size(name, Format::Png, width.into(), height.into())?;

    let limits = png::Limits { bytes: 1 << 30 };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    // Palettes, small depths and tRNS become 8 or 16 bits per sample with a real alpha channel.
    decoder.set_transformations(Transformations::EXPAND);
    // Read by us, within bounds.
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(|e| bad(&e))?;
    let length = reader.output_buffer_size().ok_or_else(|| bad(&"too large"))?;
    let mut data = vec![0; length];
    let frame = reader.next_frame(&mut data).map_err(|e| bad(&e))?;
    data.truncate(frame.buffer_size());
    let mut warnings = Vec::new();
    if reader.info().animation_control.is_some() {
        warnings.push(Warning::FirstFrameOnly(Format::Png));
    } else {
        // Text may follow the pixels.
        reader.finish().map_err(|e| bad(&e))?;
    }

    let layout = match frame.color_type {
        ColorType::Grayscale => ChannelLayout::Grey,
        ColorType::GrayscaleAlpha => ChannelLayout::GreyAlpha,
        ColorType::Rgb => ChannelLayout::Rgb,
        ColorType::Rgba => ChannelLayout::Rgba,
        ColorType::Indexed => return Err(bad(&"palette not expanded")),
    };
    let (samples, bit_depth) = if frame.bit_depth == BitDepth::Sixteen {
        let wide = data.chunks_exact(2);
        let samples = wide.map(|b| f32::from(u16::from_be_bytes([b[0], b[1]])) / 65535.0);
        (samples.collect(), 16)
    } else {
        (from_u8(&data), 8)
    };
    let (metadata, more) =
        metadata::read(name, Format::Png, &mut Cursor::new(bytes), 0, options.max_metadata)?;
    warnings.extend(more);
    Ok(DecodedSamples { width, height, layout, samples, bit_depth, metadata, warnings })
}

/// Walks all chunks; `Err` names the first damage.
fn check_chunks(bytes: &[u8]) -> std::result::Result<(), String> {
    let mut at = 8;
    let mut first = true;
    while let Some(head) = bytes.get(at..at + 8) {
        let kind = String::from_utf8_lossy(&head[4..]).into_owned();
        let length = be_u32(bytes, at) as usize;
        if !head[4..].iter().all(u8::is_ascii_alphabetic) {
            return Err("damaged chunk structure".into());
        }
        if first && (kind != "IHDR" || length != 13) {
            return Err("no header".into());
        }
        first = false;
        let body_end = at + 8 + length;
        let Some(stated) = bytes.get(body_end..body_end + 4) else {
            return Err(format!("truncated in {kind}"));
        };
        // Critical chunks only: what is not needed for the pixels may be damaged.
        let critical = head[4].is_ascii_uppercase();
        if critical && crc32fast::hash(&bytes[at + 4..body_end]).to_be_bytes() != stated {
            return Err(format!("bad CRC in {kind}"));
        }
        if kind == "IEND" {
            return Ok(());
        }
        at = body_end + 4;
    }
    Err("truncated, the end is missing".into())
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
