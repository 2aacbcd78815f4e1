//! Settings of an encoder.

use crate::image::light::Light;
use crate::image::metadata::{ColourChunk, Text};
use crate::image::picture::Picture;

/// JPEG quality when none is asked for: no chroma subsampling, differences below visibility.
pub const DEFAULT_QUALITY: u8 = 95;

/// The program's name in metadata.
pub(super) const NAME: &str = "cupscale-fast";
/// The program's name and version in metadata.
pub(super) const SOFTWARE: &str = concat!("cupscale-fast ", env!("CARGO_PKG_VERSION"));

/// Settings of an encoder, and what is written besides pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodeOptions {
    /// 8 or 16 bits per sample, or 32 for floats, which TIFF and OpenEXR hold; the others take 16 for it. JPEG and WebP
    /// round to 8 and warn. OpenEXR holds floats of 16 bits for 8 and 16.
    pub bit_depth: u8,
    /// JPEG quality, 1 to 100. The other formats are lossless.
    pub quality: u8,
    /// Colour profile: written, and applied to the working-space rows (see [`Picture::rgb`]).
    pub icc: Option<Vec<u8>>,
    /// Chunks that a PNG gets in place of the profile.
    pub colour_chunks: Vec<ColourChunk>,
    /// EXIF block; the size fields in it are set to the output's.
    pub exif: Option<Vec<u8>>,
    /// XMP packet; sizes in it are set to the output's, and the settings are added to it except in PNG.
    pub xmp: Option<Vec<u8>>,
    /// Photoshop's image resources, IPTC among them. In WebP and PNG IPTC's fields are in the XMP as well.
    pub photoshop: Option<Vec<u8>>,
    /// Texts with keywords: text chunks in PNG. Other formats have comments, and the rest in their XMP.
    pub texts: Vec<Text>,
    /// Dots per inch.
    pub dpi: Option<(f64, f64)>,
    /// Rows come with alpha. JPEG composites over white and warns.
    pub alpha: bool,
    /// Write one grey channel (the luma of the rows). WebP and farbfeld always store colour.
    pub grey: bool,
    /// Rows hold light above white (see [`Picture::light`]): floats keep it, whole numbers are cut at white, with a
    /// warning.
    pub light: Option<Light>,
    /// The program's settings, e.g. JSON, for [`read_settings`](crate::image::read_settings).
    pub settings: Option<String>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            bit_depth: 8,
            quality: DEFAULT_QUALITY,
            icc: None,
            colour_chunks: Vec::new(),
            exif: None,
            xmp: None,
            photoshop: None,
            texts: Vec::new(),
            dpi: None,
            alpha: false,
            grey: false,
            light: None,
            settings: None,
        }
    }
}

impl EncodeOptions {
    /// Options that keep everything a picture came with.
    pub fn like(picture: &Picture) -> Self {
        Self {
            bit_depth: picture.bit_depth,
            icc: picture.metadata.icc.clone(),
            exif: picture.metadata.exif.clone(),
            xmp: picture.metadata.xmp.clone(),
            photoshop: picture.metadata.photoshop.clone(),
            texts: picture.metadata.texts.clone(),
            colour_chunks: picture.metadata.colour_chunks.clone(),
            dpi: picture.metadata.dpi,
            alpha: picture.alpha.is_some(),
            grey: picture.grey,
            light: picture.light,
            ..Self::default()
        }
    }
}
