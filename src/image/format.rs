//! The four picture formats, how to recognise them, and how large each may be.

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
}

impl Format {
    /// Every format, in the order in which help texts list them.
    pub const ALL: [Format; 4] = [Format::Png, Format::Jpeg, Format::WebP, Format::Tiff];

    /// The format named by a path's extension, whatever its case; `None` if there is none we know.
    pub fn from_extension(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "png" => Some(Self::Png),
            "jpg" | "jpeg" | "jpe" | "jfif" => Some(Self::Jpeg),
            "webp" => Some(Self::WebP),
            "tif" | "tiff" => Some(Self::Tiff),
            _ => None,
        }
    }

    /// The format of encoded bytes by their first 16, `None` if they begin like none of the four.
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
        }
    }

    /// The longest side the format can hold, in pixels.
    ///
    /// JPEG's header could say 65,535, but libjpeg, and with it nearly every reader, stops at
    /// 65,500. PNG's own limit is 2³¹ − 1; TIFF's is 2³² − 1.
    pub fn max_side(self) -> u32 {
        match self {
            Self::Png => i32::MAX as u32,
            Self::Jpeg => 65_500,
            Self::WebP => 16_383,
            Self::Tiff => u32::MAX,
        }
    }

    /// `true` if the format holds samples of 16 bits.
    pub fn has_16_bit(self) -> bool {
        matches!(self, Self::Png | Self::Tiff)
    }

    /// `true` if the format holds an alpha channel.
    pub fn has_alpha(self) -> bool {
        !matches!(self, Self::Jpeg)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Tiff => "TIFF",
        })
    }
}

/// A name that names no format we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given}: unknown image format; known are png, jpeg, webp and tiff")]
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
}
