//! HEIC through `heic-decoder`, which decodes a picture as a whole and turns it upright itself: 8 to 16 bits, with alpha.

use std::sync::Arc;

use super::InputKind;
use super::header::{ChannelLayout, Decode, Header, check_size, of_rgba, pass_bytes, pass_words};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::input::read_error;
use crate::image::metadata::{self, Blocks};
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;
use heic_decoder::HeifError;

const KIND: InputKind = InputKind::Heic;
/// Bytes of a pixel while it is decoded: planes of 32 bits of the tiles and of the whole, and colours of 16 bits.
const PIXEL_BYTES: u64 = 40;

struct Heic {
    name: String,
    header: Header,
    bytes: Arc<[u8]>,
}

/// What the decoder says, in one line: a kind that it does not read, or damage.
fn refusal(name: &str, error: &HeifError) -> ImageError {
    match error {
        HeifError::Unsupported(what) => {
            let kind = format!("HEIC of this kind ({what})");
            ImageError::unsupported(name, &kind, "convert it: heif-convert FILE NEW.png")
        }
        HeifError::Truncated { .. } => ImageError::unreadable(name, KIND, "truncated"),
        error => ImageError::unreadable(name, KIND, error),
    }
}

pub(super) fn open(name: &str, source: Source, options: &ReadOptions) -> Result<Box<dyn Decode>> {
    let bytes = source.into_bytes().map_err(|error| read_error(name, error))?;
    let info = heic_decoder::probe(&bytes).map_err(|error| refusal(name, &error))?;
    let found = heic_decoder::read_metadata(&bytes).map_err(|error| refusal(name, &error))?;
    check_size(name, KIND, info.width as u64, info.height as u64)?;
    let grey = info.chroma_format_idc == 0;
    let icc = found.icc_profile.or_else(|| {
        let colour = found.color_info?;
        let (primaries, transfer) = (colour.color_primaries, colour.transfer_characteristics);
        metadata::profile_of_code_points(primaries, transfer, grey)
    });
    let blocks = Blocks { icc, exif: found.exif, xmp: found.xmp };
    let (mut metadata, warnings) = metadata::of_blocks(name, blocks, options.max_metadata)?;
    // The container says how the picture lies, and the decoder has obeyed it.
    metadata::set_upright(&mut metadata);
    let header = Header {
        width: info.width as u32,
        height: info.height as u32,
        layout: match (grey, info.alpha_bit_depth.is_some()) {
            (true, false) => ChannelLayout::Grey,
            (true, true) => ChannelLayout::GreyAlpha,
            (false, false) => ChannelLayout::Rgb,
            (false, true) => ChannelLayout::Rgba,
        },
        bit_depth: if info.bit_depth_luma.max(info.bit_depth_chroma) > 8 { 16 } else { 8 },
        metadata,
        warnings,
        scratch_bytes: (info.coded_width as u64 * info.coded_height as u64) * PIXEL_BYTES
            + bytes.len() as u64,
    };
    Ok(Box::new(Heic { name: name.to_owned(), header, bytes }))
}

impl Decode for Heic {
    fn header(&self) -> &Header {
        &self.header
    }

    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let Self { name, header, bytes } = *self;
        let bad = |error: HeifError| refusal(&name, &error);
        let image = heic_decoder::decode(&bytes).map_err(bad)?;
        if (image.width, image.height) != (header.width as usize, header.height as usize) {
            return Err(ImageError::unreadable(&name, KIND, "sizes that contradict each other"));
        }
        let premultiplied = image.alpha.as_ref().is_some_and(|alpha| alpha.premultiplied);
        if header.bit_depth == 16 || premultiplied {
            let mut data = image.to_rgba16().map_err(bad)?.data;
            drop(image);
            if premultiplied {
                unpremultiply(&mut data);
            }
            pass_words(&header, &of_rgba(data, header.layout), take)?;
        } else {
            let data = image.to_rgba8().map_err(bad)?.data;
            drop(image);
            pass_bytes(&header, &of_rgba(data, header.layout), take)?;
        }
        Ok(Vec::new())
    }
}

/// Divides colours by the opacity that they were multiplied by.
fn unpremultiply(data: &mut [u16]) {
    for pixel in data.chunks_exact_mut(4) {
        let alpha = u32::from(pixel[3]).max(1);
        for colour in &mut pixel[..3] {
            *colour = (u32::from(*colour) * 65_535 / alpha).min(65_535) as u16;
        }
    }
}
