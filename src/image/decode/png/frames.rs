//! Frames of an APNG, composed: the `png` crate gives each as a part of the canvas, with how it is blended and disposed of.
//! Samples have 8 bits. Source: PNG specification, third edition, 12.4 and 13.11.

use std::num::NonZeroUsize;

use png::{BlendOp, Decoder, DecodingError, DisposeOp, FrameControl, Limits, Transformations};

use super::decoder::{LIMIT, reason};
use crate::image::decode::header::{ChannelLayout, Decode, Header, pass_bytes};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::source::Source;

/// Red, green, blue and alpha.
const CHANNELS: usize = 4;
/// Bytes of a pixel while frames are composed: the canvas, a frame, and what it may have to go back to.
const PIXEL_BYTES: u64 = 12;

/// An APNG of which one frame is read.
pub(super) struct Animation {
    name: String,
    header: Header,
    file: Source,
    /// From 0.
    frame: usize,
    frames: usize,
}

impl Animation {
    /// Frame `number` of an animation whose default picture has this header.
    pub(super) fn new(
        name: &str,
        header: Header,
        file: Source,
        number: NonZeroUsize,
        frames: usize,
    ) -> Self {
        let pixels = u64::from(header.width) * u64::from(header.height);
        let header = Header {
            layout: ChannelLayout::Rgba,
            bit_depth: 8,
            scratch_bytes: pixels * PIXEL_BYTES,
            ..header
        };
        Self { name: name.to_owned(), header, file, frame: number.get() - 1, frames }
    }
}

impl Decode for Animation {
    fn header(&self) -> &Header {
        &self.header
    }

    fn pictures(&self) -> usize {
        self.frames
    }

    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let Self { name, header, file, frame, .. } = *self;
        let bad = |reason: &str| ImageError::unreadable(&name, Format::Png, reason);
        let canvas = composed(file, frame).map_err(|error| bad(&reason(&error)))?;
        let samples = header.width as usize * header.height as usize * CHANNELS;
        let whole = canvas.filter(|canvas| canvas.len() == samples);
        pass_bytes(&header, &whole.ok_or_else(|| bad("a frame is missing"))?, take)?;
        Ok(Vec::new())
    }
}

/// The canvas when frame `wanted` (from 0) is shown; `None` if the file has no such frame.
///
/// # Errors
/// Frames that are damaged or missing.
fn composed(source: Source, wanted: usize) -> std::result::Result<Option<Vec<u8>>, DecodingError> {
    let mut decoder = Decoder::new_with_limits(source, Limits { bytes: LIMIT });
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info()?;
    let (width, height) = reader.info().size();
    let channels = reader.output_color_type().0.samples();
    let Some(size) = reader.output_buffer_size() else { return Ok(None) };
    let mut canvas = vec![0; width as usize * height as usize * CHANNELS];
    let mut data = vec![0; size];
    let mut number = 0;
    loop {
        reader.next_frame(&mut data)?;
        // A picture for those that show no animation is none of its frames.
        let Some(control) = reader.info().frame_control().copied() else { continue };
        let before = (control.dispose_op == DisposeOp::Previous).then(|| canvas.clone());
        draw(&mut canvas, width as usize, &control, &data, channels);
        if number == wanted {
            return Ok(Some(canvas));
        }
        match (control.dispose_op, before) {
            (DisposeOp::None, _) => {}
            // Before the first frame there was nothing.
            (DisposeOp::Previous, Some(before)) if number > 0 => canvas = before,
            _ => {
                let nothing = |_: &[u8], pixel: &mut [u8]| pixel.fill(0);
                each_pixel(&mut canvas, width as usize, &control, &data, channels, nothing);
            }
        }
        number += 1;
    }
}

/// Calls `change` with each pixel of a frame and the one below it.
fn each_pixel(
    canvas: &mut [u8],
    width: usize,
    control: &FrameControl,
    data: &[u8],
    channels: usize,
    change: impl Fn(&[u8], &mut [u8]),
) {
    let row = control.width as usize * channels;
    let (left, top) = (control.x_offset as usize * CHANNELS, control.y_offset as usize);
    let below = canvas.chunks_exact_mut(width * CHANNELS).skip(top);
    for (below, row) in below.zip(data.chunks_exact(row).take(control.height as usize)) {
        let below = below[left..].chunks_exact_mut(CHANNELS);
        row.chunks_exact(channels).zip(below).for_each(|(pixel, below)| change(pixel, below));
    }
}

fn draw(canvas: &mut [u8], width: usize, control: &FrameControl, data: &[u8], channels: usize) {
    let is_over = control.blend_op == BlendOp::Over;
    each_pixel(canvas, width, control, data, channels, |pixel, below| {
        let (colours, alpha) = match *pixel {
            [grey] => ([grey; 3], 255),
            [grey, alpha] => ([grey; 3], alpha),
            [r, g, b] => ([r, g, b], 255),
            [r, g, b, alpha, ..] => ([r, g, b], alpha),
            [] => return,
        };
        let (alpha, under) = (u32::from(alpha), u32::from(below[3]));
        if !is_over || alpha == 255 || under == 0 {
            below[..3].copy_from_slice(&colours);
            below[3] = alpha as u8;
        } else if alpha > 0 {
            // Shares of 255²: of this pixel, and of what shows through it.
            let (own, through) = (alpha * 255, under * (255 - alpha));
            let both = own + through;
            for (below, colour) in below.iter_mut().zip(colours) {
                let sum = u32::from(colour) * own + u32::from(*below) * through;
                *below = ((sum + both / 2) / both) as u8;
            }
            below[3] = ((both + 127) / 255) as u8;
        }
    });
}
