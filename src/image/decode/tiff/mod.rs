//! TIFF: strips or tiles, interleaved or in planes, 1 to 32 bits or float per sample; grey, RGB, palette, CMYK, YCbCr and
//! L*a*b*, with associated or unassociated alpha. Rows are decompressed one by one, so that a picture of any size
//! costs rows. What is not read is refused by name.

mod chunk;
mod convert;
mod directory;
mod layout;
mod range;
mod rows;
mod samples;
mod tag;

use std::cell::RefCell;
use std::io::ErrorKind;

pub(super) use self::chunk::PackBits;
use self::convert::{Converter, Ranges};
use self::layout::{Layout, Refusal};
use self::rows::{Stop, each_row};
use self::samples::Colour;
use super::header::{ChannelLayout, Decode, Extent, Header, check_size};
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::input::read_error;
use crate::image::metadata;
use crate::image::plane::band_rows;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

pub(super) fn open(
    name: &str,
    mut source: Source,
    options: &ReadOptions,
) -> Result<Box<dyn Decode>> {
    let length = source.byte_len().map_err(|source| read_error(name, source))?;
    let layout = match directory::layout(&mut source, length, options.picture) {
        Ok(layout) => layout,
        Err(Refusal::Unsupported { kind, help }) => {
            return Err(ImageError::unsupported(name, &kind, help));
        }
        Err(Refusal::Damaged(why)) => {
            return Err(ImageError::unreadable(name, Format::Tiff, why));
        }
        Err(Refusal::Size { width, height }) => {
            check_size(name, Format::Tiff, width, height)?;
            return Err(ImageError::unreadable(name, Format::Tiff, "no size"));
        }
    };
    let inside = |(at, count): &(u64, u64)| at.checked_add(*count).is_some_and(|end| end <= length);
    if !options.allow_truncated && !layout.chunks.iter().all(inside) {
        return Err(ImageError::unreadable(name, Format::Tiff, "truncated"));
    }
    let (mut metadata, mut warnings) =
        metadata::read(name, Format::Tiff, &mut source, layout.page, options.max_metadata)?;
    warnings.extend(notes(&layout, options.picture.is_some()));
    let alpha = layout.alpha.is_some();
    let channels = match layout.colour {
        Colour::WhiteIsZero | Colour::BlackIsZero if alpha => ChannelLayout::GreyAlpha,
        Colour::WhiteIsZero | Colour::BlackIsZero => ChannelLayout::Grey,
        Colour::Cmyk if alpha => ChannelLayout::CmykAlpha,
        Colour::Cmyk => ChannelLayout::Cmyk,
        _ if alpha => ChannelLayout::Rgba,
        _ => ChannelLayout::Rgb,
    };
    if matches!(layout.colour, Colour::Lab { .. }) {
        // It describes L*a*b*, which the pixels no longer are.
        metadata.icc = None;
    }
    let header = Header {
        width: layout.width as u32,
        height: layout.height as u32,
        layout: channels,
        bit_depth: if layout.is_deep() { 16 } else { 8 },
        metadata,
        warnings,
        scratch_bytes: layout.scratch_bytes(length),
    };
    let allow_truncated = options.allow_truncated;
    let source = RefCell::new(source);
    let name = name.to_owned();
    Ok(Box::new(Tiff { name, source, layout, ranges: None, header, allow_truncated }))
}

/// What is to be said of how the file is read.
fn notes(layout: &Layout, is_asked_for: bool) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if layout.pages > 1 && !is_asked_for {
        warnings.push(Warning::FirstFrameOnly(Format::Tiff.into()));
    }
    let mut say = |what: String| warnings.push(Warning::Interpreted(what));
    match layout.left_out {
        0 => {}
        1 => say("a channel that is neither colour nor transparency was left out".into()),
        n => say(format!("{n} channels that are neither colour nor transparency were left out")),
    }
    if layout.alpha_guessed {
        say("the file does not say what its fourth channel is: taken as transparency".into());
    }
    if matches!(layout.colour, Colour::Lab { .. }) {
        say("L*a*b* colours were converted to sRGB".into());
    }
    warnings
}

/// A TIFF whose directory was read.
struct Tiff {
    name: String,
    source: RefCell<Source>,
    layout: Layout,
    /// What its numbers go up to, once that was asked for.
    ranges: Option<(Ranges, Option<String>)>,
    header: Header,
    allow_truncated: bool,
}

impl Tiff {
    fn ranges(&mut self) -> Result<(Ranges, Option<String>)> {
        if let Some(ranges) = &self.ranges {
            return Ok(ranges.clone());
        }
        let found = range::ranges(&self.source, &self.layout).map_err(|what| {
            let kind = format!("TIFF of {what}");
            ImageError::unsupported(&self.name, &kind, "convert it to unsigned ones")
        })?;
        Ok(self.ranges.insert(found).clone())
    }
}

impl Decode for Tiff {
    fn header(&self) -> &Header {
        &self.header
    }

    fn pictures(&self) -> usize {
        self.layout.pages
    }

    fn extent(&mut self) -> Result<Option<Extent>> {
        let top = self.ranges()?.0.colour.limit();
        Ok((top > 1.0).then_some(Extent::Encoded(top as f32)))
    }

    fn rows(
        mut self: Box<Self>,
        take: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<Vec<Warning>> {
        let (ranges, note) = self.ranges()?;
        let Self { name, source, layout, header, allow_truncated, .. } = *self;
        let mut warnings: Vec<Warning> = note.map(Warning::Interpreted).into_iter().collect();
        let mut converter = Converter::new(&layout, ranges);
        let (height, row) = (layout.height, layout.width * header.layout.channels());
        let band = band_rows(layout.width as u32) * row;
        let mut out = Vec::new();
        let mut last = Vec::new();
        let mut rows_read = 0;
        let result = each_row(&source, &layout, &mut |planes| {
            converter.row(planes, &mut out);
            rows_read += 1;
            if out.len() >= band || rows_read == height {
                take(&out)?;
                last.clear();
                last.extend_from_slice(&out[out.len() - row..]);
                out.clear();
            }
            Ok(())
        });
        let broken = match result {
            Ok(()) => return Ok(warnings),
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Broken(error)) => error,
        };
        if !allow_truncated || rows_read == 0 {
            let what = match broken.kind() {
                ErrorKind::UnexpectedEof => "truncated",
                _ => "damaged pixels",
            };
            let reason = format!("{what}, {rows_read} of {height} rows are there");
            return Err(ImageError::unreadable(&name, Format::Tiff, reason));
        }
        if !out.is_empty() {
            take(&out)?;
            last = out.split_off(out.len() - row);
        }
        for _ in rows_read..height {
            take(&last)?;
        }
        warnings.push(Warning::Truncated { rows_read: rows_read as u32, rows: height as u32 });
        Ok(warnings)
    }
}
