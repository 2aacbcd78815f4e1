//! Kinds of pictures that are read, how to recognise them, and the format in which an output of each is written.

use std::fmt;
use std::path::Path;

use crate::image::format::Format;

/// A kind of picture that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InputKind {
    /// A format that is written, too.
    Written(Format),
    /// GIF, of which one frame is read.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// Truevision TGA.
    Tga,
    /// QOI.
    Qoi,
    /// Windows icon or cursor, of which the largest picture is read.
    Ico,
    /// DirectDraw surface, BC1 to BC3.
    Dds,
    /// Radiance HDR, light above white.
    Radiance,
    /// Photoshop's PSD or PSB, of which the flattened picture is read.
    Psd,
    /// JPEG 2000, a codestream or a JP2 file.
    Jpeg2000,
    /// JPEG XL, a codestream or a file of boxes.
    JpegXl,
    /// HEIC.
    #[cfg(feature = "heic")]
    Heic,
    /// AVIF.
    #[cfg(feature = "avif")]
    Avif,
}

impl InputKind {
    /// The kind of encoded bytes by their first 64, `None` if they begin like none of these.
    pub fn sniff(head: &[u8]) -> Option<Self> {
        if let Some(format) = Format::sniff(head) {
            return Some(Self::Written(format));
        }
        let known: [(&[u8], Self); 13] = [
            (b"GIF87a", Self::Gif),
            (b"GIF89a", Self::Gif),
            (b"qoif", Self::Qoi),
            (b"\0\0\x01\0", Self::Ico),
            (b"\0\0\x02\0", Self::Ico),
            (b"DDS ", Self::Dds),
            (b"#?RADIANCE", Self::Radiance),
            (b"#?RGBE", Self::Radiance),
            (b"8BPS", Self::Psd),
            (b"\0\0\0\x0cjP  ", Self::Jpeg2000),
            (b"\xff\x4f\xff\x51", Self::Jpeg2000),
            (b"\xff\x0a", Self::JpegXl),
            (b"\0\0\0\x0cJXL \r\n\x87\n", Self::JpegXl),
        ];
        let by_magic = known.into_iter().find(|(magic, _)| head.starts_with(magic));
        let by_magic = by_magic.map(|(_, kind)| kind).filter(|kind| {
            // Bytes that other files begin with as well: an icon has pictures, and each of them a reserved zero.
            *kind != Self::Ico || matches!(head.get(4..10), Some([1..=64, 0, _, _, _, 0]))
        });
        by_magic.or_else(|| {
            if head.starts_with(b"BM") && head.get(6..10) == Some(&[0; 4]) {
                return Some(Self::Bmp);
            }
            #[cfg(feature = "avif")]
            if has_brand(head, &[b"avif"]) {
                return Some(Self::Avif);
            }
            #[cfg(feature = "heic")]
            if has_brand(head, &[b"heic", b"heix", b"heim", b"heis"]) {
                return Some(Self::Heic);
            }
            is_tga(head).then_some(Self::Tga)
        })
    }

    /// The kind named by a path's extension, whatever its case; `None` if there is none we know.
    pub fn from_extension(path: &Path) -> Option<Self> {
        if let Some(format) = Format::from_extension(path) {
            return Some(Self::Written(format));
        }
        Some(match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "gif" => Self::Gif,
            "bmp" | "dib" => Self::Bmp,
            "tga" => Self::Tga,
            "qoi" => Self::Qoi,
            "ico" | "cur" => Self::Ico,
            "dds" => Self::Dds,
            "hdr" => Self::Radiance,
            "psd" | "psb" => Self::Psd,
            "jp2" | "jpx" | "jpf" | "j2k" | "j2c" | "jpc" => Self::Jpeg2000,
            "jxl" => Self::JpegXl,
            #[cfg(feature = "heic")]
            "heic" | "heif" | "hif" => Self::Heic,
            #[cfg(feature = "avif")]
            "avif" => Self::Avif,
            _ => return None,
        })
    }

    /// The format of an output for which nothing else is asked: the input's own, OpenEXR for light above white, or PNG.
    #[must_use]
    pub fn output(self) -> Format {
        match self {
            Self::Written(format) => format,
            Self::Radiance => Format::Exr,
            _ => Format::Png,
        }
    }
}

impl fmt::Display for InputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Written(format) => return format.fmt(f),
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tga => "TGA",
            Self::Qoi => "QOI",
            Self::Ico => "ICO",
            Self::Dds => "DDS",
            Self::Radiance => "Radiance HDR",
            Self::Psd => "PSD",
            Self::Jpeg2000 => "JPEG 2000",
            Self::JpegXl => "JPEG XL",
            #[cfg(feature = "heic")]
            Self::Heic => "HEIC",
            #[cfg(feature = "avif")]
            Self::Avif => "AVIF",
        })
    }
}

impl From<Format> for InputKind {
    fn from(format: Format) -> Self {
        Self::Written(format)
    }
}

/// `true` for a file whose header can only be that of a TGA, which has no magic number.
fn is_tga(head: &[u8]) -> bool {
    // Length of a comment, kind of palette, kind of picture, palette (5), origin (4), size (4), depth, flags.
    let &[_, palette, kind, a, b, c, d, e, _, _, _, _, w, wide, h, high, depth, flags, ..] = head
    else {
        return false;
    };
    let has_palette = palette == 1 && matches!(kind, 1 | 9) && matches!(e, 15 | 16 | 24 | 32);
    let has_none = palette == 0 && matches!(kind, 2 | 3 | 10 | 11) && [a, b, c, d, e] == [0; 5];
    (has_palette || has_none)
        && matches!(depth, 8 | 15 | 16 | 24 | 32)
        && flags & 0xC0 == 0
        && [w, wide] != [0; 2]
        && [h, high] != [0; 2]
}

/// `true` for a file of ISO's base media format with one of these brands.
#[cfg(any(feature = "avif", feature = "heic"))]
fn has_brand(head: &[u8], own: &[&[u8]]) -> bool {
    let Some(brands) = head.get(8..64.min(head.len())) else { return false };
    let length = head[..4].iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
    // The second word is a version and no brand.
    let of_file = brands.chunks_exact(4).take(length.saturating_sub(8) / 4);
    head[4..8] == *b"ftyp" && of_file.enumerate().any(|(at, brand)| at != 1 && own.contains(&brand))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_told_by_its_first_bytes() {
        let tga = [&[0, 0, 2][..], &[0; 9], &[48, 0, 40, 0, 24, 0x20], &[7; 40]].concat();
        let palette = [&[0, 1, 1, 0, 0, 0, 1, 24][..], &[0; 4], &[48, 0, 40, 0, 8, 0], &[7; 40]];
        for (head, kind) in [
            (&b"\xff\xd8\xff\xe0"[..], Some(InputKind::Written(Format::Jpeg))),
            (b"GIF89a\x01\0\x01\0", Some(InputKind::Gif)),
            (b"BM\x36\x10\0\0\0\0\0\0\x36\0\0\0\x28", Some(InputKind::Bmp)),
            (b"BMW is a make of cars", None),
            (&tga, Some(InputKind::Tga)),
            (&palette.concat(), Some(InputKind::Tga)),
            (b"\0\0\x01\0\x01\0\x30\x28\0\0\x01\0", Some(InputKind::Ico)),
            (b"\0\0\x01\0\0\0\0\0\0\0\0\0", None),
            (b"\xff\x0a\xfa\x1f", Some(InputKind::JpegXl)),
            (b"\xff\x4f\xff\x51\0\x2f", Some(InputKind::Jpeg2000)),
            (b"8BPS\0\x01", Some(InputKind::Psd)),
            (b"#?RGBE\n", Some(InputKind::Radiance)),
            (b"hello", None),
        ] {
            assert_eq!(InputKind::sniff(head), kind, "{head:?}");
        }
    }

    #[test]
    fn what_has_no_format_of_its_own_becomes_a_png() {
        assert_eq!(InputKind::Gif.output(), Format::Png);
        assert_eq!(InputKind::Radiance.output(), Format::Exr);
        assert_eq!(InputKind::from(Format::Tiff).output(), Format::Tiff);
        assert_eq!(InputKind::from_extension(Path::new("a.PSB")), Some(InputKind::Psd));
    }
}
