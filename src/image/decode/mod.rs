//! Decoding: bytes of any of the four formats to a [`Picture`]. A file is read whole and must be
//! whole: a truncated or damaged picture is an error, never a half grey one.

mod jpeg;
mod png;
mod tiff;
mod webp;

use super::error::{ImageError, Result};
use super::format::{Format, sniff_unsupported};
use super::input::Input;
use super::picture::{MAX_PIXELS, Picture};

/// Reads a picture: upright, in working-space floats, with its metadata.
///
/// # Errors
/// One line that names the file: missing, a directory, empty, no image, of an unsupported kind,
/// truncated or damaged (with the place, as in `photo.png: not a readable image (PNG: bad CRC in
/// IDAT)`), or of more than [`MAX_PIXELS`] pixels.
pub fn decode(input: &Input) -> Result<Picture> {
    decode_bytes(&input.name(), &input.read()?)
}

/// [`decode`] of bytes in memory; `name` is used in errors.
///
/// # Errors
/// Same as [`decode`].
pub fn decode_bytes(name: &str, bytes: &[u8]) -> Result<Picture> {
    let raw = match format_of(name, bytes)? {
        Format::Png => png::decode(name, bytes)?,
        Format::Jpeg => jpeg::decode(name, bytes)?,
        Format::WebP => webp::decode(name, bytes)?,
        Format::Tiff => tiff::decode(name, bytes)?,
    };
    Ok(raw.into_picture())
}

/// The format of a picture by its first bytes (32 are enough); `name` is used in errors.
///
/// # Errors
/// Same as [`decode`] for empty input, for bytes that are no picture, and for an unsupported format.
pub fn format_of(name: &str, bytes: &[u8]) -> Result<Format> {
    let name = name.to_owned();
    if bytes.is_empty() {
        return Err(ImageError::Empty { name });
    }
    Format::sniff(bytes).ok_or_else(|| match sniff_unsupported(bytes) {
        Some(kind) => ImageError::Unsupported { name, kind: kind.to_owned() },
        None => {
            let reason = "neither PNG, JPEG, WebP nor TIFF".to_owned();
            ImageError::Unreadable { name, reason }
        }
    })
}

/// Checks a header's size before anything is allocated for it.
fn check_size(name: &str, format: Format, width: u64, height: u64) -> Result<()> {
    if width == 0 || height == 0 {
        let reason = format!("a size of {width} x {height}");
        return Err(ImageError::unreadable(name, format, reason));
    }
    if width.checked_mul(height).is_none_or(|n| n > MAX_PIXELS) {
        return Err(ImageError::TooLarge {
            name: name.to_owned(),
            width,
            height,
            limit: MAX_PIXELS,
        });
    }
    Ok(())
}

/// 8-bit samples as floats in [0, 1].
fn from_u8(samples: &[u8]) -> Vec<f32> {
    samples.iter().map(|&v| f32::from(v) / 255.0).collect()
}
