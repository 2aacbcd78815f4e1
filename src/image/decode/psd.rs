//! Photoshop's PSD and PSB: the flattened picture that follows the layers, row by row; grey, palette, RGB and CMYK of 8 or
//! 16 bits, plain or PackBits, with its profile, EXIF, XMP and resolution.
//! Source: Adobe Photoshop File Formats Specification, November 2019.

use std::io::{self, Read as _, Seek as _, SeekFrom};

use super::InputKind;
use super::header::{ChannelLayout, Decode, Header, check_size};
use super::tiff::PackBits;
use crate::image::error::{ImageError, Result, Warning};
use crate::image::input::read_error;
use crate::image::metadata::{self, Blocks};
use crate::image::plane::band_rows;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

const KIND: InputKind = InputKind::Psd;
const CONVERT: &str = "open it in Photoshop or GIMP and save a TIFF";
/// Numbers of the resources that are read: resolution, profile, what the flattened picture is, EXIF, XMP.
const RESOLUTION: u16 = 1005;
const PROFILE: u16 = 1039;
const VERSION: u16 = 1057;
const EXIF: u16 = 1058;
const XMP: u16 = 1060;
/// The most channels of the format.
const MAX_CHANNELS: u16 = 56;
/// Resources of a file that are looked at.
const MAX_RESOURCES: usize = 4096;

/// Meaning of the colour channels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Grey,
    Palette,
    Rgb,
    Cmyk,
}

struct Psd {
    name: String,
    header: Header,
    source: Source,
    mode: Mode,
    /// Colours of a palette: 256 reds, greens and blues.
    palette: Vec<u8>,
    /// Rows are packed.
    is_packed: bool,
    /// Place of the picture's data behind the kind of its packing.
    data: u64,
    /// Lengths of packed rows have 32 bits.
    is_large: bool,
    /// Channels of the file, with those that are not read.
    channels: usize,
}

/// Blocks of the header and of the resources.
#[derive(Default)]
struct Resources {
    blocks: Blocks,
    dpi: Option<(f64, f64)>,
    /// The picture that follows the layers is theirs, and not an empty one.
    has_picture: bool,
    too_large: Option<&'static str>,
}

pub(super) fn open(
    name: &str,
    mut source: Source,
    options: &ReadOptions,
) -> Result<Box<dyn Decode>> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ImageError::unreadable(name, KIND, "truncated"),
        _ => read_error(name, error),
    };
    let unsupported = |what: String| ImageError::unsupported(name, &what, CONVERT);
    source.seek(SeekFrom::Start(4)).map_err(failed)?;
    let [version, _, _, _, channels] = numbers(&mut source).map_err(failed)?;
    let [height, width] = longs(&mut source).map_err(failed)?;
    let [depth, mode] = numbers(&mut source).map_err(failed)?;
    check_size(name, KIND, width.into(), height.into())?;
    if !matches!(version, 1 | 2) {
        return Err(ImageError::unreadable(name, KIND, "a version that there is not"));
    }
    let mode = match mode {
        1 | 8 => Mode::Grey,
        2 => Mode::Palette,
        3 => Mode::Rgb,
        4 => Mode::Cmyk,
        0 => return Err(unsupported("PSD of black and white bits".into())),
        9 => return Err(unsupported("PSD of L*a*b*".into())),
        _ => return Err(unsupported("PSD of separate channels".into())),
    };
    if !matches!(depth, 8 | 16) || (mode == Mode::Palette && depth != 8) {
        return Err(unsupported(format!("PSD of {depth} bits")));
    }
    let [palette_bytes] = longs(&mut source).map_err(failed)?;
    let mut palette = Vec::new();
    (&mut source)
        .take(palette_bytes.min(if mode == Mode::Palette { 768 } else { 0 }).into())
        .read_to_end(&mut palette)
        .map_err(failed)?;
    if mode == Mode::Palette && palette.len() < 768 {
        return Err(ImageError::unreadable(name, KIND, "a palette of too few colours"));
    }
    source.seek_relative(i64::from(palette_bytes) - palette.len() as i64).map_err(failed)?;
    let resources = resources(&mut source, options.max_metadata).map_err(failed)?;
    if !resources.has_picture {
        return Err(unsupported(
            "PSD without a flattened picture (saved without `Maximize Compatibility`)".into(),
        ));
    }
    let is_large = version == 2;
    let has_transparency = layers(&mut source, is_large).map_err(failed)?;
    let [packing] = numbers(&mut source).map_err(failed)?;
    if packing > 1 {
        return Err(unsupported("PSD of zipped pixels".into()));
    }
    let colours = match mode {
        Mode::Grey | Mode::Palette => 1,
        Mode::Rgb => 3,
        Mode::Cmyk => 4,
    };
    if usize::from(channels) < colours {
        return Err(ImageError::unreadable(name, KIND, "too few channels"));
    }
    if channels > MAX_CHANNELS {
        return Err(ImageError::unreadable(name, KIND, "too many channels"));
    }
    let alpha = has_transparency && usize::from(channels) > colours && mode != Mode::Palette;
    let layout = match (mode, alpha) {
        (Mode::Grey, false) => ChannelLayout::Grey,
        (Mode::Grey, true) => ChannelLayout::GreyAlpha,
        (Mode::Rgb | Mode::Palette, false) => ChannelLayout::Rgb,
        (Mode::Rgb | Mode::Palette, true) => ChannelLayout::Rgba,
        (Mode::Cmyk, false) => ChannelLayout::Cmyk,
        (Mode::Cmyk, true) => ChannelLayout::CmykAlpha,
    };
    let (mut metadata, mut warnings) =
        metadata::of_blocks(name, resources.blocks, options.max_metadata)?;
    metadata.dpi = resources.dpi.or(metadata.dpi);
    if let Some(what) = resources.too_large {
        if what == "colour profile" {
            let (name, limit) = (name.to_owned(), options.max_metadata);
            return Err(ImageError::MetadataTooLarge { name, what, limit });
        }
        warnings.push(Warning::MetadataTooLarge { what, limit: options.max_metadata });
    }
    let left_out = usize::from(channels) - colours - usize::from(alpha);
    if left_out > 0 {
        let what = format!("{left_out} more channels of the file were left out");
        warnings.push(Warning::Interpreted(what));
    }
    let data = source.stream_position().map_err(failed)?;
    // Lengths of the rows of the channels that are read.
    let lengths = if packing == 1 { 4 * u64::from(height) * layout.channels() as u64 } else { 0 };
    let header = Header {
        width,
        height,
        layout,
        bit_depth: depth as u8,
        metadata,
        warnings,
        scratch_bytes: lengths,
    };
    let (name, is_packed, channels) = (name.to_owned(), packing == 1, channels.into());
    Ok(Box::new(Psd { name, header, source, mode, palette, is_packed, data, is_large, channels }))
}

/// The next numbers of 16 bits.
fn numbers<const N: usize>(source: &mut Source) -> io::Result<[u16; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        let mut bytes = [0; 2];
        source.read_exact(&mut bytes)?;
        *number = u16::from_be_bytes(bytes);
    }
    Ok(numbers)
}

/// The next numbers of 32 bits.
fn longs<const N: usize>(source: &mut Source) -> io::Result<[u32; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        let mut bytes = [0; 4];
        source.read_exact(&mut bytes)?;
        *number = u32::from_be_bytes(bytes);
    }
    Ok(numbers)
}

/// Reads the resources; blocks beyond `limit` are left out.
fn resources(source: &mut Source, limit: u64) -> io::Result<Resources> {
    let mut found = Resources { has_picture: true, ..Resources::default() };
    let [length] = longs(source)?;
    let mut at = source.stream_position()?;
    let end = at + u64::from(length);
    for _ in 0..MAX_RESOURCES {
        // A signature, a number, a name of even length with its own, and a length.
        if at + 12 > end {
            break;
        }
        source.seek(SeekFrom::Start(at + 4))?;
        let [number] = numbers(source)?;
        let mut name = [0];
        source.read_exact(&mut name)?;
        source.seek_relative(i64::from(name[0] | 1))?;
        let [size] = longs(source)?;
        let place = source.stream_position()?;
        if place + u64::from(size) > end {
            break;
        }
        let (what, block) = match number {
            PROFILE => ("colour profile", &mut found.blocks.icc),
            EXIF => ("EXIF", &mut found.blocks.exif),
            XMP => ("XMP", &mut found.blocks.xmp),
            _ => ("", &mut None),
        };
        if !what.is_empty() && u64::from(size) > limit {
            found.too_large = Some(what);
        } else if !what.is_empty() {
            let mut data = Vec::new();
            (&mut *source).take(size.into()).read_to_end(&mut data)?;
            *block = Some(data);
        }
        match number {
            VERSION if size >= 5 => {
                let mut head = [0; 5];
                source.read_exact(&mut head)?;
                found.has_picture = head[4] != 0;
            }
            RESOLUTION if size >= 16 => {
                // Pixels an inch, whatever the unit in which they are shown: 16 bits before the point and 16 behind it.
                let [x, _, y] = longs(source)?;
                let dots = |fixed: u32| f64::from(fixed) / 65_536.0;
                found.dpi = metadata::plausible_dpi(dots(x), dots(y));
            }
            _ => {}
        }
        at = place + u64::from(size) + u64::from(size % 2);
    }
    source.seek(SeekFrom::Start(end))?;
    Ok(found)
}

/// Passes over the layers; `true` if they say that the flattened picture is transparent.
fn layers(source: &mut Source, is_large: bool) -> io::Result<bool> {
    let length = |source: &mut Source| -> io::Result<u64> {
        let high = if is_large { longs::<1>(source)?[0] } else { 0 };
        Ok(u64::from(high) << 32 | u64::from(longs::<1>(source)?[0]))
    };
    let all = length(source)?;
    let start = source.stream_position()?;
    let least = if is_large { 10 } else { 6 };
    let mut has_transparency = false;
    if all >= least && length(source)? >= 2 {
        let [count] = numbers(source)?;
        // A negative number of layers.
        has_transparency = count >= 0x8000;
    }
    let end = start.checked_add(all).ok_or(io::ErrorKind::UnexpectedEof)?;
    if end > source.byte_len()? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    source.seek(SeekFrom::Start(end))?;
    Ok(has_transparency)
}

impl Decode for Psd {
    fn header(&self) -> &Header {
        &self.header
    }

    fn rows(
        mut self: Box<Self>,
        take: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<Vec<Warning>> {
        let name = self.name.clone();
        // A channel follows the other, so that nothing can be shown of a picture that ends early.
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ImageError::unreadable(&name, KIND, "truncated"),
            _ => read_error(&name, error),
        };
        let (width, height) = (self.header.width as usize, self.header.height as usize);
        let row_bytes = width * usize::from(self.header.bit_depth / 8);
        let mut places = self.places(row_bytes).map_err(failed)?;
        let rows = band_rows(self.header.width).min(height);
        let mut planes = vec![vec![0; rows * row_bytes]; places.len()];
        for done in (0..height).step_by(rows) {
            let count = rows.min(height - done);
            for (plane, place) in planes.iter_mut().zip(&mut places) {
                plane.truncate(count * row_bytes);
                self.plane(place, done, plane, row_bytes).map_err(failed)?;
            }
            take(&self.interleaved(&planes))?;
        }
        Ok(Vec::new())
    }
}

/// A channel: where its next row lies, and the lengths of all its rows if they are packed.
struct Place {
    at: u64,
    lengths: Vec<u32>,
}

impl Psd {
    /// The channels that are read.
    fn places(&mut self, row_bytes: usize) -> io::Result<Vec<Place>> {
        let channels = if self.mode == Mode::Palette { 1 } else { self.header.layout.channels() };
        let height = self.header.height as usize;
        self.source.seek(SeekFrom::Start(self.data))?;
        if !self.is_packed {
            let plane = (row_bytes * height) as u64;
            let place = |channel| Place { at: self.data + channel * plane, lengths: Vec::new() };
            return Ok((0..channels as u64).map(place).collect());
        }
        let of_length = if self.is_large { 4 } else { 2 };
        let mut at = self.data + (self.channels * height * of_length) as u64;
        let mut places = Vec::new();
        for _ in 0..channels {
            let mut lengths = Vec::new();
            for _ in 0..height {
                lengths.push(match self.is_large {
                    true => longs::<1>(&mut self.source)?[0],
                    false => numbers::<1>(&mut self.source)?[0].into(),
                });
            }
            let plane = lengths.iter().map(|&length| u64::from(length)).sum::<u64>();
            places.push(Place { at, lengths });
            at += plane;
        }
        Ok(places)
    }

    /// Reads whole rows of a channel from row `first` on.
    fn plane(
        &mut self,
        place: &mut Place,
        first: usize,
        plane: &mut [u8],
        row_bytes: usize,
    ) -> io::Result<()> {
        self.source.seek(SeekFrom::Start(place.at))?;
        if place.lengths.is_empty() {
            self.source.read_exact(plane)?;
            place.at += plane.len() as u64;
            return Ok(());
        }
        for (row, &length) in plane.chunks_exact_mut(row_bytes).zip(&place.lengths[first..]) {
            let mut piece = (&mut self.source).take(length.into());
            PackBits::new(&mut piece).read_exact(row)?;
            let left = piece.limit();
            self.source.seek_relative(left as i64)?;
            place.at += u64::from(length);
        }
        Ok(())
    }

    /// Samples of whole rows of all channels.
    fn interleaved(&self, planes: &[Vec<u8>]) -> Vec<f32> {
        if self.mode == Mode::Palette {
            let colour = |&index: &u8| {
                let index = usize::from(index);
                [0, 256, 512].map(|channel| f32::from(self.palette[channel + index]) / 255.0)
            };
            return planes.iter().flatten().flat_map(colour).collect();
        }
        let is_deep = self.header.bit_depth == 16;
        let sample = |plane: &[u8], at: usize| match is_deep {
            true => f32::from(u16::from_be_bytes([plane[2 * at], plane[2 * at + 1]])) / 65_535.0,
            false => f32::from(plane[at]) / 255.0,
        };
        let layout = self.header.layout;
        let pixels = planes[0].len() / if is_deep { 2 } else { 1 };
        let mut out = Vec::with_capacity(pixels * planes.len());
        for at in 0..pixels {
            let start = out.len();
            out.extend(planes.iter().map(|plane| sample(plane, at)));
            let pixel = &mut out[start..];
            let alpha = if layout.has_alpha() { pixel[planes.len() - 1] } else { 1.0 };
            if alpha > 0.0 && alpha < 1.0 {
                // Colours of the flattened picture lie on white.
                let colours = planes.len() - 1;
                pixel[..colours]
                    .iter_mut()
                    .for_each(|value| *value = ((*value - 1.0) / alpha + 1.0).clamp(0.0, 1.0));
            }
            if self.mode == Mode::Cmyk {
                // 0 is full ink.
                pixel[..4].iter_mut().for_each(|value| *value = 1.0 - *value);
            }
        }
        out
    }
}
