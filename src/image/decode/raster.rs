//! Simple formats of 8 bits (BMP, TGA, QOI, ICO, DDS) through the decoders of the `image` crate, which decode a picture as
//! a whole. Grey palettes stay grey; others become colours.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use image::codecs::{
    bmp::BmpDecoder, dds::DdsDecoder, ico::IcoDecoder, qoi::QoiDecoder, tga::TgaDecoder,
};
use image::{ColorType, ImageDecoder, ImageResult, error::ImageError as DecoderError};

use super::InputKind;
use super::header::{ChannelLayout, Decode, Header, check_size, pass_bytes};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::input::read_error;
use crate::image::metadata::Metadata;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

struct Raster {
    name: String,
    kind: InputKind,
    header: Header,
    /// Samples of a pixel as the decoder gives them: three of a grey palette.
    channels: usize,
    decoder: Box<dyn ImageDecoder>,
}

pub(super) fn open(
    name: &str,
    mut source: Source,
    kind: InputKind,
    options: &ReadOptions,
) -> Result<Box<dyn Decode>> {
    if kind == InputKind::Ico {
        let png = png_in_icon(&mut source).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ImageError::unreadable(name, kind, "truncated"),
            _ => read_error(name, error),
        })?;
        if let Some(png) = png {
            return super::png::open(name, Source::memory(png.into()), options);
        }
        source.rewind().map_err(|error| read_error(name, error))?;
    }
    let (decoder, is_grey) = decoder(source, kind).map_err(|error| refusal(name, kind, &error))?;
    let (width, height) = decoder.dimensions();
    check_size(name, kind, width.into(), height.into())?;
    let layout = match decoder.color_type() {
        ColorType::L8 => ChannelLayout::Grey,
        ColorType::La8 => ChannelLayout::GreyAlpha,
        ColorType::Rgb8 => ChannelLayout::Rgb,
        ColorType::Rgba8 => ChannelLayout::Rgba,
        other => {
            let kind = format!("{kind} of {other:?}");
            return Err(ImageError::unsupported(name, &kind, super::CONVERT));
        }
    };
    let channels = layout.channels();
    let header = Header {
        width,
        height,
        layout: if is_grey { ChannelLayout::Grey } else { layout },
        bit_depth: 8,
        metadata: Metadata::default(),
        warnings: Vec::new(),
        scratch_bytes: u64::from(width) * u64::from(height) * channels as u64,
    };
    Ok(Box::new(Raster { name: name.to_owned(), kind, header, channels, decoder }))
}

/// The decoder, and whether all its colours are of a grey palette.
fn decoder(source: Source, kind: InputKind) -> ImageResult<(Box<dyn ImageDecoder>, bool)> {
    Ok(match kind {
        InputKind::Bmp => {
            let decoder = BmpDecoder::new(source)?;
            let is_grey = decoder.color_type() == ColorType::Rgb8
                && decoder
                    .get_palette()
                    .is_some_and(|palette| palette.iter().all(|[r, g, b]| r == g && g == b));
            (Box::new(decoder), is_grey)
        }
        InputKind::Tga => (Box::new(TgaDecoder::new(source)?), false),
        InputKind::Qoi => (Box::new(QoiDecoder::new(source)?), false),
        InputKind::Ico => (Box::new(IcoDecoder::new(source)?), false),
        _ => (Box::new(DdsDecoder::new(source)?), false),
    })
}

impl Decode for Raster {
    fn header(&self) -> &Header {
        &self.header
    }

    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let Self { name, kind, header, channels, decoder } = *self;
        let mut data = vec![0; decoder.total_bytes() as usize];
        decoder.read_image_boxed(&mut data).map_err(|error| refusal(&name, kind, &error))?;
        if header.layout.channels() < channels {
            let pixels = data.len() / channels;
            (0..pixels).for_each(|at| data[at] = data[at * channels]);
            data.truncate(pixels);
        }
        pass_bytes(&header, &data, take)?;
        Ok(Vec::new())
    }
}

/// The largest picture of an icon, if that is a PNG, which then may be of any kind.
fn png_in_icon(source: &mut Source) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 6];
    source.read_exact(&mut head)?;
    let mut largest = None;
    for _ in 0..u16::from_le_bytes([head[4], head[5]]) {
        // Width and height (0 is 256), colours, a zero, planes, bits, length and place.
        let mut entry = [0; 16];
        source.read_exact(&mut entry)?;
        let [width, height, _, _, _, _, bits, more, a, b, c, d, e, f, g, h] = entry;
        let side = |side: u8| if side == 0 { 256 } else { u32::from(side) };
        let rank = (side(width) * side(height), u16::from_le_bytes([bits, more]));
        let place = (u32::from_le_bytes([e, f, g, h]), u32::from_le_bytes([a, b, c, d]));
        if largest.is_none_or(|(known, _)| rank > known) {
            largest = Some((rank, place));
        }
    }
    let Some((_, (at, length))) = largest else { return Ok(None) };
    source.seek(SeekFrom::Start(at.into()))?;
    let mut png = Vec::new();
    source.take(length.into()).read_to_end(&mut png)?;
    if png.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(png.starts_with(b"\x89PNG\r\n\x1a\n").then_some(png))
}

/// What a decoder of the `image` crate says, in one line: a kind that it does not read, or damage.
pub(super) fn refusal(name: &str, kind: InputKind, error: &DecoderError) -> ImageError {
    let unreadable = |reason: &dyn Display| ImageError::unreadable(name, kind, reason);
    match error {
        error if is_of_the_end(error) => unreadable(&"truncated"),
        DecoderError::Unsupported(error) => {
            let what = error.to_string().replace(['\n', '\r'], " ");
            ImageError::unsupported(name, &format!("{kind} of this kind ({what})"), super::CONVERT)
        }
        DecoderError::IoError(error) => unreadable(error),
        error => unreadable(error),
    }
}

/// `true` if the file ended too early.
fn is_of_the_end(error: &(dyn Error + 'static)) -> bool {
    let of_io = error.downcast_ref::<io::Error>().map(io::Error::kind);
    of_io == Some(io::ErrorKind::UnexpectedEof) || error.source().is_some_and(is_of_the_end)
}
