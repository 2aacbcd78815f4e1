//! Decoding: an input of any kind that is read to a [`Picture`]. The header is read first ([`open`]), so that a
//! size or a kind that will not do is refused before anything is spent on it; then rows are decoded in bands. A
//! truncated or damaged picture is an error, never a half grey one, unless [`ReadOptions::allow_truncated`] is set.

mod animation;
#[cfg(feature = "avif")]
mod avif;
mod exr;
mod farbfeld;
pub(crate) mod header;
#[cfg(feature = "heic")]
mod heic;
mod jpeg;
mod jpeg2000;
mod jpeg_xl;
mod kind;
mod netpbm;
mod plain_rows;
mod png;
mod psd;
mod radiance;
mod raster;
mod spool;
mod tiff;
mod webp;
mod whole;

use std::{
    io::{Read, Seek as _},
    num::NonZeroUsize,
    path::Path,
};

use super::assemble;
use super::error::{ImageError, Result, Warning};
use super::foreign::{Foreign, foreign};
use super::format::Format;
use super::input::{Input, OpenInput, read_error};
use super::metadata::{Metadata, ifd};
use super::picture::{Picture, PictureShape};
use super::read_options::ReadOptions;
use super::source::Source;
use header::Decode;

pub use kind::InputKind;

/// Bytes by which a format is recognised, or what else the file is.
const HEAD: u64 = 1024;

/// What helps with a rare kind of a format.
const CONVERT: &str = "convert it: magick FILE NEW.png";

/// A picture whose header has been read.
pub struct Opened {
    name: String,
    kind: InputKind,
    decoder: Box<dyn Decode>,
    options: ReadOptions,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("header", self.decoder.header())
            .finish_non_exhaustive()
    }
}

/// Opens a picture and reads its header and metadata; [`Opened::decode`] reads the pixels.
///
/// # Errors
/// One line that names the file: missing, a directory, empty, no image, of an unsupported kind, with a damaged header,
/// or of more than [`MAX_PIXELS`](super::MAX_PIXELS) pixels.
pub fn open(input: &Input, options: &ReadOptions) -> Result<Opened> {
    let name = input.name();
    let unreadable = |source| read_error(&name, source);
    let head = |from: &mut dyn Read| {
        let mut head = Vec::new();
        from.take(HEAD).read_to_end(&mut head).map(|_| head).map_err(unreadable)
    };
    let (source, kind) = match input.open()? {
        OpenInput::Source(mut source) => {
            let kind = kind_of(&name, &head(&mut source)?)?;
            source.rewind().map_err(unreadable)?;
            (source, kind)
        }
        OpenInput::Stream(mut stream) => {
            // Asked before the rest is read: what is no picture may have no end.
            let head = head(&mut stream)?;
            let kind = kind_of(&name, &head)?;
            (Source::spooled(head, stream, &options.scratch()).map_err(unreadable)?, kind)
        }
    };
    open_source(name, source, kind, options)
}

fn open_source(
    name: String,
    source: Source,
    kind: InputKind,
    options: &ReadOptions,
) -> Result<Opened> {
    let decoder = match kind {
        InputKind::Written(Format::Png) => png::open(&name, source, options)?,
        InputKind::Written(Format::Jpeg) => jpeg::open(&name, source, options)?,
        InputKind::Written(Format::WebP) => webp::open(&name, source, options)?,
        InputKind::Written(Format::Tiff) => tiff::open(&name, source, options)?,
        InputKind::Written(format @ (Format::Ppm | Format::Pam)) => {
            netpbm::open(&name, format, source, options)?
        }
        InputKind::Written(Format::Farbfeld) => farbfeld::open(&name, source, options)?,
        InputKind::Written(Format::Exr) => exr::open(&name, source, options)?,
        InputKind::Gif => animation::open_gif(&name, source, options)?,
        InputKind::Bmp | InputKind::Tga | InputKind::Qoi | InputKind::Ico | InputKind::Dds => {
            raster::open(&name, source, kind, options)?
        }
        InputKind::Radiance => radiance::open(&name, source, options)?,
        InputKind::Psd => psd::open(&name, source, options)?,
        InputKind::Jpeg2000 => jpeg2000::open(&name, source, options)?,
        InputKind::JpegXl => jpeg_xl::open(&name, source, options)?,
        #[cfg(feature = "heic")]
        InputKind::Heic => heic::open(&name, source, options)?,
        #[cfg(feature = "avif")]
        InputKind::Avif => avif::open(&name, source, options)?,
    };
    let (number, pictures) = (options.picture.map_or(1, NonZeroUsize::get), decoder.pictures());
    if number > pictures {
        return Err(ImageError::NoSuchPicture { name, kind, number, pictures });
    }
    Ok(Opened { name, kind, decoder, options: options.clone() })
}

impl Opened {
    /// The file's kind.
    #[must_use]
    pub fn kind(&self) -> InputKind {
        self.kind
    }

    /// The format in which an output is written when nothing else is asked for.
    #[must_use]
    pub fn format(&self) -> Format {
        self.kind.output()
    }

    /// Number of pictures in the file: pages of a TIFF, or frames of an animation.
    #[must_use]
    pub fn pictures(&self) -> usize {
        self.decoder.pictures()
    }

    /// Upright size, and what reading the pixels takes.
    #[must_use]
    pub fn shape(&self) -> PictureShape {
        let header = self.decoder.header();
        let orientation = header.metadata.exif.as_deref().map_or(1, ifd::orientation);
        let (width, height) = assemble::upright_size((header.width, header.height), orientation);
        PictureShape {
            width,
            height,
            alpha: header.layout.has_alpha(),
            decoder_bytes: header.scratch_bytes,
        }
    }

    /// Puts the planes of a large picture into files in this folder, which have no name.
    pub fn keep_planes_in(&mut self, folder: &Path) {
        self.options.scratch_folder = Some(folder.to_owned());
    }

    /// Metadata as it stands in the file.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.decoder.header().metadata
    }

    /// 8 or 16: the bits per sample that an output should have to lose nothing.
    #[must_use]
    pub fn bit_depth(&self) -> u8 {
        self.decoder.header().bit_depth
    }

    /// `true` for a greyscale picture.
    #[must_use]
    pub fn is_grey(&self) -> bool {
        self.decoder.header().layout.is_grey()
    }

    /// EXIF's orientation as it stands in the file, 1 (upright) to 8.
    #[must_use]
    pub fn orientation(&self) -> u8 {
        self.metadata().exif.as_deref().map_or(1, ifd::orientation)
    }

    /// What is known to be left out or made up before the pixels are read.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.decoder.header().warnings
    }

    /// Reads the pixels: upright, in working-space floats, with the metadata.
    ///
    /// # Errors
    /// Pixels that are truncated or damaged, with the place (as in `photo.png: not a readable image (PNG: bad CRC in
    /// IDAT)`); a large picture's planes that find no room on the disk.
    pub fn decode(self) -> Result<Picture> {
        assemble::picture(&self.name, self.decoder, &self.options.scratch())
    }
}

/// Reads a picture: [`open`] and [`Opened::decode`] with the default options.
///
/// # Errors
/// Same as those.
pub fn decode(input: &Input) -> Result<Picture> {
    open(input, &ReadOptions::default())?.decode()
}

/// [`decode`] of bytes in memory; `name` is used in errors.
///
/// # Errors
/// Same as [`decode`].
pub fn decode_bytes(name: &str, bytes: &[u8]) -> Result<Picture> {
    let kind = kind_of(name, bytes)?;
    let source = Source::memory(bytes.into());
    open_source(name.to_owned(), source, kind, &ReadOptions::default())?.decode()
}

/// The kind of a picture by its first bytes (64 are enough; 1,024 name more kinds of other files); `name` is used in
/// errors.
///
/// # Errors
/// Same as [`decode`] for empty input, for bytes that are no picture, and for a kind that is not read.
pub fn kind_of(name: &str, bytes: &[u8]) -> Result<InputKind> {
    let name = name.to_owned();
    if bytes.is_empty() {
        return Err(ImageError::Empty { name });
    }
    InputKind::sniff(bytes).ok_or_else(|| match foreign(bytes) {
        Some(Foreign::Picture(kind, hint)) => ImageError::UnsupportedFormat { name, kind, hint },
        Some(Foreign::Other(kind, hint)) => ImageError::NotAPicture { name, kind, hint },
        None => {
            let reason = "neither PNG, JPEG, WebP, TIFF nor another kind that is read".to_owned();
            ImageError::Unreadable { name, reason }
        }
    })
}
