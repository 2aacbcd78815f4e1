//! Frames of a GIF or an animated WebP, composed as a viewer shows them: each frame disposes of the one before and blends over
//! it, so that a frame is known when all before it are. A GIF is always read so, of a WebP the frames that are asked for.
//! Samples have 8 bits.

use std::io::Seek as _;
use std::num::NonZeroUsize;

use gif::{ColorOutput, DecodeOptions, DisposalMethod};
use image::codecs::{gif::GifDecoder, webp::WebPDecoder};
use image::{AnimationDecoder as _, ImageResult, Rgba};

use super::header::{ChannelLayout, Decode, Header, check_size, of_rgba, pass_bytes};
use super::raster::refusal;
use super::{CONVERT, InputKind};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::input::read_error;
use crate::image::metadata;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

/// Bytes of a pixel while frames are composed: the canvas, the frame, the one before, and what is handed out.
const PIXEL_BYTES: u64 = 16;

struct Animation {
    name: String,
    kind: InputKind,
    header: Header,
    source: Source,
    /// The frame that is read, from 0.
    frame: usize,
    frames: usize,
}

/// A GIF: its first frame, or the one that is asked for.
pub(super) fn open_gif(
    name: &str,
    mut source: Source,
    options: &ReadOptions,
) -> Result<Box<dyn Decode>> {
    let kind = InputKind::Gif;
    // All frames of an animation have the same channels where they are asked for.
    let scan = scan(name, &mut source, if options.picture.is_some() { usize::MAX } else { 1 })?;
    check_size(name, kind, scan.width.into(), scan.height.into())?;
    let blocks = metadata::Blocks { icc: scan.icc, exif: None, xmp: scan.xmp };
    let (metadata, mut warnings) = metadata::of_blocks(name, blocks, options.max_metadata)?;
    if options.picture.is_none() && scan.frames > 1 {
        warnings.push(Warning::FirstFrameOnly(kind));
    }
    let header = Header {
        width: scan.width.into(),
        height: scan.height.into(),
        layout: match (scan.is_grey, scan.is_opaque) {
            (true, true) => ChannelLayout::Grey,
            (true, false) => ChannelLayout::GreyAlpha,
            (false, true) => ChannelLayout::Rgb,
            (false, false) => ChannelLayout::Rgba,
        },
        bit_depth: 8,
        metadata,
        warnings,
        scratch_bytes: 0,
    };
    Ok(frame((name, kind), source, header, scan.frames, options))
}

/// The frame that is asked for, or the first, of an animation with this header.
pub(super) fn frame(
    (name, kind): (&str, InputKind),
    source: Source,
    mut header: Header,
    frames: usize,
    options: &ReadOptions,
) -> Box<dyn Decode> {
    let frame = options.picture.map_or(1, NonZeroUsize::get) - 1;
    header.scratch_bytes = u64::from(header.width) * u64::from(header.height) * PIXEL_BYTES;
    Box::new(Animation { name: name.to_owned(), kind, header, source, frame, frames })
}

impl Decode for Animation {
    fn header(&self) -> &Header {
        &self.header
    }

    fn pictures(&self) -> usize {
        self.frames
    }

    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let Self { name, kind, header, source, frame, .. } = *self;
        let canvas = canvas(source, kind, frame).map_err(|error| refusal(&name, kind, &error))?;
        let samples = header.width as usize * header.height as usize * 4;
        let Some(canvas) = canvas.filter(|canvas| canvas.len() == samples) else {
            return Err(ImageError::unreadable(&name, kind, "a frame is missing"));
        };
        pass_bytes(&header, &of_rgba(canvas, header.layout), take)?;
        Ok(Vec::new())
    }
}

/// The canvas when frame `wanted` (from 0) of a GIF or a WebP is shown.
fn canvas(source: Source, kind: InputKind, wanted: usize) -> ImageResult<Option<Vec<u8>>> {
    let mut frames = if kind == InputKind::Gif {
        GifDecoder::new(source)?.into_frames()
    } else {
        let mut decoder = WebPDecoder::new(source)?;
        // What a frame leaves behind where it is disposed of; that of the file is for those who show no transparency.
        decoder.set_background_color(Rgba([0; 4]))?;
        decoder.into_frames()
    };
    for _ in 0..wanted {
        frames.next().transpose()?;
    }
    let frame = frames.next().transpose()?;
    Ok(frame.map(|frame| frame.into_buffer().into_raw()))
}

/// What the blocks of a GIF say before anything is decompressed.
struct Scan {
    width: u16,
    height: u16,
    frames: usize,
    /// No frame is transparent or leaves a hole, and the first covers the canvas.
    is_opaque: bool,
    /// All palettes are grey.
    is_grey: bool,
    icc: Option<Vec<u8>>,
    xmp: Option<Vec<u8>>,
}

/// Looks at all blocks; whether it is grey or opaque is decided by so many of the first frames.
fn scan(name: &str, source: &mut Source, first: usize) -> Result<Scan> {
    let bad = |error: gif::DecodingError| {
        refusal(
            name,
            InputKind::Gif,
            &image::ImageError::Decoding(image::error::DecodingError::new(
                image::ImageFormat::Gif.into(),
                error,
            )),
        )
    };
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.skip_frame_decoding(true);
    let mut decoder = options.read_info(&mut *source).map_err(bad)?;
    let is_grey = |palette: &[u8]| palette.chunks_exact(3).all(|c| c[0] == c[1] && c[1] == c[2]);
    let (width, height) = (decoder.width(), decoder.height());
    let common = decoder.global_palette().map(is_grey);
    let mut found =
        Scan { width, height, frames: 0, is_opaque: true, is_grey: true, icc: None, xmp: None };
    loop {
        // Frames after the first may be damaged or missing, and the first can be shown.
        let frame = match decoder.next_frame_info() {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) if found.frames == 0 => return Err(bad(error)),
            Err(_) => break,
        };
        // One that does not fit takes its own memory, of which the size of the picture says nothing.
        if frame.width > width || frame.height > height {
            match found.frames {
                0 => {
                    let kind = "a GIF whose first frame is larger than the picture";
                    return Err(ImageError::unsupported(name, kind, CONVERT));
                }
                _ => break,
            }
        }
        if found.frames < first {
            let place = (frame.left, frame.top, frame.width, frame.height);
            let covers = place == (0, 0, width, height) || found.frames > 0;
            let has_holes = frame.transparent.is_some() && found.frames == 0;
            found.is_opaque &= covers
                && !has_holes
                && (found.frames + 1 == first || frame.dispose != DisposalMethod::Background);
            found.is_grey &= frame.palette.as_deref().map(is_grey).or(common).unwrap_or(true);
        }
        found.frames += 1;
    }
    if found.frames == 0 {
        return Err(ImageError::unreadable(name, InputKind::Gif, "no picture in it"));
    }
    found.icc = decoder.icc_profile().map(Vec::from);
    found.xmp = decoder.xmp_metadata().map(Vec::from);
    source.rewind().map_err(|error| read_error(name, error))?;
    Ok(found)
}
