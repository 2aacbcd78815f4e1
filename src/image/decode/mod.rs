//! Decoding: an input of any of the formats to a [`Picture`]. The header is read first ([`open`]), so that a
//! size or a kind that will not do is refused before anything is spent on it; then rows are decoded in bands. A
//! truncated or damaged picture is an error, never a half grey one, unless [`ReadOptions::allow_truncated`] is set.

mod exr;
mod farbfeld;
pub(crate) mod header;
mod jpeg;
mod netpbm;
mod plain_rows;
mod png;
mod spool;
mod tiff;
mod webp;

use std::{
    io::{Read, Seek as _},
    path::Path,
};

use super::assemble;
use super::error::{ImageError, Result};
use super::foreign::{Foreign, foreign};
use super::format::Format;
use super::input::{Input, OpenInput, read_error};
use super::metadata::{Metadata, ifd};
use super::picture::{Picture, PictureShape};
use super::read_options::ReadOptions;
use super::source::Source;
use header::Decode;

/// Bytes by which a format is recognised, or what else the file is.
const HEAD: u64 = 1024;

/// A picture whose header has been read.
pub struct Opened {
    name: String,
    format: Format,
    decoder: Box<dyn Decode>,
    options: ReadOptions,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("name", &self.name)
            .field("format", &self.format)
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
    let (source, format) = match input.open()? {
        OpenInput::Source(mut source) => {
            let format = format_of(&name, &head(&mut source)?)?;
            source.rewind().map_err(unreadable)?;
            (source, format)
        }
        OpenInput::Stream(mut stream) => {
            // Asked before the rest is read: what is no picture may have no end.
            let head = head(&mut stream)?;
            let format = format_of(&name, &head)?;
            (Source::spooled(head, stream, &options.scratch()).map_err(unreadable)?, format)
        }
    };
    open_source(name, source, format, options)
}

fn open_source(
    name: String,
    source: Source,
    format: Format,
    options: &ReadOptions,
) -> Result<Opened> {
    let decoder = match format {
        Format::Png => png::open(&name, source, options)?,
        Format::Jpeg => jpeg::open(&name, source, options)?,
        Format::WebP => webp::open(&name, source, options)?,
        Format::Tiff => tiff::open(&name, source, options)?,
        Format::Ppm | Format::Pam => netpbm::open(&name, format, source, options)?,
        Format::Farbfeld => farbfeld::open(&name, source, options)?,
        Format::Exr => exr::open(&name, source, options)?,
    };
    Ok(Opened { name, format, decoder, options: options.clone() })
}

impl Opened {
    /// The file's format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
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
    let format = format_of(name, bytes)?;
    let source = Source::memory(bytes.into());
    open_source(name.to_owned(), source, format, &ReadOptions::default())?.decode()
}

/// The format of a picture by its first bytes (32 are enough; 1,024 name more kinds of other files); `name` is used in errors.
///
/// # Errors
/// Same as [`decode`] for empty input, for bytes that are no picture, and for an unsupported format.
pub fn format_of(name: &str, bytes: &[u8]) -> Result<Format> {
    let name = name.to_owned();
    if bytes.is_empty() {
        return Err(ImageError::Empty { name });
    }
    Format::sniff(bytes).ok_or_else(|| match foreign(bytes) {
        Some(Foreign::Picture(kind, hint)) => ImageError::UnsupportedFormat { name, kind, hint },
        Some(Foreign::Other(kind, hint)) => ImageError::NotAPicture { name, kind, hint },
        None => {
            let reason = "neither PNG, JPEG, WebP nor TIFF".to_owned();
            ImageError::Unreadable { name, reason }
        }
    })
}
