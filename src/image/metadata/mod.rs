//! Metadata of a picture file: EXIF, XMP, resolution, and the settings that
//! this program writes into every output.
//!
//! Place of the settings: in PNG an iTXt chunk with the keyword `cupscale`; in JPEG, WebP and TIFF
//! the property `cupscale:settings` of the XMP packet.

pub(crate) mod ifd;
pub(crate) mod xmp;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use tiff::tags::Tag;

use super::error::Result;
use super::format::Format;
use super::input::read_error;

/// Keyword of the PNG text chunk that holds the settings.
pub(crate) const PNG_KEYWORD: &str = "cupscale";
/// Keyword under which PNG stores an XMP packet.
pub(crate) const PNG_XMP_KEYWORD: &str = "XML:com.adobe.xmp";
/// Prefix of a JPEG APP1 segment with EXIF, and with XMP.
pub(crate) const JPEG_EXIF: &[u8] = b"Exif\0\0";
pub(crate) const JPEG_XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// Metadata of a picture: what an output keeps beside the pixels.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Metadata {
    /// The profile to write into the output; `None` means sRGB. Pixels are converted on output by
    /// the same profile, so it always describes them rightly.
    pub icc: Option<Vec<u8>>,
    /// EXIF block (a TIFF structure, without the `Exif\0\0` that JPEG puts before it).
    pub exif: Option<Vec<u8>>,
    /// XMP packet.
    pub xmp: Option<Vec<u8>>,
    /// Dots per inch, horizontal and vertical.
    pub dpi: Option<(f64, f64)>,
}

/// Sizes instead of contents, for logs.
impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = |block: &Option<Vec<u8>>| block.as_ref().map(Vec::len);
        f.debug_struct("Metadata")
            .field("icc_bytes", &bytes(&self.icc))
            .field("exif_bytes", &bytes(&self.exif))
            .field("xmp_bytes", &bytes(&self.xmp))
            .field("dpi", &self.dpi)
            .finish()
    }
}

/// Text chunks and packets beyond this size are not ours, whatever their length field says.
const MAX_TEXT: u64 = 64 << 20;

/// The settings that an output of this program carries, as the text given to
/// [`EncodeOptions::settings`](super::EncodeOptions::settings); `None` when there are none, or when the file is no
/// picture. Reads only the metadata, so it is cheap for pictures of any size.
///
/// # Errors
/// A file that cannot be opened.
pub fn read_settings(path: &Path) -> Result<Option<String>> {
    let name = path.display().to_string();
    let mut file = BufReader::new(File::open(path).map_err(|e| read_error(&name, e))?);
    // A damaged file has no settings to offer; what is wrong with it is for `decode` to say.
    Ok(settings_of(&mut file).ok().flatten())
}

fn settings_of<R: Read + Seek>(file: &mut R) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    file.take(16).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    let packet =
        match Format::sniff(&head) {
            Some(Format::Png) => return png_text(file, PNG_KEYWORD),
            Some(Format::Jpeg) => jpeg_segments(file)?.into_iter().find_map(|(marker, data)| {
                match data.strip_prefix(JPEG_XMP) {
                    Some(packet) if marker == 0xE1 => Some(packet.to_vec()),
                    _ => None,
                }
            }),
            Some(Format::WebP) => riff_chunk(file, b"XMP ")?,
            Some(Format::Tiff) => tiff::decoder::Decoder::new(file)
                .and_then(|mut decoder| decoder.get_tag_u8_vec(Tag::Unknown(ifd::tag::XMP)))
                .ok(),
            None => None,
        };
    Ok(packet.as_deref().and_then(xmp::settings))
}

/// The first uncompressed iTXt with this keyword before the pixels of a PNG.
fn png_text<R: Read + Seek>(file: &mut R, keyword: &str) -> io::Result<Option<String>> {
    file.seek(SeekFrom::Start(8))?;
    loop {
        let mut head = [0; 8];
        file.read_exact(&mut head)?;
        let length = u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
        match &head[4..] {
            b"IDAT" | b"IEND" => return Ok(None),
            b"iTXt" if length <= MAX_TEXT => {
                let mut data = vec![0; length as usize];
                file.read_exact(&mut data)?;
                file.seek(SeekFrom::Current(4))?;
                if let Some(text) = itxt_plain(&data, keyword) {
                    return Ok(Some(text));
                }
            }
            _ => {
                file.seek(SeekFrom::Current(length as i64 + 4))?;
            }
        }
    }
}

/// Body of an iTXt chunk: keyword, 0, compression flag and method, language, 0, translation, 0, text.
fn itxt_plain(data: &[u8], keyword: &str) -> Option<String> {
    let rest = data.strip_prefix(keyword.as_bytes())?.strip_prefix(b"\0\0\0")?;
    let text = rest.splitn(3, |&b| b == 0).nth(2)?;
    String::from_utf8(text.to_vec()).ok()
}

/// Marker byte and payload of each segment of a JPEG before its first scan.
pub(crate) fn jpeg_segments<R: Read>(file: &mut R) -> io::Result<Vec<(u8, Vec<u8>)>> {
    let mut byte = || -> io::Result<u8> {
        let mut b = [0];
        file.read_exact(&mut b)?;
        Ok(b[0])
    };
    let mut segments = Vec::new();
    // SOI, which the caller has recognised.
    byte()?;
    byte()?;
    loop {
        // Fill bytes, and the stray ones some cameras leave, may precede a marker.
        while byte()? != 0xFF {}
        let marker = loop {
            match byte()? {
                0xFF => continue,
                marker => break marker,
            }
        };
        match marker {
            0x00 | 0x01 | 0xD0..=0xD8 => continue,
            0xD9 | 0xDA => return Ok(segments),
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes([byte()?, byte()?]));
        let mut data = vec![0; length.saturating_sub(2)];
        for slot in &mut data {
            *slot = byte()?;
        }
        segments.push((marker, data));
    }
}

/// The first chunk of this name in a RIFF file.
pub(crate) fn riff_chunk<R: Read + Seek>(
    file: &mut R,
    name: &[u8; 4],
) -> io::Result<Option<Vec<u8>>> {
    file.seek(SeekFrom::Start(12))?;
    loop {
        let mut head = [0; 8];
        match file.read_exact(&mut head) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if &head[..4] == name && u64::from(length) <= MAX_TEXT {
            let mut data = vec![0; length as usize];
            file.read_exact(&mut data)?;
            return Ok(Some(data));
        }
        file.seek(SeekFrom::Current(i64::from(length) + i64::from(length % 2)))?;
    }
}

/// Dots per inch that an EXIF block states, if it does.
pub(crate) fn exif_dpi(exif: &ifd::Exif) -> Option<(f64, f64)> {
    let field = |tag| exif.ifd0.iter().find(|e| e.tag == tag);
    let x = field(ifd::tag::X_RESOLUTION)?.as_f64()?;
    let y = field(ifd::tag::Y_RESOLUTION)?.as_f64()?;
    let per_inch = match field(ifd::tag::RESOLUTION_UNIT).and_then(ifd::IfdEntry::as_u32) {
        Some(3) => 2.54, // per centimetre
        None | Some(2) => 1.0,
        _ => return None, // no unit: only an aspect ratio
    };
    plausible_dpi(x * per_inch, y * per_inch)
}

/// Drops resolutions that say nothing (0, 1) or cannot be meant.
pub(crate) fn plausible_dpi(x: f64, y: f64) -> Option<(f64, f64)> {
    let plausible = |v: f64| v.is_finite() && v > 1.5 && v < 1e6;
    (plausible(x) && plausible(y)).then_some((x, y))
}
