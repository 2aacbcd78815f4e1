//! Simple formats of 8 bits (BMP, TGA, QOI, ICO, DDS) through the decoders of the `image` crate, which decode a picture as
//! a whole. Grey palettes stay grey; others become colours.

use std::fmt::Display;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use image::codecs::{
    bmp::BmpDecoder, dds::DdsDecoder, ico::IcoDecoder, qoi::QoiDecoder, tga::TgaDecoder,
};
use image::{ColorType, ImageDecoder, ImageResult, error::ImageError as DecoderError};

use super::InputKind;
use super::header::{ChannelLayout, Decode, Header, check_size, pass_bytes};
use super::whole;
use crate::image::error::{ImageError, Result, Warning};
use crate::image::input::read_error;
use crate::image::metadata::Metadata;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

/// What helps with a picture of light.
const CONVERT_LIGHT: &str = "convert it: magick FILE NEW.exr";

struct Raster {
    name: String,
    kind: InputKind,
    header: Header,
    /// Samples of a pixel as the decoder gives them: three of a grey palette.
    channels: usize,
    decoder: Box<dyn ImageDecoder>,
    /// All bytes of one that may end early.
    bytes: Option<Arc<[u8]>>,
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
    let mut bytes = None;
    // The decoders of the others put rows in their places when they have all of them.
    if options.allow_truncated && matches!(kind, InputKind::Bmp | InputKind::Qoi) {
        let all = source.into_bytes().map_err(|error| read_error(name, error))?;
        source = Source::memory(all.clone());
        bytes = Some(all);
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
    let mut scratch_bytes = u64::from(width) * u64::from(height) * channels as u64;
    if let Some(bytes) = &bytes {
        scratch_bytes = 2 * scratch_bytes + bytes.len() as u64;
    }
    let header = Header {
        width,
        height,
        layout: if is_grey { ChannelLayout::Grey } else { layout },
        bit_depth: 8,
        metadata: Metadata::default(),
        warnings: Vec::new(),
        scratch_bytes,
    };
    Ok(Box::new(Raster { name: name.to_owned(), kind, header, channels, decoder, bytes }))
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
        let Self { name, kind, header, channels, decoder: own, bytes } = *self;
        let mut data = vec![0; own.total_bytes() as usize];
        let again = bytes.map(|bytes| move || Ok(decoder(Source::memory(bytes.clone()), kind)?.0));
        let again = again.as_ref().map(|again| again as whole::Again<'_>);
        let rows = whole::decode(own, again, &mut data);
        let rows = rows.map_err(|error| refusal(&name, kind, &error))?;
        let warnings = whole::complete(&mut data, rows, header.width as usize * channels);
        if header.layout.channels() < channels {
            let pixels = data.len() / channels;
            (0..pixels).for_each(|at| data[at] = data[at * channels]);
            data.truncate(pixels);
        }
        pass_bytes(&header, &data, take)?;
        Ok(warnings)
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
        error if whole::is_of_the_end(error) => unreadable(&"truncated"),
        DecoderError::Unsupported(error) => {
            let what = error.to_string().replace(['\n', '\r'], " ");
            let help = if kind == InputKind::Radiance { CONVERT_LIGHT } else { super::CONVERT };
            ImageError::unsupported(name, &format!("{kind} of this kind ({what})"), help)
        }
        DecoderError::IoError(error) => unreadable(error),
        error => unreadable(error),
    }
}

#[cfg(test)]
mod tests {
    use crate::image::{Input, Picture, ReadOptions, Result, Warning, open};

    /// A BMP of 24 bits of 3 × 4 pixels, whose rows, in the file from the bottom, are 1, 2, 3 and 4 throughout.
    fn bmp() -> Vec<u8> {
        let mut bytes = b"BM\x66\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x03\0\0\0\x04\0\0\0".to_vec();
        bytes.extend(b"\x01\0\x18\0\0\0\0\0\x30\0\0\0");
        bytes.resize(54, 0);
        (1..=4u8).for_each(|row| bytes.extend([row; 12]));
        bytes
    }

    fn qoi() -> Vec<u8> {
        let mut bytes = b"qoif\0\0\0\x03\0\0\0\x04\x03\0".to_vec();
        (1..=4u8).for_each(|row| (0..3).for_each(|_| bytes.extend([0xFE, row, row, row])));
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        bytes
    }

    fn read(bytes: &[u8], allow_truncated: bool) -> Result<Picture> {
        let options = ReadOptions { allow_truncated, ..ReadOptions::default() };
        open(&Input::Bytes(bytes.into()), &options)?.decode()
    }

    fn rows(picture: &Picture) -> Vec<u8> {
        picture.rgb.chunks(9).map(|row| (row[4] * 255.0).round() as u8).collect()
    }

    #[test]
    fn what_ends_early_is_refused_or_read_as_far_as_it_goes() {
        assert_eq!(rows(&read(&bmp(), true).unwrap()), [4, 3, 2, 1]);
        assert_eq!(rows(&read(&qoi(), true).unwrap()), [1, 2, 3, 4]);
        let (bmp, qoi) = (bmp(), qoi());
        for (bytes, expected) in
            [(&bmp[..bmp.len() - 20], [2, 2, 2, 1]), (&qoi[..qoi.len() - 8 - 20], [1, 2, 2, 2])]
        {
            let error = read(bytes, false).unwrap_err();
            assert!(error.to_string().contains("not a readable image"), "{error}");
            let part = read(bytes, true).unwrap();
            assert_eq!(rows(&part), expected);
            assert_eq!(part.warnings, [Warning::Truncated { rows_read: 2, rows: 4 }]);
        }
        let error = read(&bmp[..54 + 5], true).unwrap_err();
        assert!(error.to_string().ends_with("(BMP: truncated)"), "{error}");
    }
}
