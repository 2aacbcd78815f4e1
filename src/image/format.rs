//! The picture formats that are written, how to recognise them, and what each can hold.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A picture format that is both read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// PNG, 8 or 16 bits.
    Png,
    /// JPEG, 8 bits, the one format with losses.
    Jpeg,
    /// WebP, 8 bits, written without losses.
    WebP,
    /// TIFF or BigTIFF, 8 or 16 bits.
    Tiff,
    /// Netpbm's PBM, PGM and PPM, 8 or 16 bits; written as PGM where the picture is grey, else as PPM.
    Ppm,
    /// Netpbm's PAM, 8 or 16 bits, with alpha.
    Pam,
    /// farbfeld, 16 bits, always with alpha.
    Farbfeld,
    /// OpenEXR, light in floats of 16 or 32 bits.
    Exr,
}

impl Format {
    /// Every format, in the order in which help texts list them.
    pub const ALL: [Format; 8] = [
        Format::Png,
        Format::Jpeg,
        Format::WebP,
        Format::Tiff,
        Format::Ppm,
        Format::Pam,
        Format::Farbfeld,
        Format::Exr,
    ];

    /// The format named by a path's extension, whatever its case; `None` if there is none we know.
    pub fn from_extension(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "png" => Some(Self::Png),
            "jpg" | "jpeg" | "jpe" | "jfif" => Some(Self::Jpeg),
            "webp" => Some(Self::WebP),
            "tif" | "tiff" => Some(Self::Tiff),
            "ppm" | "pgm" | "pbm" | "pnm" => Some(Self::Ppm),
            "pam" => Some(Self::Pam),
            "ff" | "farbfeld" => Some(Self::Farbfeld),
            "exr" => Some(Self::Exr),
            _ => None,
        }
    }

    /// The format of encoded bytes by their first 16, `None` if they begin like none of them.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if bytes.starts_with(b"\xff\xd8\xff") {
            Some(Self::Jpeg)
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Some(Self::WebP)
        } else if [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]
            .iter()
            .any(|magic| bytes.starts_with(*magic))
        {
            Some(Self::Tiff)
        } else if bytes.starts_with(b"farbfeld") {
            Some(Self::Farbfeld)
        } else if bytes.starts_with(b"v/1\x01") {
            Some(Self::Exr)
        } else if bytes.starts_with(b"P7\n") || bytes.starts_with(b"P7\r\n") {
            Some(Self::Pam)
        } else if let [b'P', b'1'..=b'6', b' ' | b'\t'..=b'\r' | b'#', ..] = bytes {
            Some(Self::Ppm)
        } else {
            None
        }
    }

    /// The usual file name extension, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::WebP => "webp",
            Self::Tiff => "tif",
            Self::Ppm => "ppm",
            Self::Pam => "pam",
            Self::Farbfeld => "ff",
            Self::Exr => "exr",
        }
    }

    /// The longest side the format can hold, in pixels.
    ///
    /// JPEG's header could say 65,535, but libjpeg, and with it nearly every reader, stops at
    /// 65,500. The limit of PNG and of OpenEXR is 2³¹ − 1; that of the others is 2³² − 1, or none.
    pub fn max_side(self) -> u32 {
        match self {
            Self::Png | Self::Exr => i32::MAX as u32,
            Self::Jpeg => 65_500,
            Self::WebP => 16_383,
            Self::Tiff | Self::Ppm | Self::Pam | Self::Farbfeld => u32::MAX,
        }
    }

    /// `true` if the format holds samples of 16 bits or more.
    pub fn has_16_bit(self) -> bool {
        !matches!(self, Self::Jpeg | Self::WebP)
    }

    /// `true` if the format holds floats, and with them light above white.
    pub fn has_float(self) -> bool {
        matches!(self, Self::Tiff | Self::Exr)
    }

    /// `true` if the format holds an alpha channel.
    pub fn has_alpha(self) -> bool {
        !matches!(self, Self::Jpeg | Self::Ppm)
    }

    /// `true` if the format holds metadata: a colour profile, EXIF, XMP, texts. The others are samples in sRGB.
    pub fn has_metadata(self) -> bool {
        !matches!(self, Self::Ppm | Self::Pam | Self::Farbfeld)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Tiff => "TIFF",
            Self::Ppm => "PPM",
            Self::Pam => "PAM",
            Self::Farbfeld => "farbfeld",
            Self::Exr => "OpenEXR",
        })
    }
}

/// A name that names no format we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given}: unknown image format; known are png, jpeg, webp, tiff, ppm, pam, farbfeld and exr"
)]
#[non_exhaustive]
pub struct UnknownFormat {
    /// The name.
    pub given: String,
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(given: &str) -> Result<Self, UnknownFormat> {
        match given.to_ascii_lowercase().as_str() {
            "png" => Ok(Self::Png),
            "jpg" | "jpeg" => Ok(Self::Jpeg),
            "webp" => Ok(Self::WebP),
            "tif" | "tiff" => Ok(Self::Tiff),
            "ppm" | "pgm" | "pbm" | "pnm" => Ok(Self::Ppm),
            "pam" => Ok(Self::Pam),
            "ff" | "farbfeld" => Ok(Self::Farbfeld),
            "exr" | "openexr" => Ok(Self::Exr),
            _ => Err(UnknownFormat { given: given.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_recognised_whatever_their_case() {
        for (path, format) in [
            ("a.PNG", Some(Format::Png)),
            ("dir.v2/b.JpEg", Some(Format::Jpeg)),
            ("c.webp", Some(Format::WebP)),
            ("d.tiff", Some(Format::Tiff)),
            ("d.PGM", Some(Format::Ppm)),
            ("d.ff", Some(Format::Farbfeld)),
            ("e.gif", None),
            ("noextension", None),
        ] {
            assert_eq!(Format::from_extension(Path::new(path)), format, "{path}");
        }
    }

    #[test]
    fn format_names_parse_and_unknown_ones_are_listed_in_the_error() {
        assert_eq!("JPG".parse::<Format>().unwrap(), Format::Jpeg);
        let message = "bmp".parse::<Format>().unwrap_err().to_string();
        assert!(message.contains("bmp") && message.contains("tiff"), "{message}");
    }

    #[test]
    fn every_format_is_named_by_its_extension_and_its_first_bytes() {
        for format in Format::ALL {
            assert_eq!(format.extension().parse(), Ok(format));
            let path = format!("a.{}", format.extension());
            assert_eq!(Format::from_extension(Path::new(&path)), Some(format));
        }
        for (bytes, format) in [
            (&b"P4 8 1\n\xff"[..], Some(Format::Ppm)),
            (b"P6#comment", Some(Format::Ppm)),
            (b"P7\nWIDTH 4", Some(Format::Pam)),
            (b"farbfeld\0\0\0\x01", Some(Format::Farbfeld)),
            // A thumbnail of the program XV; a text.
            (b"P7 332\n", None),
            (b"P61", None),
            (b"P", None),
        ] {
            assert_eq!(Format::sniff(bytes), format, "{bytes:?}");
        }
    }
}
