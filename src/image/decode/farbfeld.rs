//! farbfeld, row by row: 16 bits of red, green, blue and alpha.
//! Source: the manual farbfeld(5) of farbfeld 4.

use std::io::{Read as _, Seek as _, SeekFrom};

use super::header::{ChannelLayout, Decode, Header, check_size};
use super::plain_rows::pass_rows;
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::input::read_error;
use crate::image::metadata::Metadata;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

/// Bytes before the pixels: the magic, the width and the height.
const HEADER: usize = 16;
/// Bytes of a pixel.
const PIXEL: usize = 8;

struct Farbfeld {
    name: String,
    source: Source,
    header: Header,
    allow_truncated: bool,
}

pub(super) fn open(
    name: &str,
    mut source: Source,
    options: &ReadOptions,
) -> Result<Box<dyn Decode>> {
    let unreadable = |source| read_error(name, source);
    let mut head = Vec::new();
    (&mut source).take(HEADER as u64).read_to_end(&mut head).map_err(unreadable)?;
    let &[_, _, _, _, _, _, _, _, a, b, c, d, e, f, g, h] = &head[..] else {
        return Err(ImageError::unreadable(name, Format::Farbfeld, "truncated in its header"));
    };
    let (width, height) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    check_size(name, Format::Farbfeld, width.into(), height.into())?;
    let raster = u64::from(width) * u64::from(height) * PIXEL as u64;
    let whole = source.byte_len().map_err(unreadable)?;
    if whole - (HEADER as u64) < raster && !options.allow_truncated {
        return Err(ImageError::unreadable(name, Format::Farbfeld, "truncated"));
    }
    let (is_opaque, is_narrow) = look(&mut source, raster).map_err(unreadable)?;
    source.seek(SeekFrom::Start(HEADER as u64)).map_err(unreadable)?;
    let header = Header {
        width,
        height,
        layout: if is_opaque { ChannelLayout::Rgb } else { ChannelLayout::Rgba },
        bit_depth: if is_narrow { 8 } else { 16 },
        metadata: Metadata::default(),
        warnings: Vec::new(),
        scratch_bytes: 0,
    };
    let (name, allow_truncated) = (name.to_owned(), options.allow_truncated);
    Ok(Box::new(Farbfeld { name, source, header, allow_truncated }))
}

/// Whether all pixels are opaque, and whether all samples are those of 8 bits: the format always has room for more, and
/// an output in another format should not have it for nothing.
fn look(source: &mut Source, raster: u64) -> std::io::Result<(bool, bool)> {
    let (mut is_opaque, mut is_narrow) = (true, true);
    let mut pixels = source.take(raster);
    let mut block = Vec::new();
    while is_opaque || is_narrow {
        block.clear();
        (&mut pixels).take(1 << 16).read_to_end(&mut block)?;
        if block.is_empty() {
            break;
        }
        for pixel in block.chunks_exact(PIXEL) {
            is_opaque &= pixel[6..] == [255; 2];
            is_narrow &= pixel.chunks_exact(2).all(|sample| sample[0] == sample[1]);
        }
    }
    Ok((is_opaque, is_narrow))
}

impl Decode for Farbfeld {
    fn header(&self) -> &Header {
        &self.header
    }

    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let Self { name, mut source, header, allow_truncated } = *self;
        let channels = header.layout.channels();
        let mut bytes = vec![0; header.width as usize * PIXEL];
        pass_rows(&name, Format::Farbfeld, &header, allow_truncated, take, |out| {
            source.read_exact(&mut bytes)?;
            for pixel in bytes.chunks_exact(PIXEL) {
                let samples = pixel.chunks_exact(2).take(channels);
                out.extend(samples.map(|b| f32::from(u16::from_be_bytes([b[0], b[1]])) / 65535.0));
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::image::{ImageError, decode_bytes};

    fn picture(width: u32, height: u32, samples: &[u16]) -> Vec<u8> {
        let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
        let samples = samples.iter().flat_map(|v| v.to_be_bytes()).collect();
        [b"farbfeld".to_vec(), size, samples].concat()
    }

    #[test]
    fn alpha_and_depth_are_what_the_pixels_need() {
        let opaque = decode_bytes("a", &picture(1, 2, &[257, 0, 65535, 65535, 514, 0, 0, 65535]));
        let opaque = opaque.unwrap();
        assert!(opaque.alpha.is_none() && opaque.bit_depth == 8);
        assert_eq!(opaque.rgb[..], [1.0 / 255.0, 0.0, 1.0, 2.0 / 255.0, 0.0, 0.0]);
        let clear = decode_bytes("a", &picture(1, 1, &[32768, 1, 2, 3])).unwrap();
        assert_eq!((clear.bit_depth, clear.alpha.unwrap()[0]), (16, 3.0 / 65535.0));
        assert_eq!(clear.rgb[0], 32768.0 / 65535.0);
    }

    #[test]
    fn a_short_file_is_refused() {
        let whole = picture(2, 2, &[7; 16]);
        for length in [9, 15, 16, whole.len() - 1] {
            let error = decode_bytes("a", &whole[..length]).unwrap_err();
            assert!(matches!(error, ImageError::Unreadable { .. }), "{error}");
        }
        let error = decode_bytes("a", &picture(u32::MAX, u32::MAX, &[])).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
    }
}
