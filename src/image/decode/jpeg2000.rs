//! JPEG 2000 through `hayro-jpeg2000`, which decodes a picture as a whole, from 1 to 16 bits per sample.

use std::sync::Arc;

use hayro_jpeg2000::{ColorSpace, DecodeSettings, DecoderContext, Image};

use super::InputKind;
use super::header::{ChannelLayout, Decode, Header, check_size};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::input::read_error;
use crate::image::metadata;
use crate::image::plane::band_rows;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

const KIND: InputKind = InputKind::Jpeg2000;
/// Bytes of a sample while it is decoded: coefficients, the wavelet's two halves, and the component.
const SAMPLE_BYTES: u64 = 16;
/// The most bits of a sample; f32 holds 24.
const MAX_DEPTH: u8 = 24;

struct Jpeg2000 {
    name: String,
    header: Header,
    bytes: Arc<[u8]>,
    allow_truncated: bool,
}

/// Settings of the decoder: what is missing is an error, unless it is allowed.
fn settings(allow_truncated: bool) -> DecodeSettings {
    DecodeSettings { strict: !allow_truncated, ..DecodeSettings::default() }
}

pub(super) fn open(
    name: &str,
    mut source: Source,
    options: &ReadOptions,
) -> Result<Box<dyn Decode>> {
    let (mut metadata, mut warnings) =
        metadata::read_boxes(name, &mut source, options.max_metadata)?;
    let bytes = source.into_bytes().map_err(|error| read_error(name, error))?;
    let allow_truncated = options.allow_truncated;
    let image = Image::new(&bytes, &settings(allow_truncated))
        .map_err(|error| ImageError::unreadable(name, KIND, error))?;
    let (width, height) = (image.width(), image.height());
    check_size(name, KIND, width.into(), height.into())?;
    let depth = image.original_bit_depth();
    let unsupported = |what: String| ImageError::unsupported(name, &what, super::CONVERT);
    if depth > MAX_DEPTH {
        return Err(unsupported(format!("JPEG 2000 of {depth} bits")));
    }
    let channels = image.color_space().num_channels();
    let layout = match (channels, image.has_alpha()) {
        (1, false) => ChannelLayout::Grey,
        (1, true) => ChannelLayout::GreyAlpha,
        (3, false) => ChannelLayout::Rgb,
        (3, true) => ChannelLayout::Rgba,
        (4, false) => ChannelLayout::Cmyk,
        (4, true) => ChannelLayout::CmykAlpha,
        (n, _) => return Err(unsupported(format!("JPEG 2000 of {n} channels"))),
    };
    if let ColorSpace::Icc { profile, .. } = image.color_space() {
        if profile.len() as u64 > options.max_metadata {
            let (name, limit) = (name.to_owned(), options.max_metadata);
            return Err(ImageError::MetadataTooLarge { name, what: "colour profile", limit });
        }
        metadata.icc = Some(profile.clone());
    }
    if matches!(image.color_space(), ColorSpace::Unknown { .. }) {
        let what = "the file does not say what its channels mean: taken as sRGB";
        warnings.push(Warning::Interpreted(what.to_owned()));
    }
    let samples = u64::from(width) * u64::from(height) * layout.channels() as u64;
    let header = Header {
        width,
        height,
        layout,
        bit_depth: if depth > 8 { 16 } else { 8 },
        metadata,
        warnings,
        scratch_bytes: samples * SAMPLE_BYTES + bytes.len() as u64,
    };
    drop(image);
    Ok(Box::new(Jpeg2000 { name: name.to_owned(), header, bytes, allow_truncated }))
}

impl Decode for Jpeg2000 {
    fn header(&self) -> &Header {
        &self.header
    }

    fn rows(self: Box<Self>, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<Warning>> {
        let Self { name, header, bytes, allow_truncated } = *self;
        let bad = |reason: String| ImageError::unreadable(&name, KIND, reason);
        let damage = match pass(&bytes, true, &header, take) {
            Ok(taken) => return taken.map(|()| Vec::new()),
            Err(damage) => damage,
        };
        if !allow_truncated {
            return Err(bad(damage));
        }
        pass(&bytes, false, &header, take).map_err(bad)??;
        Ok(vec![Warning::DetailMissing(KIND)])
    }
}

/// Decodes the picture and passes on its rows; what `take` says is the inner result.
///
/// # Errors
/// Pixels that are damaged, or missing where that is not allowed; nothing has been passed on then.
fn pass(
    bytes: &[u8],
    strict: bool,
    header: &Header,
    take: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> std::result::Result<Result<()>, String> {
    let says = |error: hayro_jpeg2000::DecodeError| error.to_string();
    let image = Image::new(bytes, &settings(!strict)).map_err(says)?;
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(says)?;
    let components = decoded.components();
    let (channels, width) = (header.layout.channels(), header.width as usize);
    let pixels = width * header.height as usize;
    if components.len() != channels || components.iter().any(|c| c.samples().len() < pixels) {
        return Err("channels of different sizes".to_owned());
    }
    let highest = |bits: u8| ((1u32 << bits.clamp(1, MAX_DEPTH)) - 1) as f32;
    let scales: Vec<f32> = components.iter().map(|c| 1.0 / highest(c.bit_depth())).collect();
    let mut out = Vec::new();
    let band = band_rows(header.width) * width;
    for start in (0..pixels).step_by(band) {
        out.clear();
        for at in start..(start + band).min(pixels) {
            let pixel = components.iter().zip(&scales);
            out.extend(pixel.map(|(c, scale)| (c.samples()[at] * scale).clamp(0.0, 1.0)));
        }
        if let Err(error) = take(&out) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}
