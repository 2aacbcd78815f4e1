//! AVIF through `re_rav1d`, the decoder dav1d in Rust: 8, 10 and 12 bits, grids of tiles, transparency, turned upright. The
//! file around the coded pictures is read by [`container`].

mod container;
mod tile;

use std::sync::Arc;

use self::container::{Contents, Layer, Refusal, contents};
use super::InputKind;
use super::header::{ChannelLayout, Decode, Header, check_size, pass_words};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::input::read_error;
use crate::image::metadata::{self, Blocks};
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

const KIND: InputKind = InputKind::Avif;
/// Bytes of a pixel while it is decoded, beside its samples: frames of the decoder and what it remembers of their blocks.
const PIXEL_BYTES: u64 = 32;
const CONVERT: &str = "convert it: avifdec FILE NEW.png";

struct Avif {
    name: String,
    header: Header,
    contents: Contents,
}

fn refused(name: &str, refusal: Refusal) -> ImageError {
    match refusal {
        Refusal::Damaged(why) => ImageError::unreadable(name, KIND, why),
        Refusal::Unsupported(what) => {
            ImageError::unsupported(name, &format!("AVIF with {what}"), CONVERT)
        }
    }
}

pub(super) fn open(name: &str, source: Source, options: &ReadOptions) -> Result<Box<dyn Decode>> {
    let bytes: Arc<[u8]> = source.into_bytes().map_err(|error| read_error(name, error))?;
    let mut contents = contents(&bytes).map_err(|refusal| refused(name, refusal))?;
    let (width, height) = (contents.colours.width, contents.colours.height);
    check_size(name, KIND, width.into(), height.into())?;
    let layout = match (contents.is_grey, contents.alpha.is_some()) {
        (true, false) => ChannelLayout::Grey,
        (true, true) => ChannelLayout::GreyAlpha,
        (false, false) => ChannelLayout::Rgb,
        (false, true) => ChannelLayout::Rgba,
    };
    let icc = contents.icc.take().or_else(|| {
        let numbers = contents.numbers?;
        let (primaries, transfer) = (numbers.primaries, numbers.transfer);
        metadata::profile_of_code_points(primaries, transfer, contents.is_grey)
    });
    let blocks = Blocks { icc, exif: contents.exif.take(), xmp: contents.xmp.take() };
    let (mut metadata, warnings) = metadata::of_blocks(name, blocks, options.max_metadata)?;
    // The container says how the picture lies.
    metadata::set_upright(&mut metadata);
    let pixels = u64::from(width) * u64::from(height);
    let (width, height) = if contents.turns % 2 == 1 { (height, width) } else { (width, height) };
    let header = Header {
        width,
        height,
        layout,
        bit_depth: if contents.depth > 8 { 16 } else { 8 },
        metadata,
        warnings,
        scratch_bytes: pixels * (2 * layout.channels() as u64 + PIXEL_BYTES) + bytes.len() as u64,
    };
    Ok(Box::new(Avif { name: name.to_owned(), header, contents }))
}

impl Decode for Avif {
    fn header(&self) -> &Header {
        &self.header
    }

    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let Self { name, header, contents } = *self;
        let Contents { colours, alpha, premultiplied, turns, mirror, is_grey, numbers, .. } =
            contents;
        let channels = header.layout.channels();
        let (width, height) = (colours.width as usize, colours.height as usize);
        let steps = if header.bit_depth == 16 { 65_535.0 } else { 255.0 };
        let mut data = vec![0u16; width * height * channels];
        let mut place = |layer: Layer, is_alpha: bool| {
            tiles(layer, |tile, x, y| {
                let pixels = tile::Pixels { data: &mut data, width, height, channels };
                if is_alpha {
                    tile.grey(pixels, (x, y), channels - 1, steps, true)
                } else if is_grey {
                    tile.grey(pixels, (x, y), 0, steps, tile.full_range(numbers))
                } else {
                    tile.colours(pixels, (x, y), steps, numbers)
                }
            })
        };
        place(colours, false).map_err(|refusal| refused(&name, refusal))?;
        if let Some(alpha) = alpha {
            place(alpha, true).map_err(|refusal| refused(&name, refusal))?;
        }
        if premultiplied && header.layout.has_alpha() {
            for pixel in data.chunks_exact_mut(channels) {
                let (colours, alpha) = pixel.split_at_mut(channels - 1);
                let alpha = u32::from(alpha[0]).max(1);
                for colour in colours {
                    *colour = (u32::from(*colour) * 65_535 / alpha).min(65_535) as u16;
                }
            }
        }
        if turns > 0 || mirror.is_some() {
            data = upright(&data, (width, height), channels, turns, mirror);
        }
        pass_words(&header, &data, take)?;
        Ok(Vec::new())
    }
}

/// Decodes the tiles of a layer, one after the other, and hands out each with its place.
fn tiles(
    layer: Layer,
    mut take: impl FnMut(&tile::Tile, usize, usize) -> std::result::Result<(), Refusal>,
) -> std::result::Result<(), Refusal> {
    let (rows, columns) = (layer.rows, layer.columns);
    let mut size = None;
    for (at, data) in layer.tiles.into_iter().enumerate() {
        let tile = tile::Tile::decode(data)?;
        let (width, height) = *size.get_or_insert(tile.size());
        let covers =
            width * columns >= layer.width as usize && height * rows >= layer.height as usize;
        if tile.size() != (width, height) || !covers {
            return Err(Refusal::Damaged("tiles that do not make the picture"));
        }
        take(&tile, at % columns * width, at / columns * height)?;
    }
    Ok(())
}

/// A picture turned so many quarters against the clock, then mirrored.
fn upright(
    data: &[u16],
    (width, height): (usize, usize),
    channels: usize,
    turns: u8,
    mirror: Option<u8>,
) -> Vec<u16> {
    let (out_width, out_height) = if turns % 2 == 1 { (height, width) } else { (width, height) };
    let mut out = Vec::with_capacity(data.len());
    for y in 0..out_height {
        for x in 0..out_width {
            let (x, y) = match mirror {
                Some(0) => (x, out_height - 1 - y),
                Some(_) => (out_width - 1 - x, y),
                None => (x, y),
            };
            let (x, y) = match turns {
                1 => (width - 1 - y, x),
                2 => (width - 1 - x, height - 1 - y),
                3 => (y, height - 1 - x),
                _ => (x, y),
            };
            let at = (y * width + x) * channels;
            out.extend_from_slice(&data[at..at + channels]);
        }
    }
    out
}
