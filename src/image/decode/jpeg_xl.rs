//! JPEG XL through `jxl`, the decoder of the format's authors, which turns the picture upright itself. Integer samples of up
//! to 16 bits; floats are cut at white, with a note.

use std::sync::Arc;

use jxl::api::{
    AlphaMode, Endianness, Event, ExtraChannel, JxlBitDepth, JxlColorProfile, JxlColorType,
    JxlDataFormat, JxlDecoder, JxlDecoderOptions, JxlOutputBuffer, JxlPixelFormat, ProfileLevel,
};

use super::InputKind;
use super::header::{ChannelLayout, Decode, Header, check_size, pass_bytes, pass_words};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::input::read_error;
use crate::image::metadata;
use crate::image::picture::MAX_PIXELS;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

const KIND: InputKind = InputKind::JpegXl;
/// Channels beside colours and alpha that a file may have.
const MAX_EXTRA: usize = 16;
/// Frames that are counted.
const MAX_FRAMES: usize = 1 << 16;
/// Bytes of a sample while it is decoded: a frame, and two that later ones may refer to.
const SAMPLE_BYTES: u64 = 12;

struct JpegXl {
    name: String,
    header: Header,
    bytes: Arc<[u8]>,
    format: JxlPixelFormat,
    frame: usize,
    frames: usize,
    allow_truncated: bool,
}

/// A decoder of a file's frames, or only of their headers.
fn decoder(headers_only: bool) -> JxlDecoder {
    let mut options = JxlDecoderOptions::default();
    options.sample_limit = Some(MAX_PIXELS as usize * (4 + MAX_EXTRA));
    options.alpha_mode = AlphaMode::Unpremultiplied;
    options.max_profile_level = ProfileLevel::Main10;
    options.scan_frames_only = headers_only;
    JxlDecoder::new(options)
}

pub(super) fn open(
    name: &str,
    mut source: Source,
    options: &ReadOptions,
) -> Result<Box<dyn Decode>> {
    let bad = |reason: &dyn std::fmt::Display| ImageError::unreadable(name, KIND, reason);
    let unsupported = |what: &str| ImageError::unsupported(name, what, super::CONVERT);
    let (mut metadata, mut warnings) =
        metadata::read_boxes(name, &mut source, options.max_metadata)?;
    metadata::set_upright(&mut metadata);
    let bytes = source.into_bytes().map_err(|error| read_error(name, error))?;
    let mut decoder = decoder(true);
    let mut input = &bytes[..];
    match decoder.process(&mut input, None, None).map_err(|error| bad(&error))? {
        Event::BasicInfo => {}
        _ => return Err(bad(&"truncated before the pixels")),
    }
    let (Some(info), Some(profile)) =
        (decoder.basic_info().cloned(), decoder.embedded_color_profile().cloned())
    else {
        return Err(bad(&"no header"));
    };
    let (width, height) = info.size;
    check_size(name, KIND, width as u64, height as u64)?;
    if profile.is_cmyk() {
        return Err(unsupported("JPEG XL of CMYK"));
    }
    if info.extra_channels.len() > MAX_EXTRA {
        return Err(unsupported("JPEG XL of so many channels"));
    }
    let has_alpha = info.extra_channels.iter().any(|c| c.ec_type == ExtraChannel::Alpha);
    let (layout, color_type) = match (profile.channels(), has_alpha) {
        (1, false) => (ChannelLayout::Grey, JxlColorType::Grayscale),
        (1, true) => (ChannelLayout::GreyAlpha, JxlColorType::GrayscaleAlpha),
        (_, false) => (ChannelLayout::Rgb, JxlColorType::Rgb),
        (_, true) => (ChannelLayout::Rgba, JxlColorType::Rgba),
    };
    let is_deep = info.bit_depth.bits_per_sample() > 8;
    let color_data_format = if is_deep {
        JxlDataFormat::U16 { endianness: Endianness::native(), bit_depth: 16 }
    } else {
        JxlDataFormat::U8 { bit_depth: 8 }
    };
    let format = JxlPixelFormat {
        color_type,
        color_data_format: Some(color_data_format),
        extra_channel_format: vec![None; info.extra_channels.len()],
    };
    decoder.set_pixel_format(format.clone()).map_err(|error| bad(&error))?;
    let output = decoder.output_color_profile().unwrap_or(&profile);
    metadata.icc = profile_of(output, layout);
    if metadata.icc.as_ref().is_some_and(|icc| icc.len() as u64 > options.max_metadata) {
        let (name, limit) = (name.to_owned(), options.max_metadata);
        return Err(ImageError::MetadataTooLarge { name, what: "colour profile", limit });
    }
    let left_out = info.extra_channels.iter().filter(|c| c.ec_type != ExtraChannel::Alpha).count();
    let mut say = |what: &str| warnings.push(Warning::Interpreted(what.to_owned()));
    if left_out > 0 {
        say("channels that are neither colour nor transparency were left out");
    }
    if matches!(info.bit_depth, JxlBitDepth::Float { .. }) {
        say("the picture has floats: cut at white and kept with 16 bits");
    }
    let frames = if info.animation.is_some() { frames(&mut decoder, input) } else { 1 };
    if frames > 1 && options.picture.is_none() {
        warnings.push(Warning::FirstFrameOnly(KIND));
    }
    let channels = layout.channels() + left_out;
    let of_output = (layout.channels() * if is_deep { 2 } else { 1 }) as u64;
    let header = Header {
        width: width as u32,
        height: height as u32,
        layout,
        bit_depth: if is_deep { 16 } else { 8 },
        metadata,
        warnings,
        scratch_bytes: (width as u64 * height as u64)
            * (channels as u64 * SAMPLE_BYTES + of_output)
            + bytes.len() as u64,
    };
    let frame = options.picture.map_or(0, |picture| picture.get() - 1);
    let allow_truncated = options.allow_truncated;
    let name = name.to_owned();
    Ok(Box::new(JpegXl { name, header, bytes, format, frame, frames, allow_truncated }))
}

/// The profile of the decoder's output; `None` for sRGB.
fn profile_of(profile: &JxlColorProfile, layout: ChannelLayout) -> Option<Vec<u8>> {
    let srgb = JxlColorProfile::Simple(jxl::api::JxlColorEncoding::srgb(layout.is_grey()));
    if profile.same_color_encoding(&srgb) && profile.transfer_function() == srgb.transfer_function()
    {
        return None;
    }
    profile.try_as_icc().map(|icc| icc.into_owned())
}

/// Number of the frames that are shown; those that are whole, of a file that ends early.
fn frames(decoder: &mut JxlDecoder, mut input: &[u8]) -> usize {
    let mut frames = 0;
    while frames < MAX_FRAMES {
        match decoder.process(&mut input, None, None) {
            Ok(Event::FrameComplete { has_more_frames }) => {
                frames += 1;
                if !has_more_frames {
                    break;
                }
            }
            Ok(Event::FrameHeader | Event::BasicInfo) => {}
            _ => break,
        }
    }
    frames.max(1)
}

impl Decode for JpegXl {
    fn header(&self) -> &Header {
        &self.header
    }

    fn pictures(&self) -> usize {
        self.frames
    }

    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let row = self.header.width as usize * self.header.layout.channels();
        let samples = row * self.header.height as usize;
        if self.header.bit_depth == 16 {
            let mut data = vec![0u16; samples];
            let warnings = self.pixels(bytemuck::cast_slice_mut(&mut data), 2 * row)?;
            pass_words(&self.header, &data, take)?;
            return Ok(warnings);
        }
        let mut data = vec![0; samples];
        let warnings = self.pixels(&mut data, row)?;
        pass_bytes(&self.header, &data, take)?;
        Ok(warnings)
    }
}

impl JpegXl {
    /// Decodes the frame into rows of so many bytes.
    fn pixels(&self, data: &mut [u8], row_bytes: usize) -> Result<Vec<Warning>> {
        let bad = |reason: &dyn std::fmt::Display| ImageError::unreadable(&self.name, KIND, reason);
        let rows = self.header.height as usize;
        let mut decoder = decoder(false);
        let mut input = &self.bytes[..];
        let mut frames = 0;
        loop {
            let mut buffer = [JxlOutputBuffer::new(data, rows, row_bytes)];
            let has_format = decoder.current_pixel_format().is_some();
            let wanted = (has_format && frames == self.frame).then_some(&mut buffer[..]);
            match decoder.process(&mut input, wanted, None) {
                Ok(Event::BasicInfo) => {
                    decoder.set_pixel_format(self.format.clone()).map_err(|error| bad(&error))?;
                }
                Ok(Event::FrameHeader) => {}
                Ok(Event::FrameComplete { .. }) if frames == self.frame => return Ok(Vec::new()),
                Ok(Event::FrameComplete { .. }) => frames += 1,
                Ok(Event::Complete) => return Err(bad(&"a frame is missing")),
                Ok(Event::NeedMoreInput { .. }) if self.allow_truncated => {
                    let mut buffer = [JxlOutputBuffer::new(data, rows, row_bytes)];
                    let drawn = decoder.flush_pixels(&mut buffer, None);
                    return match drawn {
                        Ok(true) => Ok(vec![Warning::DetailMissing(KIND)]),
                        _ => Err(bad(&"truncated before the first pixels")),
                    };
                }
                Ok(Event::NeedMoreInput { .. }) => return Err(bad(&"truncated")),
                Err(error) => return Err(bad(&error)),
            }
        }
    }
}
