//! Radiance HDR (`.hdr`) through the decoder of the `image` crate, which decodes a picture as a whole: three bytes and a
//! common exponent a pixel, which are light unless the header names an exponent (`GAMMA`; Photoshop writes 1, ImageMagick the
//! 1/2.2 of sRGB).
//! Source: Ward, Real Pixels, Graphics Gems II; the manual of Radiance's picture files.

use std::io::{Read as _, Seek as _};
use std::ops::Range;
use std::sync::Arc;

use image::codecs::hdr::{HdrDecoder, HdrMetadata};
use image::{ImageDecoder, ImageResult};

use super::InputKind;
use super::header::{ChannelLayout, Decode, Extent, Header, check_size};
use super::raster::refusal;
use super::whole;
use crate::image::colour;
use crate::image::error::{Result, Warning};
use crate::image::input::read_error;
use crate::image::metadata::Metadata;
use crate::image::plane::band_rows;
use crate::image::primaries::{self, Chromaticities};
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

const KIND: InputKind = InputKind::Radiance;
const CHANNELS: usize = 3;
/// Exponents of the encoding that are believed, and how near to 1 or 1/2.2 they mean light or sRGB.
const GAMMAS: std::ops::RangeInclusive<f32> = 0.1..=10.0;
const NEAR: f32 = 0.01;

struct Radiance {
    name: String,
    header: Header,
    /// Exponent by which the numbers are encoded; 1 for light.
    gamma: f32,
    state: State,
}

enum State {
    /// The file; its bytes as well where it may end early.
    Coded(Source, Option<Arc<[u8]>>),
    /// The light of all pixels, and the rows that are whole.
    Decoded(Vec<f32>, Range<usize>),
}

/// A decoder that passes over lines of the header that it does not know, as other programs do.
fn decoder(source: Source) -> ImageResult<Box<dyn ImageDecoder>> {
    Ok(Box::new(HdrDecoder::new_nonstrict(source)?))
}

pub(super) fn open(
    name: &str,
    mut source: Source,
    options: &ReadOptions,
) -> Result<Box<dyn Decode>> {
    let unreadable = |error| read_error(name, error);
    // Lines may be of any length, and of any number.
    let head = HdrDecoder::new_nonstrict((&mut source).take(options.max_metadata));
    let head = head.map_err(|error| refusal(name, KIND, &error))?.metadata();
    check_size(name, KIND, head.width.into(), head.height.into())?;
    source.rewind().map_err(unreadable)?;
    let pixels = u64::from(head.width) * u64::from(head.height);
    let mut scratch_bytes = pixels * (CHANNELS * size_of::<f32>()) as u64;
    let mut bytes = None;
    if options.allow_truncated {
        let all = source.into_bytes().map_err(unreadable)?;
        scratch_bytes = 2 * scratch_bytes + all.len() as u64;
        source = Source::memory(all.clone());
        bytes = Some(all);
    }
    let header = Header {
        width: head.width,
        height: head.height,
        layout: ChannelLayout::Rgb,
        bit_depth: 32,
        metadata: Metadata { icc: profile(&head), ..Metadata::default() },
        warnings: Vec::new(),
        scratch_bytes,
    };
    let gamma = attribute(&head, "GAMMA").and_then(|value| value.trim().parse().ok());
    let gamma = gamma.filter(|gamma| GAMMAS.contains(gamma)).unwrap_or(1.0);
    let state = State::Coded(source, bytes);
    Ok(Box::new(Radiance { name: name.to_owned(), header, gamma, state }))
}

/// The last value of an attribute in the header.
fn attribute<'a>(head: &'a HdrMetadata, name: &str) -> Option<&'a str> {
    let found = head.custom_attributes.iter().rfind(|(key, _)| key == name);
    found.map(|(_, value)| value.as_str())
}

/// The profile of other primaries than sRGB's, where the header names them.
fn profile(head: &HdrMetadata) -> Option<Vec<u8>> {
    let named = attribute(head, "PRIMARIES")?;
    let mut numbers = named.split_whitespace().map(|word| word.parse::<f64>().ok());
    let mut place = || Some([numbers.next()??, numbers.next()??]);
    let (red, green, blue, white) = (place()?, place()?, place()?, place()?);
    let profile = primaries::profile(Chromaticities { red, green, blue, white })?;
    colour::encoded(&profile)
}

impl Radiance {
    /// `true` if the numbers are encoded by sRGB's curve.
    fn is_srgb(&self) -> bool {
        (self.gamma - 1.0 / 2.2).abs() < NEAR
    }

    /// Decodes all pixels, once.
    fn decoded(&mut self) -> Result<(&mut Vec<f32>, Range<usize>)> {
        if let State::Coded(source, bytes) = &mut self.state {
            let source = std::mem::replace(source, Source::memory(Arc::new([])));
            let refused = |error| refusal(&self.name, KIND, &error);
            let again = bytes.take().map(|bytes| move || decoder(Source::memory(bytes.clone())));
            let again = again.as_ref().map(|again| again as whole::Again<'_>);
            let decoder = decoder(source).map_err(refused)?;
            let mut light = vec![0.0f32; decoder.total_bytes() as usize / size_of::<f32>()];
            let rows = whole::decode(decoder, again, bytemuck::cast_slice_mut(&mut light));
            if (self.gamma - 1.0).abs() > NEAR && !self.is_srgb() {
                light.iter_mut().for_each(|v| *v = v.powf(1.0 / self.gamma).min(f32::MAX));
            }
            self.state = State::Decoded(light, rows.map_err(refused)?);
        }
        match &mut self.state {
            State::Decoded(light, rows) => Ok((light, rows.clone())),
            State::Coded(..) => unreachable!("it has just been decoded"),
        }
    }
}

impl Decode for Radiance {
    fn header(&self) -> &Header {
        &self.header
    }

    fn extent(&mut self) -> Result<Option<Extent>> {
        let row = self.header.width as usize * CHANNELS;
        let is_srgb = self.is_srgb();
        let (light, rows) = self.decoded()?;
        let whole = &light[rows.start * row..rows.end * row];
        let top = whole.iter().copied().fold(0.0, f32::max);
        Ok(Some(if is_srgb { Extent::Encoded(top) } else { Extent::Linear(top) }))
    }

    fn rows(
        mut self: Box<Self>,
        take: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<Vec<Warning>> {
        let width = self.header.width;
        let row = width as usize * CHANNELS;
        let (light, rows) = self.decoded()?;
        let warnings = whole::complete(light, rows, row);
        light.chunks(band_rows(width) * row).try_for_each(take)?;
        Ok(warnings)
    }
}

#[cfg(test)]
mod tests {
    use crate::image::{ImageError, Input, Light, Picture, ReadOptions, Result, Warning, open};

    /// A file of these lines, with rows that are packed as Radiance packs them, or not.
    fn file(lines: &str, (width, height): (usize, usize), packed: bool) -> Vec<u8> {
        let mut file = format!("#?RADIANCE\n{lines}FORMAT=32-bit_rle_rgbe\n\n").into_bytes();
        file.extend(format!("-Y {height} +X {width}\n").as_bytes());
        for y in 0..height {
            // Twice, one and half of white, ever darker.
            let pixel = [128u8, 64, 32, 130 - y as u8];
            if packed {
                file.extend([2, 2, (width >> 8) as u8, width as u8]);
                pixel.iter().for_each(|&value| file.extend([128 + width as u8, value]));
            } else {
                (0..width).for_each(|_| file.extend(pixel));
            }
        }
        file
    }

    fn read(bytes: &[u8], allow_truncated: bool) -> Result<Picture> {
        let options = ReadOptions { allow_truncated, ..ReadOptions::default() };
        open(&Input::Bytes(bytes.into()), &options)?.decode()
    }

    #[test]
    fn light_above_white_is_kept_packed_or_not() {
        let flat = read(&file("", (10, 3), false), false).unwrap();
        let packed = read(&file("EXPOSURE= 2\nsoftware\n", (10, 3), true), false).unwrap();
        assert_eq!((flat.width, flat.height, flat.bit_depth), (10, 3, 32));
        assert_eq!(flat.light, Some(Light { peak: 2.0, linear: true }));
        assert!(flat.metadata.icc.is_none());
        assert_eq!(flat.rgb, packed.rgb);
        // The peak, white below its shoulder, and half, which is sRGB's.
        assert!((flat.rgb[0] - 1.0).abs() < 1e-6 && flat.rgb[1] > 0.88 && flat.rgb[1] < 0.9);
        assert!((flat.rgb[2] - 0.735_36).abs() < 1e-4, "{}", flat.rgb[2]);
    }

    #[test]
    fn numbers_may_be_encoded() {
        let of = |lines| read(&file(lines, (10, 3), true), false).unwrap();
        assert_eq!(of("GAMMA=1\n").rgb, of("").rgb);
        // Half as sRGB has it stays half.
        let encoded = of("GAMMA=0.454545\n");
        assert!((encoded.rgb[2] - 0.5).abs() < 1e-3, "{}", encoded.rgb[2]);
        assert!(encoded.light.is_some_and(|light| !light.linear && light.peak > 4.0));
        // Half of an exponent of one half is a quarter.
        let power = of("GAMMA=0.5\n");
        assert!((power.rgb[2] - 0.537_1).abs() < 1e-3, "{}", power.rgb[2]);
        assert_eq!(power.light.unwrap().peak, 4.0);
    }

    #[test]
    fn other_primaries_become_a_profile() {
        let p3 = "PRIMARIES=0.680 0.320 0.265 0.690 0.150 0.060 0.3127 0.3290\n";
        let srgb = "PRIMARIES=0.64 0.33 0.3 0.6 0.15 0.06 0.3127 0.329\n";
        let has_profile =
            |lines| read(&file(lines, (10, 3), true), false).unwrap().metadata.icc.is_some();
        assert!(has_profile(p3) && !has_profile(srgb) && !has_profile("PRIMARIES=1 2 x\n"));
    }

    #[test]
    fn what_ends_early_is_refused_or_read_as_far_as_it_goes() {
        for packed in [false, true] {
            let bytes = file("", (10, 4), packed);
            let short = &bytes[..bytes.len() - 3];
            let error = read(short, false).unwrap_err();
            assert!(error.to_string().ends_with("(Radiance HDR: truncated)"), "{error}");
            let part = read(short, true).unwrap();
            assert_eq!(part.warnings, [Warning::Truncated { rows_read: 3, rows: 4 }]);
            assert_eq!(part.rgb[90..], part.rgb[60..90]);
            let rows = if packed { 4 * 12 } else { 4 * 40 };
            assert!(read(&bytes[..bytes.len() - rows], true).is_err());
        }
        let mut lying = file("", (10, 4), true);
        let at = lying.windows(2).position(|pair| pair == b"-Y").unwrap();
        lying.splice(at + 3..at + 4, *b"99999999");
        assert!(matches!(read(&lying, false), Err(ImageError::TooLarge { .. })));
        let turned = String::from_utf8_lossy(&file("", (10, 4), true)).replace("-Y 4", "+Y 4");
        assert!(matches!(read(turned.as_bytes(), true), Err(ImageError::UnsupportedKind { .. })));
    }
}
