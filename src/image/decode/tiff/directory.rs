//! Directories of a TIFF: which of its pictures is the one that is meant, how that one is laid out, and which kinds are
//! refused by name. A camera's raw file is laid out as a TIFF whose first picture is a small preview.
//! Source: TIFF 6.0; TIFF technical note 1 (sub-directories); DNG 1.6.

use std::io::{Read, Seek};
use std::num::NonZeroUsize;

use super::chunk::Compression;
use super::layout::{Layout, Refusal, TIFFCP};
use super::samples::{Colour, Format, Kind, YCbCr};
use super::tag;
use crate::image::metadata::ifd::{Directory, IfdEntry, Reader};
use crate::image::picture::MAX_PIXELS;

/// Directories that are looked at: a preview is followed by its picture, not by hundreds.
const MAX_DIRECTORIES: usize = 256;
/// Sub-directories of one directory.
const MAX_BELOW: usize = 16;
/// Entries of all directories that are looked at: directories may share their bytes, so that a small file could have
/// thousands of the longest ones.
const MAX_ENTRIES: usize = 1 << 16;
/// Numbers of a palette: three for each of 16 bits.
const MAX_PALETTE: usize = 3 << 16;
/// Samples per pixel; spectral pictures have more, and are no photographs.
const MAX_SAMPLES: u64 = 64;
/// Bytes of all values of a directory, offsets of strips for the most part.
const MAX_VALUES: u64 = 64 << 20;
/// Strips or tiles of a picture: those of the largest one in four planes, each of 256 pixels.
const MAX_CHUNKS: usize = 1 << 22;

/// What other programs convert.
const MAGICK: &str = "convert it: magick FILE NEW.tif";
const DARKTABLE: &str = "develop it first: darktable-cli FILE NEW.tif";

/// Finds the picture and its layout in a file of `length` bytes: page `page` (from 1) of those that are pictures of
/// their own, or the first.
///
/// # Errors
/// Kinds that are not read; directories that make no sense.
pub(super) fn layout<R: Read + Seek>(
    file: R,
    length: u64,
    page: Option<NonZeroUsize>,
) -> Result<Layout, Refusal> {
    let mut fields = Fields {
        reader: Reader::new(file, MAX_VALUES)
            .ok_or_else(|| Refusal::Damaged("truncated in its header".to_owned()))?,
    };
    let found = fields.directories();
    if let Some(maker) = fields.raw(&found) {
        let kind = format!("camera raw ({maker})");
        return Err(Refusal::Unsupported { kind, help: DARKTABLE });
    }
    let mut whole = Vec::new();
    for (at, picture) in found.iter().enumerate() {
        let has_pixels = [tag::STRIP_OFFSETS, tag::TILE_OFFSETS]
            .iter()
            .any(|&tag| picture.directory.find(tag).is_some());
        if has_pixels && !fields.is_part_of_another(&picture.directory) {
            whole.push(at);
        }
    }
    let pages: Vec<_> = whole.iter().copied().filter(|&at| !found[at].below).collect();
    let chosen = match page {
        // That there is no such page is seen by their number.
        Some(page) if !pages.is_empty() => pages[(page.get() - 1).min(pages.len() - 1)],
        _ => whole.first().copied().unwrap_or(0),
    };
    let Some(picture) = found.get(chosen).filter(|picture| !picture.directory.places.is_empty())
    else {
        return Err(Refusal::Damaged("truncated in its directory".to_owned()));
    };
    let mut layout = fields.layout(&picture.directory, length)?;
    layout.page = picture.page;
    layout.pages = pages.len().max(1);
    Ok(layout)
}

/// Size of a chunk, and the place and length of each.
type Grid = ((usize, usize), Vec<(u64, u64)>);

/// A directory and its place.
struct Found {
    page: usize,
    /// It hangs below the page and is not the page itself.
    below: bool,
    directory: Directory,
}

/// Values of directories.
struct Fields<R> {
    reader: Reader<R>,
}

impl<R: Read + Seek> Fields<R> {
    /// The directories of the chain in its order, then those that hang below them.
    fn directories(&mut self) -> Vec<Found> {
        let (mut found, mut all_below) = (Vec::new(), Vec::new());
        let mut seen = Vec::new();
        let mut left = MAX_ENTRIES;
        let mut next = self.reader.first();
        while next != 0 && !seen.contains(&next) && seen.len() < MAX_DIRECTORIES {
            seen.push(next);
            let page = seen.len() - 1;
            let Some(directory) = self.directory(next, &mut left) else { break };
            next = directory.next;
            let below = self.numbers(&directory, tag::SUB_IFDS, MAX_BELOW);
            found.push(Found { page, below: false, directory });
            for at in below {
                let Some(directory) = self.directory(at, &mut left) else { break };
                all_below.push(Found { page, below: true, directory });
            }
        }
        found.extend(all_below);
        found
    }

    /// The directory at an offset, if it has no more entries than are `left`.
    fn directory(&mut self, at: u64, left: &mut usize) -> Option<Directory> {
        let directory = self.reader.directory(at);
        let rest = left.checked_sub(directory.places.len() + directory.unreadable.len());
        // Behind one that is too long none is looked at.
        *left = rest.unwrap_or(0);
        rest.map(|_| directory)
    }

    /// The first whole numbers of an entry, at most `most`; none if it is absent or of another kind.
    fn numbers(&mut self, directory: &Directory, tag: u16, most: usize) -> Vec<u64> {
        let entry = self.reader.value_of(directory, tag);
        entry.map(|entry| numbers(&entry, most)).unwrap_or_default()
    }

    fn number(&mut self, directory: &Directory, tag: u16) -> Option<u64> {
        self.numbers(directory, tag, 1).first().copied()
    }

    fn rationals(&mut self, directory: &Directory, tag: u16) -> Vec<f64> {
        let word = |b: &[u8]| f64::from(u32::from_le_bytes(b.try_into().unwrap_or_default()));
        let entry = self.reader.value_of(directory, tag).filter(|entry| entry.kind == 5);
        let data = entry.map(|entry| entry.data).unwrap_or_default();
        data.chunks_exact(8).map(|b| word(&b[..4]) / word(&b[4..])).collect()
    }

    /// Maker or kind of a camera's raw file, if it is one.
    fn raw(&mut self, found: &[Found]) -> Option<String> {
        let mut raw = false;
        let mut dng = false;
        let mut maker = None;
        for picture in found {
            dng |= picture.directory.find(tag::DNG_VERSION).is_some();
            // Colour filter array, linear raw.
            let photometric = self.number(&picture.directory, tag::PHOTOMETRIC);
            raw |= matches!(photometric, Some(32_803 | 34_892));
            // Sony's, Nikon's, Samsung's, Kodak's and Pentax' ways to compress a sensor's data.
            let compression = self.number(&picture.directory, tag::COMPRESSION);
            raw |= matches!(compression, Some(32_767 | 32_769 | 32_770 | 34_713 | 65_000 | 65_535));
            if maker.is_none() {
                let entry = self.reader.value_of(&picture.directory, tag::MAKE);
                maker = entry.and_then(|entry| {
                    let text = String::from_utf8_lossy(&entry.data).into_owned();
                    let text = text.trim_matches(['\0', ' ']).to_owned();
                    let plain = text.len() <= 40 && text.chars().all(|c| !c.is_control());
                    (plain && !text.is_empty()).then_some(text)
                });
            }
        }
        if !raw && !dng {
            return None;
        }
        Some(if dng { "DNG".to_owned() } else { maker.unwrap_or_else(|| "TIFF".to_owned()) })
    }

    /// `true` for a smaller version or a mask of another picture.
    fn is_part_of_another(&mut self, directory: &Directory) -> bool {
        let kind = self.number(directory, tag::NEW_SUBFILE_TYPE).unwrap_or(0);
        kind & 5 != 0 || self.number(directory, tag::SUBFILE_TYPE) == Some(2)
    }

    fn layout(&mut self, from: &Directory, length: u64) -> Result<Layout, Refusal> {
        if from.cut {
            return Err(Refusal::Damaged("truncated in its directory".to_owned()));
        }
        // The standard's own value for what is missing would be another picture's.
        let outside = from
            .places
            .iter()
            .filter(|place| place.start.checked_add(place.length).is_none_or(|end| end > length));
        let mut missing = from.unreadable.iter().copied().chain(outside.map(|place| place.tag));
        if missing.any(|tag| tag::OF_LAYOUT.contains(&tag)) {
            return Err(Refusal::Damaged("truncated, its layout lies outside the file".to_owned()));
        }
        let (width, height) = (self.number(from, tag::WIDTH), self.number(from, tag::HEIGHT));
        let (width, height) = (width.unwrap_or(0), height.unwrap_or(0));
        let pixels = width.checked_mul(height);
        if pixels.is_none_or(|pixels| pixels == 0 || pixels > MAX_PIXELS) {
            return Err(Refusal::Size { width, height });
        }
        let (width, height) = (width as usize, height as usize);
        let bits = self.numbers(from, tag::BITS, MAX_SAMPLES as usize + 1);
        let samples = self.number(from, tag::SAMPLES).unwrap_or(bits.len().max(1) as u64);
        if samples == 0 || samples > MAX_SAMPLES {
            let kind = format!("TIFF of {samples} channels");
            return Err(Refusal::Unsupported { kind, help: "convert it to RGB first" });
        }
        let samples = samples as usize;
        let mut kind = self.kind(from, &bits, samples)?;
        let compression = self.compression(from)?;
        let mut colour = self.colour(from, kind, compression)?;
        if samples < colour.samples() {
            return Err(Refusal::Damaged(
                "fewer samples per pixel than its kind of colour needs".to_owned(),
            ));
        }
        let mut subsampling = (1, 1);
        if matches!(colour, Colour::YCbCr(_)) && compression != Compression::Jpeg {
            let stated = self.numbers(from, tag::SUBSAMPLING, 3);
            subsampling = match stated.as_slice() {
                // The standard's own value for a file that does not say.
                [] => (2, 2),
                &[h @ (1 | 2 | 4), v @ (1 | 2 | 4)] => (h as usize, v as usize),
                _ => return Err(Refusal::Damaged("impossible subsampling".to_owned())),
            };
        }
        let planar = self.number(from, tag::PLANAR) == Some(2) && samples > 1;
        let jpeg = compression == Compression::Jpeg;
        let jpeg_ycbcr = jpeg && matches!(colour, Colour::YCbCr(_));
        if jpeg && kind.bits != 8 || jpeg_ycbcr && (planar || samples != 3) {
            let kind = if planar {
                "TIFF in planes of YCbCr compressed as JPEG".to_owned()
            } else {
                format!("TIFF of {} bits compressed as JPEG", kind.bits)
            };
            return Err(Refusal::Unsupported { kind, help: TIFFCP });
        }
        if jpeg_ycbcr {
            colour = Colour::Rgb;
        }
        let predictor = self.number(from, tag::PREDICTOR).unwrap_or(1);
        let predicted = matches!(compression, Compression::Lzw | Compression::Deflate);
        let predictor = if predicted { predictor } else { 1 };
        let fits = match predictor {
            1 => true,
            2 => matches!(kind.bits, 8 | 16 | 32 | 64),
            3 => kind.format == Format::Float,
            _ => false,
        };
        if predictor == 3 {
            // What comes out of it.
            kind.little = false;
        }
        if !fits || subsampling != (1, 1) && (planar || predictor != 1 || kind.bits != 8) {
            let kind = format!("TIFF of {} bits with predictor {predictor}", kind.bits);
            return Err(Refusal::Unsupported { kind, help: MAGICK });
        }
        let (alpha, left_out, alpha_guessed) = self.extra(from, samples, &colour);
        let (chunk, chunks) =
            self.chunks(from, (width, height, if planar { samples } else { 1 }), length)?;
        let tables = self.reader.value_of(from, tag::JPEG_TABLES);
        let layout = Layout {
            width,
            height,
            kind,
            colour,
            samples,
            alpha,
            left_out,
            alpha_guessed,
            compression,
            predictor,
            // JPEGs are never reversed.
            reversed: self.number(from, tag::FILL_ORDER) == Some(2) && !jpeg,
            planar,
            chunk,
            chunks,
            subsampling,
            jpeg_tables: tables.map(|entry| entry.data).unwrap_or_default(),
            jpeg_ycbcr,
            page: 0,
            pages: 1,
        };
        layout.check()?;
        Ok(layout)
    }

    fn kind(&mut self, from: &Directory, bits: &[u64], samples: usize) -> Result<Kind, Refusal> {
        let width = bits.first().copied().unwrap_or(1);
        let formats = self.numbers(from, tag::SAMPLE_FORMAT, MAX_SAMPLES as usize);
        let format = match formats.first() {
            None | Some(1 | 4) => Format::Unsigned,
            Some(2) => Format::Signed,
            Some(3) => Format::Float,
            Some(_) => {
                let kind = "TIFF of complex numbers".to_owned();
                return Err(Refusal::Unsupported {
                    kind,
                    help: "convert it to whole numbers first",
                });
            }
        };
        let little = self.reader.little;
        let kind = Kind { bits: width.min(1 << 15) as u16, format, little };
        let same = bits.iter().take(samples).all(|&other| other == width)
            && formats.windows(2).all(|pair| pair[0] == pair[1]);
        if !same || !kind.is_known() {
            let kind = if same {
                format!("TIFF of {width} bits per sample")
            } else {
                "TIFF whose samples differ in width".to_owned()
            };
            return Err(Refusal::Unsupported { kind, help: MAGICK });
        }
        Ok(kind)
    }

    fn compression(&mut self, from: &Directory) -> Result<Compression, Refusal> {
        let (name, help) = match self.number(from, tag::COMPRESSION).unwrap_or(1) {
            1 => return Ok(Compression::None),
            3 if from.find(tag::TILE_OFFSETS).is_some() => ("group 3 fax in tiles", TIFFCP),
            3 if self.number(from, tag::GROUP3_OPTIONS).unwrap_or(0) & 3 == 0 => {
                return Ok(Compression::Group3);
            }
            4 => return Ok(Compression::Group4),
            5 => return Ok(Compression::Lzw),
            7 => return Ok(Compression::Jpeg),
            8 | 32_946 => return Ok(Compression::Deflate),
            32_773 => return Ok(Compression::PackBits),
            50_001 => return Ok(Compression::WebP),
            2 => ("a fax without line marks", TIFFCP),
            3 => ("two-dimensional group 3 fax", TIFFCP),
            6 => ("JPEG of the old kind", "convert it: tiff2rgba FILE NEW.tif"),
            32_809 => ("ThunderScan", TIFFCP),
            32_908 | 32_909 => ("Pixar's compression", TIFFCP),
            33_003 | 33_004 | 33_005 | 34_712 => {
                ("JPEG 2000", "convert it: gdal_translate FILE NEW.tif")
            }
            34_661 => ("JBIG", TIFFCP),
            34_676 | 34_677 => ("SGI's LogLuv", MAGICK),
            34_887 => ("LERC", TIFFCP),
            34_925 => ("LZMA", TIFFCP),
            34_892 => ("lossy DNG's JPEG", DARKTABLE),
            50_000 => ("Zstandard", TIFFCP),
            50_002 | 52_546 => ("JPEG XL", MAGICK),
            _ => ("a compression of its own", MAGICK),
        };
        Err(Refusal::Unsupported { kind: format!("TIFF compressed as {name}"), help })
    }

    fn colour(
        &mut self,
        from: &Directory,
        kind: Kind,
        compression: Compression,
    ) -> Result<Colour, Refusal> {
        let photometric = self.number(from, tag::PHOTOMETRIC);
        let fax = matches!(compression, Compression::Group3 | Compression::Group4);
        let colour = match photometric {
            Some(0) => Colour::WhiteIsZero,
            None if fax => Colour::WhiteIsZero,
            Some(1 | 4) => Colour::BlackIsZero,
            Some(2) => Colour::Rgb,
            Some(3) => Colour::Palette(self.palette(from, kind)?),
            Some(5) if self.number(from, tag::INK_SET).unwrap_or(1) == 1 => Colour::Cmyk,
            Some(6) => Colour::YCbCr(self.ycbcr(from, kind)),
            Some(8) => Colour::Lab { shifted: false },
            Some(9) => Colour::Lab { shifted: true },
            other => {
                let name = match other {
                    None => "of unstated colour",
                    Some(5) => "of inks other than CMYK",
                    Some(10) => "in ITU L*a*b*",
                    Some(32_844 | 32_845) => "in LogLuv",
                    Some(_) => "of an unknown kind of colour",
                };
                return Err(Refusal::Unsupported { kind: format!("TIFF {name}"), help: MAGICK });
            }
        };
        let plain = matches!(colour, Colour::WhiteIsZero | Colour::BlackIsZero | Colour::Rgb);
        let whole = match colour {
            Colour::Lab { .. } | Colour::YCbCr(_) => {
                matches!(kind.bits, 8 | 16) && kind.format == Format::Unsigned
            }
            _ => true,
        };
        if fax && (kind.bits != 1 || !plain)
            || !plain && !whole
            || matches!(colour, Colour::Palette(_)) && kind.format != Format::Unsigned
        {
            let kind = format!("TIFF of this kind of colour with {} bits", kind.bits);
            return Err(Refusal::Unsupported { kind, help: MAGICK });
        }
        Ok(colour)
    }

    fn palette(&mut self, from: &Directory, kind: Kind) -> Result<Vec<[f32; 3]>, Refusal> {
        let values = self.numbers(from, tag::COLOUR_MAP, MAX_PALETTE);
        let entries = values.len() / 3;
        if kind.bits > 16 || entries == 0 || entries < 1 << kind.bits {
            return Err(Refusal::Damaged("its palette is missing or too short".to_owned()));
        }
        // Some writers store 8 bits where 16 are due, in the lower byte or alone in the upper one.
        let maximum = if values.iter().all(|&v| v <= 255) {
            255.0
        } else if values.iter().all(|&v| v % 256 == 0) {
            65_280.0
        } else {
            65_535.0
        };
        let channel = |at: usize| values[at] as f32 / maximum;
        Ok((0..entries).map(|i| [i, entries + i, 2 * entries + i].map(channel)).collect())
    }

    fn ycbcr(&mut self, from: &Directory, kind: Kind) -> YCbCr {
        let luma = self.rationals(from, tag::LUMA);
        let luma = match luma.as_slice() {
            &[r, g, b] if [r, g, b].iter().all(|v| v.is_finite() && *v > 0.0 && *v < 1.0) => {
                [r, g, b]
            }
            _ => [0.299, 0.587, 0.114],
        };
        let range = self.rationals(from, tag::BLACK_AND_WHITE);
        let sound = |r: &[f64]| {
            r.iter().all(|v| v.is_finite()) && r.chunks_exact(2).all(|pair| pair[0] != pair[1])
        };
        let (top, middle) = (kind.maximum(), (kind.maximum() + 1.0) / 2.0);
        let range = match range.first_chunk::<6>() {
            Some(range) if sound(range) => *range,
            _ => [0.0, top, middle, top, middle, top],
        };
        YCbCr { luma, range }
    }

    /// Transparency and its kind, the number of samples left out, and whether the transparency is a guess.
    fn extra(
        &mut self,
        from: &Directory,
        samples: usize,
        colour: &Colour,
    ) -> (Option<(usize, bool)>, usize, bool) {
        let first = colour.samples();
        let more = samples - first;
        let stated = self.numbers(from, tag::EXTRA_SAMPLES, MAX_SAMPLES as usize);
        if stated.is_empty() && more == 1 && *colour == Colour::Rgb {
            // Old programs write transparency without saying so.
            return (Some((first, false)), 0, true);
        }
        let alpha = stated.iter().take(more).position(|kind| matches!(kind, 1 | 2));
        let alpha = alpha.map(|at| (first + at, stated[at] == 1));
        (alpha, more - usize::from(alpha.is_some()), false)
    }

    fn chunks(
        &mut self,
        from: &Directory,
        (width, height, planes): (usize, usize, usize),
        length: u64,
    ) -> Result<Grid, Refusal> {
        let tiled = from.find(tag::TILE_OFFSETS).is_some();
        let (offsets, counts, chunk) = if tiled {
            let side = |value: Option<u64>| value.unwrap_or(0).min(1 << 30) as usize;
            let chunk = (
                side(self.number(from, tag::TILE_WIDTH)),
                side(self.number(from, tag::TILE_HEIGHT)),
            );
            (tag::TILE_OFFSETS, tag::TILE_COUNTS, chunk)
        } else {
            let rows = self.number(from, tag::ROWS_PER_STRIP).unwrap_or(u64::MAX);
            (tag::STRIP_OFFSETS, tag::STRIP_COUNTS, (width, rows.min(height as u64) as usize))
        };
        if chunk.0 == 0 || chunk.1 == 0 {
            return Err(Refusal::Damaged("a strip or tile of no size".to_owned()));
        }
        let grid = width.div_ceil(chunk.0).checked_mul(height.div_ceil(chunk.1));
        let needed = grid.and_then(|grid| grid.checked_mul(planes));
        let Some(needed) = needed.filter(|&needed| needed <= MAX_CHUNKS) else {
            return Err(Refusal::Damaged("too many strips or tiles".to_owned()));
        };
        let offsets = self.numbers(from, offsets, needed);
        let mut counts = self.numbers(from, counts, needed);
        if counts.len() < offsets.len() {
            // Some old writers leave the lengths out: a chunk then reaches to the next, or to the end.
            let mut sorted = offsets.clone();
            sorted.sort_unstable();
            let end = |at: u64| sorted.get(sorted.partition_point(|other| *other <= at));
            let reach = |&at: &u64| end(at).copied().unwrap_or(length).saturating_sub(at);
            counts = offsets.iter().map(reach).collect();
        }
        if self.reader.exceeded {
            return Err(Refusal::Damaged("too many strips or tiles".to_owned()));
        }
        Ok((chunk, offsets.into_iter().zip(counts).collect()))
    }
}

/// The first whole numbers of an entry, at most `most`.
fn numbers(entry: &IfdEntry, most: usize) -> Vec<u64> {
    let wide = |size: usize| {
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, &b| sum << 8 | u64::from(b));
        entry.data.chunks_exact(size).take(most).map(number).collect()
    };
    match entry.kind {
        1 | 7 => wide(1),
        3 => wide(2),
        4 | 13 => wide(4),
        16 | 18 => wide(8),
        _ => Vec::new(),
    }
}
