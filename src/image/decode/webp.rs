//! WebP, lossy or lossless, through `image-webp`. Of an animation the first frame is read.

use std::io::Cursor;

use image_webp::WebPDecoder;

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
        metadata::read(name, Format::WebP, &mut Cursor::new(bytes), 0, options.max_metadata)?;
    warnings.extend(more);
    let samples = from_u8(&data);
    Ok(DecodedSamples { width, height, layout, samples, bit_depth: 8, metadata, warnings })
}
