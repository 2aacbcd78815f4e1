//! WebP, lossy or lossless, through `image-webp`. Of an animation the first frame is read.

use std::io::Cursor;

use image_webp::WebPDecoder;

use super::{check_size, from_u8};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::metadata::{self, DEFAULT_MAX_METADATA};
use crate::image::picture::{ChannelLayout, DecodedSamples};

pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<DecodedSamples> {
    let bad = |reason: &dyn std::fmt::Display| ImageError::unreadable(name, Format::WebP, reason);
    // The decoder is lenient with lossy pictures that end early; the container says how long it is.
    let stated = bytes
        .get(4..8)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize + 8)
        .ok_or_else(|| bad(&"truncated"))?;
    if bytes.len() < stated {
        return Err(bad(&"truncated"));
    }
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| bad(&e))?;
    let (width, height) = decoder.dimensions();
    check_size(name, Format::WebP, width.into(), height.into())?;
    let layout = if decoder.has_alpha() { ChannelLayout::Rgba } else { ChannelLayout::Rgb };
    let length = decoder.output_buffer_size().ok_or_else(|| bad(&"too large"))?;
    let mut data = vec![0; length];
    let mut warnings = Vec::new();
    if decoder.is_animated() {
        warnings.push(Warning::FirstFrameOnly(Format::WebP));
        decoder.read_frame(&mut data).map_err(|e| bad(&e))?;
    } else {
        decoder.read_image(&mut data).map_err(|e| bad(&e))?;
    }
    let (metadata, more) =
        metadata::read(name, Format::WebP, &mut Cursor::new(bytes), 0, DEFAULT_MAX_METADATA)?;
    warnings.extend(more);
    Ok(DecodedSamples {
        width,
        height,
        layout,
        samples: from_u8(&data),
        bit_depth: 8,
        metadata,
        warnings,
    })
}
