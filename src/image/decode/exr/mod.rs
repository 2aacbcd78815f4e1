//! OpenEXR through the `exr` crate: scanlines or tiles, in any order and compression of the crate. Blocks go into a spool,
//! from which rows are passed on when the brightest light is known.

mod parts;

use std::io::{ErrorKind, Read as _, Seek as _};

use exr::block::{self, UncompressedBlock};
use exr::error::Error as ExrError;
use exr::meta::{BlockDescription, MetaData, attribute::SampleType, header::Header as Part};
use half::f16;

use self::parts::{Chosen, NoPicture};
use super::header::{Decode, Extent, Header, check_size};
use super::plain_rows::pass_rows;
use super::spool::Spool;
use crate::image::error::{ImageError, Result, Warning};
use crate::image::format::Format;
use crate::image::input::read_error;
use crate::image::plane::Scratch;
use crate::image::read_options::ReadOptions;
use crate::image::source::Source;

/// Copies of a block that are held while it is decompressed.
const COPIES: u64 = 4;
/// Transparency from which on a pixel's own light counts for the brightest one: below, a division makes it up.
const SOLID: f32 = 0.1;

pub(super) fn open(
    name: &str,
    mut source: Source,
    options: &ReadOptions,
) -> Result<Box<dyn Decode>> {
    let unreadable = |error| read_error(name, error);
    // Attributes may be of any length.
    let head = MetaData::read_from_buffered((&mut source).take(options.max_metadata), false);
    let head = head.map_err(|error| refusal(name, error))?;
    source.rewind().map_err(unreadable)?;
    MetaData::validate(&head.headers, false).map_err(|error| refusal(name, error))?;
    let chosen = parts::choose(&head.headers)
        .map_err(|NoPicture::Kind(kind, help)| ImageError::unsupported(name, &kind, help))?;
    let part = &head.headers[chosen.part];
    let (width, height) = (part.layer_size.0, part.layer_size.1);
    check_size(name, Format::Exr, width as u64, height as u64)?;
    let mut warnings = Vec::new();
    if chosen.others {
        warnings.push(Warning::FirstFrameOnly(Format::Exr.into()));
    } else if chosen.left_out > 0 {
        let what = "channels that are neither colour nor transparency were left out";
        warnings.push(Warning::Interpreted(what.to_owned()));
    }
    let window = part.shared_attributes.display_window;
    if (window.size, window.position) != (part.layer_size, part.own_attributes.layer_position) {
        let what = "the picture's pixels are not its whole window: the window was left out";
        warnings.push(Warning::Interpreted(what.to_owned()));
    }
    let spool = Spool::memory_bytes(height, width * chosen.channels.len(), &options.scratch());
    let header = Header {
        width: width as u32,
        height: height as u32,
        layout: chosen.layout,
        bit_depth: 32,
        metadata: parts::metadata(part, chosen.layout.is_grey()),
        warnings,
        scratch_bytes: spool + COPIES * block_bytes(part),
    };
    Ok(Box::new(Exr {
        name: name.to_owned(),
        header,
        chosen,
        scratch: options.scratch(),
        allow_truncated: options.allow_truncated,
        pixels: Pixels::InFile(source),
    }))
}

/// Bytes of the largest block of a part.
fn block_bytes(part: &Part) -> u64 {
    let (width, height) = (part.layer_size.0 as u64, part.layer_size.1 as u64);
    let pixels = match part.blocks {
        BlockDescription::Tiles(tiles) => {
            (tiles.tile_size.0 as u64).min(width) * (tiles.tile_size.1 as u64).min(height)
        }
        BlockDescription::ScanLines => {
            width * (part.compression.scan_lines_per_block() as u64).min(height)
        }
    };
    pixels * part.channels.bytes_per_pixel as u64
}

fn refusal(name: &str, error: ExrError) -> ImageError {
    match error {
        ExrError::NotSupported(what) => {
            let kind = format!("OpenEXR of this kind ({what})");
            ImageError::unsupported(
                name,
                &kind,
                "convert it: oiiotool FILE --compression zip -o NEW.exr",
            )
        }
        ExrError::Io(error) if error.kind() != ErrorKind::UnexpectedEof => read_error(name, error),
        ExrError::Io(_) => ImageError::unreadable(name, Format::Exr, "truncated"),
        other => ImageError::unreadable(name, Format::Exr, other),
    }
}

struct Exr {
    name: String,
    header: Header,
    chosen: Chosen,
    scratch: Scratch,
    allow_truncated: bool,
    pixels: Pixels,
}

enum Pixels {
    InFile(Source),
    Spooled(Spooled),
    /// Taken.
    None,
}

struct Spooled {
    spool: Spool,
    /// The brightest light.
    peak: f32,
    /// Some colour is below 0.
    negative: bool,
    /// Rows from the top that are whole.
    rows: usize,
}

impl Exr {
    /// Decompresses all blocks of the picture.
    fn spooled(&self, source: Source) -> Result<Spooled> {
        let refused = |error| refusal(&self.name, error);
        let on_disk = |source| ImageError::Scratch { name: self.name.clone(), source };
        let (width, height) = (self.header.width as usize, self.header.height as usize);
        let channels = self.chosen.channels.len();
        let spool = Spool::new(height, width * channels, &self.scratch).map_err(on_disk)?;
        let mut spooled = Spooled { spool, peak: 0.0, negative: false, rows: 0 };
        // Pixels of each row that were met.
        let mut met = vec![0u64; height];
        let reader = block::read(source, false).map_err(refused)?;
        let chunks = reader
            .filter_chunks(false, |_, tile, block| {
                let level = tile.level_index;
                block.layer == self.chosen.part && (level.0, level.1) == (0, 0)
            })
            .map_err(refused)?;
        let meta = block::reader::ChunksReader::meta_data(&chunks).clone();
        let part = &meta.headers[self.chosen.part];
        let mut samples = Vec::new();
        for chunk in chunks {
            let block =
                chunk.and_then(|chunk| UncompressedBlock::decompress_chunk(chunk, &meta, false));
            let block = match block {
                Ok(block) => block,
                Err(_) if self.allow_truncated => break,
                Err(error) => return Err(refused(error)),
            };
            let (left, top) = (block.index.pixel_position.0, block.index.pixel_position.1);
            let (columns, rows) = (block.index.pixel_size.0, block.index.pixel_size.1);
            let row_bytes = columns * part.channels.bytes_per_pixel;
            if left + columns > width || top + rows > height || block.data.len() < rows * row_bytes
            {
                let why = "a block outside of the picture";
                return Err(ImageError::unreadable(&self.name, Format::Exr, why));
            }
            for (y, row) in block.data.chunks_exact(row_bytes.max(1)).take(rows).enumerate() {
                self.row(part, row, columns, &mut samples);
                spooled.look(&mut samples, self.header.layout.has_alpha().then_some(channels));
                spooled.spool.write(top + y, left * channels, &samples).map_err(on_disk)?;
                met[top + y] += columns as u64;
            }
        }
        spooled.rows = met.iter().position(|&met| met < width as u64).unwrap_or(height);
        Ok(spooled)
    }

    /// Interleaves the picture's channels of a row of a block, which holds channel after channel.
    fn row(&self, part: &Part, row: &[u8], columns: usize, samples: &mut Vec<f32>) {
        let count = self.chosen.channels.len();
        samples.clear();
        samples.resize(columns * count, 0.0);
        let mut at = 0;
        for (number, channel) in part.channels.list.iter().enumerate() {
            let bytes = &row[at..at + columns * channel.sample_type.bytes_per_sample()];
            at += bytes.len();
            let place = self.chosen.channels.iter().position(|&own| own == number);
            let Some(place) = place else { continue };
            let out = samples[place..].iter_mut().step_by(count);
            if channel.sample_type == SampleType::F16 {
                let values = bytes.chunks_exact(2).map(|b| f16::from_ne_bytes([b[0], b[1]]));
                out.zip(values).for_each(|(out, v)| *out = v.to_f32());
            } else {
                let values = bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
                out.zip(values).for_each(|(out, v)| *out = f32::from_ne_bytes(v));
            }
        }
    }
}

impl Spooled {
    /// Makes light of samples whose colours are multiplied by the alpha that is the last of so many channels, and keeps
    /// the brightest in mind.
    fn look(&mut self, samples: &mut [f32], alpha: Option<usize>) {
        let mut light = |v: &mut f32, solid: bool| {
            self.negative |= *v < -1e-3;
            *v = if v.is_nan() { 0.0 } else { v.clamp(0.0, f32::MAX) };
            // What is infinite says nothing of the others.
            if solid && *v < f32::MAX {
                self.peak = self.peak.max(*v);
            }
        };
        let Some(channels) = alpha else {
            return samples.iter_mut().for_each(|v| light(v, true));
        };
        for pixel in samples.chunks_exact_mut(channels) {
            let (colours, alpha) = pixel.split_at_mut(channels - 1);
            let alpha = &mut alpha[0];
            *alpha = if alpha.is_nan() { 0.0 } else { alpha.clamp(0.0, 1.0) };
            for v in colours {
                if *alpha > 0.0 {
                    *v /= *alpha;
                }
                light(v, *alpha >= SOLID);
            }
        }
    }
}

impl Decode for Exr {
    fn header(&self) -> &Header {
        &self.header
    }

    fn extent(&mut self) -> Result<Option<Extent>> {
        self.pixels = match std::mem::replace(&mut self.pixels, Pixels::None) {
            Pixels::InFile(source) => Pixels::Spooled(self.spooled(source)?),
            other => other,
        };
        match &self.pixels {
            Pixels::Spooled(spooled) => Ok(Some(Extent::Linear(spooled.peak))),
            _ => Ok(None),
        }
    }

    fn rows(
        mut self: Box<Self>,
        take: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<Vec<Warning>> {
        self.extent()?;
        let Self { name, header, allow_truncated, pixels, .. } = *self;
        let Pixels::Spooled(Spooled { mut spool, peak, negative, rows }) = pixels else {
            return Ok(Vec::new());
        };
        let channels = header.layout.channels();
        let colours = channels - usize::from(header.layout.has_alpha());
        let (mut row, mut y) = (Vec::new(), 0);
        let passed = pass_rows(&name, Format::Exr, &header, allow_truncated, take, |out| {
            if y == rows {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            spool.read(y, &mut row)?;
            y += 1;
            for pixel in row.chunks_exact_mut(channels) {
                pixel[..colours].iter_mut().for_each(|v| *v = v.min(peak));
            }
            out.extend_from_slice(&row);
            Ok(())
        });
        let mut warnings = passed?;
        if negative {
            let what = "colours below 0, outside of the picture's primaries, were cut to 0";
            warnings.push(Warning::Interpreted(what.to_owned()));
        }
        Ok(warnings)
    }
}
