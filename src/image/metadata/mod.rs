//! Metadata of a picture file: colour profile, EXIF, XMP, texts and resolution, read from each format under one budget and
//! kept true for the output.
//!
//! Place of the settings that this program writes into every output: in PNG an iTXt chunk with the keyword `cupscale`; in
//! JPEG, WebP and TIFF the property `cupscale:settings` of the XMP packet; in OpenEXR an attribute, `cupscale`.

mod boxes;
mod budget;
mod colour_chunks;
pub(crate) mod exr;
pub(crate) mod ifd;
pub(crate) mod iptc;
pub(crate) mod jpeg;
pub(crate) mod photoshop;
pub(crate) mod png;
mod settings;
pub(crate) mod text;
mod tiff;
mod webp;
mod xml;
pub(crate) mod xmp;

use std::io::{Read, Seek};

use super::error::{Result, Warning};
use super::format::Format;
use budget::{Block, Budget};
use ifd::{Exif, IfdEntry, Reader, tag};

pub(crate) use boxes::read_boxes;
pub use colour_chunks::ColourChunk;
#[cfg(any(feature = "avif", feature = "heic"))]
pub(crate) use colour_chunks::profile_of_code_points;
pub use settings::{read_settings, settings_in};
pub use text::Text;

/// Bytes that a file's metadata may take together, when nothing else is asked for.
pub const DEFAULT_MAX_METADATA: u64 = 64 << 20;

/// Prefix of a JPEG APP1 segment with EXIF, with XMP, and with a part of what continues the XMP.
pub(crate) const JPEG_EXIF: &[u8] = b"Exif\0\0";
pub(crate) const JPEG_XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
pub(crate) const JPEG_XMP_MORE: &[u8] = b"http://ns.adobe.com/xmp/extension/\0";
/// Bytes of a block that is too large in which its orientation is looked for.
const HEAD: u64 = 1 << 16;

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
    /// Photoshop's image resources (`8BIM…`), IPTC among them: those that say the same of the picture at another size.
    pub photoshop: Option<Vec<u8>>,
    /// Dots per inch, horizontal and vertical.
    pub dpi: Option<(f64, f64)>,
    /// Texts with keywords: PNG's text chunks, JPEG's comments.
    pub texts: Vec<Text>,
    /// Chunks of a PNG that say what [`icc`](Self::icc) says, or sRGB where that is `None`.
    pub colour_chunks: Vec<ColourChunk>,
}

/// Sizes instead of contents, for logs.
impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = |block: &Option<Vec<u8>>| block.as_ref().map(Vec::len);
        f.debug_struct("Metadata")
            .field("icc_bytes", &bytes(&self.icc))
            .field("exif_bytes", &bytes(&self.exif))
            .field("xmp_bytes", &bytes(&self.xmp))
            .field("photoshop_bytes", &bytes(&self.photoshop))
            .field("dpi", &self.dpi)
            .field("texts", &self.texts.len())
            .field("colour_chunks", &self.colour_chunks.len())
            .finish()
    }
}

/// Reads the metadata of a file of this format, in any place of it; `name` is the file's, for errors, and `limit` the
/// bytes that all blocks may take together. `page` is the number of the picture in a TIFF that is shown.
/// A damaged file gives what there is. What was left out is told by warnings.
///
/// # Errors
/// [`ImageError::MetadataTooLarge`](super::ImageError::MetadataTooLarge) for a colour profile beyond the limit.
pub(crate) fn read<F: Read + Seek>(
    name: &str,
    format: Format,
    file: &mut F,
    page: usize,
    limit: u64,
) -> Result<(Metadata, Vec<Warning>)> {
    let mut budget = Budget::new(name, limit);
    let metadata = match format {
        Format::Png => png::read(file, &mut budget),
        Format::Jpeg => jpeg::read(file, &mut budget),
        Format::WebP => webp::read(file, &mut budget),
        Format::Tiff => tiff::read(file, page, &mut budget),
        // That of an OpenEXR comes with its header.
        Format::Exr | Format::Ppm | Format::Pam | Format::Farbfeld => Ok(Metadata::default()),
    }?;
    Ok((metadata, budget.into_warnings()))
}

/// Blocks of metadata that a decoder found by itself.
#[derive(Default)]
pub(crate) struct Blocks {
    pub icc: Option<Vec<u8>>,
    pub exif: Option<Vec<u8>>,
    pub xmp: Option<Vec<u8>>,
}

/// Metadata of these blocks, which together may take `limit` bytes; `name` is the file's, for errors.
///
/// # Errors
/// [`ImageError::MetadataTooLarge`](super::ImageError::MetadataTooLarge) for a colour profile beyond the limit.
pub(crate) fn of_blocks(
    name: &str,
    blocks: Blocks,
    limit: u64,
) -> Result<(Metadata, Vec<Warning>)> {
    let mut budget = Budget::new(name, limit);
    let mut fits = |block: Option<Vec<u8>>, what: &'static str| {
        let block = block?;
        let met = budget.take(&mut &block[..], block.len() as u64).unwrap_or(Block::Damaged);
        if what.is_empty() {
            budget.profile(met).transpose()
        } else {
            budget.wanted(what, met).map(Ok)
        }
    };
    let icc = fits(blocks.icc, "").transpose()?;
    let mut exif = fits(blocks.exif, "EXIF").transpose()?;
    let xmp = fits(blocks.xmp, "XMP").transpose()?;
    // Some writers copy JPEG's prefix along with the block.
    if let Some(block) = &mut exif
        && block.starts_with(JPEG_EXIF)
    {
        block.drain(..JPEG_EXIF.len());
    }
    let mut metadata = Metadata { icc, exif, ..Metadata::default() };
    metadata.dpi = metadata.exif.as_deref().and_then(exif_dpi);
    if let Some(packet) = xmp {
        let (packet, texts) = xmp::take_texts(packet, text::MAX_TEXTS);
        metadata.xmp = Some(packet);
        metadata.texts = texts;
    }
    Ok((metadata, budget.into_warnings()))
}

/// Marks the metadata of a picture that its decoder has turned already.
pub(crate) fn set_upright(metadata: &mut Metadata) {
    metadata.exif.as_deref_mut().map(ifd::set_upright);
    metadata.xmp = metadata.xmp.take().map(xmp::upright);
}

/// The orientation of an EXIF block that is too large, in a block of its own: without it the picture would lie on
/// its side.
fn orientation_alone(file: &mut impl Read, budget: &mut Budget<'_>) -> Option<Vec<u8>> {
    budget.too_large("EXIF");
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head).ok()?;
    let orientation = ifd::orientation(&head);
    let entry = IfdEntry::short(tag::ORIENTATION, orientation.into());
    let block = Exif { ifd0: vec![entry], ..Exif::default() };
    (orientation != 1).then(|| block.into_bytes())
}

/// Dots per inch that an EXIF block states, if it does.
fn exif_dpi(exif: &[u8]) -> Option<(f64, f64)> {
    let (mut reader, first) = ifd::open(exif)?;
    resolution(&mut reader, &first)
}

/// Dots per inch that a directory states, if it does.
fn resolution<R: Read + Seek>(
    reader: &mut Reader<R>,
    directory: &ifd::Directory,
) -> Option<(f64, f64)> {
    let x = reader.value_of(directory, tag::X_RESOLUTION)?.as_f64()?;
    let y = reader.value_of(directory, tag::Y_RESOLUTION)?.as_f64()?;
    let unit = reader.value_of(directory, tag::RESOLUTION_UNIT);
    let per_inch = match unit.and_then(|unit| unit.as_u32()) {
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
