//! Assembly of a picture from a decoder's rows: colours, alpha and orientation, band by band.

use std::io;

use super::alpha::fill_transparent;
use super::colour::{self, CmykToRgb, Colour};
use super::decode::header::{ChannelLayout, Decode, Extent};
use super::error::{ImageError, Result, Warning};
use super::light::{Light, Shoulder};
use super::metadata::{self, Metadata, ifd, xmp};
use super::picture::Picture;
use super::plane::{Plane, PlaneBuilder, Scratch};

/// Reads all rows of a decoder; `name` is the file's, for messages.
///
/// # Errors
/// Those of the decoder; a disk that is full.
pub(crate) fn picture(
    name: &str,
    mut decoder: Box<dyn Decode>,
    scratch: &Scratch,
) -> Result<Picture> {
    let extent = decoder.extent()?;
    let header = decoder.header().clone();
    let (layout, mut metadata, mut warnings) = (header.layout, header.metadata, header.warnings);
    let convert = conversion(layout, &mut metadata, &mut warnings);
    let (convert, light) = match extent {
        Some(extent) => with_light(convert, extent, &mut warnings),
        None => (convert, None),
    };
    let (width, height) = (header.width as usize, header.height as usize);
    let on_disk = |source: io::Error| ImageError::Scratch { name: name.to_owned(), source };
    let mut rgb = PlaneBuilder::new(height, 3 * width, scratch).map_err(on_disk)?;
    let mut alpha = (layout.has_alpha())
        .then(|| PlaneBuilder::new(height, width, scratch))
        .transpose()
        .map_err(on_disk)?;
    let mut seen = 0;
    warnings.extend(decoder.rows(&mut |band| {
        seen += band.len();
        let (mut colours, transparency) = split(layout, band, &convert);
        match &convert {
            Convert::Curves(colour) => colour.to_working(&mut colours),
            Convert::Light(shoulder, Some(colour)) => {
                colour.enter_shoulder(&mut colours, *shoulder)
            }
            Convert::Light(shoulder, None) => shoulder.to_working(&mut colours),
            Convert::Same | Convert::Inks(_) => {}
        }
        rgb.push(&colours).map_err(on_disk)?;
        if let (Some(alpha), Some(transparency)) = (&mut alpha, transparency) {
            alpha.push(&transparency).map_err(on_disk)?;
        }
        Ok(())
    })?);
    let expected = width * height * layout.channels();
    if seen != expected {
        return Err(ImageError::Shape { what: "rows of a decoder", expected, got: seen });
    }
    if let Some(alpha) = &mut alpha {
        fill_transparent(&mut rgb, alpha, width, height, scratch).map_err(on_disk)?;
    }
    let mut rgb = rgb.finish().map_err(on_disk)?;
    let mut alpha = alpha.map(PlaneBuilder::finish).transpose().map_err(on_disk)?;
    let orientation = metadata.exif.as_deref().map_or(1, ifd::orientation);
    if orientation != 1 {
        let upright = |plane: Plane, channels| {
            turned(&plane, channels, (width, height), orientation, scratch).map_err(on_disk)
        };
        rgb = upright(rgb, 3)?;
        alpha = alpha.map(|alpha| upright(alpha, 1)).transpose()?;
        set_upright(&mut metadata, orientation);
    }
    if metadata.exif.as_mut().is_some_and(ifd::drop_thumbnail) {
        warnings.push(Warning::LeftOut("thumbnail in its EXIF, which shows the input,"));
    }
    if let Some(packet) = metadata.xmp.take() {
        let (packet, had_any) = xmp::without_thumbnails(packet);
        metadata.xmp = Some(packet);
        if had_any {
            warnings.push(Warning::LeftOut("thumbnail in its XMP, which shows the input,"));
        }
    }
    let (width, height) = upright_size((header.width, header.height), orientation);
    Ok(Picture {
        width,
        height,
        rgb,
        alpha,
        // What goes above white needs more than whole numbers.
        bit_depth: if light.is_some() { 32 } else { header.bit_depth },
        grey: layout.is_grey(),
        light,
        metadata,
        warnings,
        decoder_bytes: header.scratch_bytes,
    })
}

/// Width and height of a picture turned upright.
pub(crate) fn upright_size((width, height): (u32, u32), orientation: u8) -> (u32, u32) {
    if orientation >= 5 { (height, width) } else { (width, height) }
}

/// Marks the metadata of a picture that was turned as upright.
fn set_upright(metadata: &mut Metadata, orientation: u8) {
    if orientation >= 5 {
        metadata.dpi = metadata.dpi.map(|(x, y)| (y, x));
    }
    metadata::set_upright(metadata);
}

/// Conversion of a file's colours to the working space.
enum Convert {
    Same,
    Curves(Colour),
    Inks(CmykToRgb),
    /// Light, or what a colour's curves make of the samples, through the shoulder.
    Light(Shoulder, Option<Colour>),
}

/// The conversion of samples that go above 1, and the picture's light. Where a profile ends at 1, so do they.
fn with_light(
    convert: Convert,
    extent: Extent,
    warnings: &mut Vec<Warning>,
) -> (Convert, Option<Light>) {
    let (peak, colour) = match (extent, convert) {
        (Extent::Linear(peak), _) => (peak, None),
        (Extent::Encoded(top), Convert::Same) => (Colour::Same.light(top), Some(Colour::Same)),
        (Extent::Encoded(top), Convert::Curves(colour)) if colour.goes_above_white() => {
            (colour.light(top), Some(colour))
        }
        (Extent::Encoded(top), convert) => {
            let why = format!("samples above 1 (up to {top}): cut to 1, where the profile ends");
            warnings.push(Warning::Interpreted(why));
            return (convert, None);
        }
    };
    let light = Light { peak, linear: colour.is_none() };
    (Convert::Light(Shoulder::new(peak), colour), Some(light))
}

/// The conversion; a profile that cannot be kept is removed from the metadata.
fn conversion(
    layout: ChannelLayout,
    metadata: &mut Metadata,
    warnings: &mut Vec<Warning>,
) -> Convert {
    if layout.is_cmyk() {
        let icc = metadata.icc.take();
        if icc.is_some() {
            let why = "the picture is CMYK, the output is RGB";
            warnings.push(Warning::ProfileDropped(why.into()));
        }
        return Convert::Inks(CmykToRgb::new(icc.as_deref()));
    }
    let Some(icc) = &metadata.icc else { return Convert::Same };
    match colour::conversion(icc, layout.is_grey()) {
        Ok(colour) => Convert::Curves(colour),
        Err(why) => {
            warnings.push(Warning::ProfileDropped(why));
            metadata.icc = None;
            metadata.colour_chunks.clear();
            Convert::Same
        }
    }
}

/// Colours and alpha of interleaved samples; grey becomes three equal channels.
fn split(
    layout: ChannelLayout,
    samples: &[f32],
    convert: &Convert,
) -> (Vec<f32>, Option<Vec<f32>>) {
    let alpha = |channels: usize| -> Option<Vec<f32>> {
        Some(samples.iter().skip(channels - 1).step_by(channels).copied().collect())
    };
    match (layout, convert) {
        (ChannelLayout::Cmyk, Convert::Inks(inks)) => (inks.convert(samples), None),
        (ChannelLayout::CmykAlpha, Convert::Inks(inks)) => {
            let colours: Vec<f32> =
                samples.chunks_exact(5).flat_map(|p| &p[..4]).copied().collect();
            (inks.convert(&colours), alpha(5))
        }
        (ChannelLayout::CmykAlpha, _) => {
            let colours = samples.chunks_exact(5).flat_map(|p| [p[0], p[1], p[2]]).collect();
            (colours, alpha(5))
        }
        (ChannelLayout::Rgb | ChannelLayout::Cmyk, _) => (samples.to_vec(), None),
        (ChannelLayout::Grey, _) => (samples.iter().flat_map(|&v| [v; 3]).collect(), None),
        (ChannelLayout::GreyAlpha, _) => {
            let rgb = samples.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect();
            (rgb, alpha(2))
        }
        (ChannelLayout::Rgba, _) => {
            let rgb = samples.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
            (rgb, alpha(4))
        }
    }
}

/// Pixels of a block's side when a plane is turned: a block of the source and one of the result stay in the cache.
const BLOCK: usize = 64;

/// A `[height, width, channels]` plane turned upright from EXIF orientation 1 to 8
/// (EXIF 2.32, 4.6.4, tag 274: which corner of the scene the first row and column are).
fn turned(
    plane: &Plane,
    channels: usize,
    (width, height): (usize, usize),
    orientation: u8,
    scratch: &Scratch,
) -> io::Result<Plane> {
    let (out_width, out_height) = if orientation >= 5 { (height, width) } else { (width, height) };
    let source = |x: usize, y: usize| match orientation {
        2 => (width - 1 - x, y),
        3 => (width - 1 - x, height - 1 - y),
        4 => (x, height - 1 - y),
        5 => (y, x),
        6 => (y, height - 1 - x),
        7 => (width - 1 - y, height - 1 - x),
        8 => (width - 1 - y, x),
        _ => (x, y),
    };
    let mut out = PlaneBuilder::new(out_height, out_width * channels, scratch)?;
    let mut band = vec![0.0; BLOCK.min(out_height) * out_width * channels];
    let (mut block, mut buffer) = (Vec::new(), Vec::new());
    for top in (0..out_height).step_by(BLOCK) {
        let rows = BLOCK.min(out_height - top);
        for left in (0..out_width).step_by(BLOCK) {
            let columns = left..(left + BLOCK).min(out_width);
            // The block of the source lies between the corners of this one.
            let (ax, ay) = source(left, top);
            let (bx, by) = source(columns.end - 1, top + rows - 1);
            let (first_x, last_x, first_y, last_y) =
                (ax.min(bx), ax.max(bx), ay.min(by), ay.max(by));
            let source_columns = last_x - first_x + 1;
            block.clear();
            for y in first_y..=last_y {
                let part = y * width + first_x..y * width + last_x + 1;
                let part = part.start * channels..part.end * channels;
                block.extend_from_slice(plane.samples(part, &mut buffer));
            }
            for y in 0..rows {
                for x in columns.clone() {
                    let (sx, sy) = source(x, top + y);
                    let from = (sy - first_y) * source_columns + sx - first_x;
                    band[(y * out_width + x) * channels..][..channels]
                        .copy_from_slice(&block[from * channels..][..channels]);
                }
            }
        }
        out.push(&band[..rows * out_width * channels])?;
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::decode::header::Header;

    /// Rows of made-up samples, some of them transparent, with an orientation.
    struct Made(Header);

    impl Decode for Made {
        fn header(&self) -> &Header {
            &self.0
        }

        fn rows(
            self: Box<Self>,
            take: &mut dyn FnMut(&[f32]) -> Result<()>,
        ) -> Result<Vec<Warning>> {
            let row = self.0.width as usize * self.0.layout.channels();
            for y in 0..self.0.height as usize {
                let value = |i: usize| ((y * row + i) % 97) as f32 / 97.0;
                let hidden = |i: usize| i % 4 == 3 && (i / 4 + y) % 5 > 1;
                let band: Vec<f32> =
                    (0..row).map(|i| if hidden(i) { 0.0 } else { value(i) }).collect();
                take(&band)?;
            }
            Ok(Vec::new())
        }
    }

    fn made(layout: ChannelLayout, orientation: u8) -> Box<Made> {
        let exif = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0", &[orientation][..], &[0; 7]];
        let metadata = Metadata { exif: Some(exif.concat()), ..Metadata::default() };
        Box::new(Made(Header {
            width: 150,
            height: 71,
            layout,
            bit_depth: 8,
            metadata,
            warnings: Vec::new(),
            scratch_bytes: 0,
        }))
    }

    #[test]
    fn a_picture_in_files_is_the_one_in_memory_in_every_orientation() {
        let files = Scratch { memory_bytes: 0, ..Scratch::default() };
        for layout in [ChannelLayout::Rgba, ChannelLayout::Grey, ChannelLayout::Cmyk] {
            for orientation in 1..=8 {
                let read = |scratch| picture("a", made(layout, orientation), scratch).unwrap();
                let (in_memory, in_files) = (read(&Scratch::default()), read(&files));
                assert!(!in_memory.rgb.is_in_file() && in_files.rgb.is_in_file());
                assert_eq!(in_memory, in_files, "{layout:?} {orientation}");
                let size = if orientation >= 5 { (71, 150) } else { (150, 71) };
                assert_eq!((in_files.width, in_files.height), size);
                let [shrunk, same] = [&in_memory, &in_files].map(|picture| {
                    let resizer = picture.resizer(20, 10).unwrap();
                    resizer.rows(0..10)
                });
                assert!(shrunk == same);
            }
        }
    }
}
