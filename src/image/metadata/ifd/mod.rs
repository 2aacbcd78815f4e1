//! TIFF image file directories, the structure that EXIF blocks and TIFF files share: read in either
//! byte order, patched in place, written little-endian (classic or BigTIFF).
//! Source: TIFF 6.0 specification, section 2; the BigTIFF design; EXIF 2.32, section 4.6.

mod exif;
mod maker_note;
mod read;
mod write;

pub(crate) use exif::{
    Exif, add_comment, drop_thumbnail, links, orientation, set_size, set_upright, with_resolution,
    without_note,
};
pub(crate) use maker_note::{BOUND_NOTE, has_bound_note, is_bound};
pub(crate) use read::{Directory, Reader, open};
pub(crate) use write::{serialise, serialised_length};

/// Tags used by name here and in the TIFF writer.
pub(crate) mod tag {
    pub const IMAGE_WIDTH: u16 = 256;
    pub const IMAGE_LENGTH: u16 = 257;
    pub const IMAGE_DESCRIPTION: u16 = 270;
    pub const MAKE: u16 = 271;
    pub const MODEL: u16 = 272;
    pub const ORIENTATION: u16 = 274;
    pub const X_RESOLUTION: u16 = 282;
    pub const Y_RESOLUTION: u16 = 283;
    pub const RESOLUTION_UNIT: u16 = 296;
    pub const SOFTWARE: u16 = 305;
    pub const DATE_TIME: u16 = 306;
    pub const ARTIST: u16 = 315;
    pub const HOST_COMPUTER: u16 = 316;
    pub const XMP: u16 = 700;
    pub const COPYRIGHT: u16 = 33432;
    pub const IPTC: u16 = 33723;
    pub const PHOTOSHOP: u16 = 34377;
    pub const THUMBNAIL_START: u16 = 513;
    pub const THUMBNAIL_LENGTH: u16 = 514;
    pub const EXIF_IFD: u16 = 34665;
    pub const ICC_PROFILE: u16 = 34675;
    pub const GPS_IFD: u16 = 34853;
    pub const MAKER_NOTE: u16 = 0x927C;
    pub const USER_COMMENT: u16 = 0x9286;
    pub const PIXEL_X_DIMENSION: u16 = 0xA002;
    pub const PIXEL_Y_DIMENSION: u16 = 0xA003;
    pub const INTEROP_IFD: u16 = 0xA005;
}

pub(crate) const SHORT: u16 = 3;
pub(crate) const LONG: u16 = 4;
pub(crate) const RATIONAL: u16 = 5;
pub(crate) const LONG8: u16 = 16;

/// One directory entry with its value, little-endian.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct IfdEntry {
    pub tag: u16,
    /// TIFF field type.
    pub kind: u16,
    /// Values of that type, so `data.len()` is `count` times the type's size.
    pub count: u64,
    pub data: Vec<u8>,
}

impl IfdEntry {
    pub(crate) fn bytes(tag: u16, kind: u16, data: Vec<u8>) -> Self {
        let count = data.len() as u64 / size_of_kind(kind).unwrap_or(1);
        Self { tag, kind, count, data }
    }

    pub(crate) fn short(tag: u16, value: u16) -> Self {
        Self::bytes(tag, SHORT, value.to_le_bytes().to_vec())
    }

    pub(crate) fn long(tag: u16, value: u32) -> Self {
        Self::bytes(tag, LONG, value.to_le_bytes().to_vec())
    }

    /// Dots per inch to a thousandth, which no scanner or camera exceeds.
    pub(crate) fn dpi(tag: u16, dpi: f64) -> Self {
        let mut data = ((dpi * 1000.0).round() as u32).to_le_bytes().to_vec();
        data.extend(1000u32.to_le_bytes());
        Self::bytes(tag, RATIONAL, data)
    }

    pub(crate) fn ascii(tag: u16, text: &str) -> Self {
        let mut data = text.as_bytes().to_vec();
        data.push(0);
        Self::bytes(tag, 2, data)
    }

    pub(crate) fn as_u64(&self) -> Option<u64> {
        match (self.kind, self.data.as_slice()) {
            (SHORT, [a, b, ..]) => Some(u64::from(u16::from_le_bytes([*a, *b]))),
            (LONG | 13, [a, b, c, d, ..]) => Some(u64::from(u32::from_le_bytes([*a, *b, *c, *d]))),
            (LONG8 | 18, data) => data.first_chunk().map(|value| u64::from_le_bytes(*value)),
            _ => None,
        }
    }

    pub(crate) fn as_u32(&self) -> Option<u32> {
        self.as_u64().and_then(|value| u32::try_from(value).ok())
    }

    pub(crate) fn as_f64(&self) -> Option<f64> {
        if self.kind == RATIONAL && self.data.len() >= 8 {
            let word = |at: usize| {
                u32::from_le_bytes([
                    self.data[at],
                    self.data[at + 1],
                    self.data[at + 2],
                    self.data[at + 3],
                ])
            };
            let (n, d) = (word(0), word(4));
            (d != 0).then(|| f64::from(n) / f64::from(d))
        } else {
            self.as_u32().map(f64::from)
        }
    }
}

fn size_of_kind(kind: u16) -> Option<u64> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16 | 17 | 18 => Some(8),
        _ => None,
    }
}

/// Bytes that are swapped together: a rational is two words.
fn swap_unit(kind: u16) -> usize {
    match kind {
        5 | 10 => 4,
        _ => size_of_kind(kind).unwrap_or(1) as usize,
    }
}
