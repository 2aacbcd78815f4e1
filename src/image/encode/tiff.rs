//! TIFF, written by hand: strips compressed with deflate and the horizontal predictor go out as they
//! come, the directory follows at the end. (The `tiff` crate compresses only pictures given whole.)
//! BigTIFF is used when the samples alone come near 4 GiB.
//! Source: TIFF 6.0; Adobe's technical notes for predictor and deflate; the BigTIFF design.

use std::io::{self, Seek, SeekFrom, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use rayon::prelude::*;

use super::{
    format_writer::FormatWriter,
    options::{EncodeOptions, SOFTWARE},
    seekable::SeekableFile,
    shape::{Depth, SampleShape},
};
use crate::image::error::{Result, Warning};
use crate::image::metadata::ifd::{
    self, BOUND_NOTE, Exif, IfdEntry, has_bound_note, tag, without_note,
};
use crate::image::metadata::photoshop;
use crate::image::output::OpenOutput;

/// Bytes of samples in a strip, about.
const STRIP: usize = 1 << 18;
/// On a photo, some 10 times faster than the default of 6 for 5 % more bytes.
const DEFLATE_LEVEL: u32 = 3;
/// Samples beyond this many bytes make a BigTIFF; deflate seldom grows them by the 64 MiB left.
const CLASSIC_LIMIT: u64 = (1 << 32) - (1 << 26);

pub(super) struct TiffWriter {
    file: SeekableFile,
    shape: SampleShape,
    options: EncodeOptions,
    big: bool,
    rows_per_strip: usize,
    pending: Vec<u8>,
    position: u64,
    /// The EXIF block stands at the beginning of the file, as it was.
    exif_stays: bool,
    offsets: Vec<u64>,
    counts: Vec<u64>,
}

impl TiffWriter {
    pub(super) fn new(
        target: &OpenOutput,
        shape: SampleShape,
        mut options: EncodeOptions,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self> {
        let big = needs_big(shape);
        if let Some(block) = options.exif.as_ref().filter(|block| has_bound_note(block))
            && !can_stay(block, big)
        {
            options.exif = Some(without_note(block));
            warnings.push(Warning::LeftOut(BOUND_NOTE));
        }
        Self::of_kind(target, shape, options, big)
    }

    /// A classic TIFF or a BigTIFF.
    fn of_kind(
        target: &OpenOutput,
        shape: SampleShape,
        options: EncodeOptions,
        big: bool,
    ) -> Result<Self> {
        let mut file = SeekableFile::open(target)?;
        // The directory's offset is filled in at the end.
        let header: &[u8] = if big { b"II+\0\x08\0\0\0\0\0\0\0\0\0\0\0" } else { b"II*\0\0\0\0\0" };
        file.write_all(header).map_err(|e| file.failed(e))?;
        // An EXIF block whose maker note must not move has the same places in the file as in itself.
        let stays = |block: &&Vec<u8>| has_bound_note(block) && can_stay(block, big);
        let mut position = header.len() as u64;
        let exif_stays = options.exif.as_ref().filter(stays).is_some();
        if let Some(block) = options.exif.as_ref().filter(|_| exif_stays) {
            file.write_all(&block[header.len()..]).map_err(|e| file.failed(e))?;
            file.write_all(&[0][..block.len() % 2]).map_err(|e| file.failed(e))?;
            position = block.len().next_multiple_of(2) as u64;
        }
        Ok(Self {
            file,
            shape,
            options,
            big,
            rows_per_strip: (STRIP / shape.row_bytes()).max(1),
            pending: Vec::new(),
            position,
            exif_stays,
            offsets: Vec::new(),
            counts: Vec::new(),
        })
    }

    /// Compresses and writes the full strips among the pending rows; at the end also the last, shorter one.
    fn write_strips(&mut self, last: bool) -> io::Result<()> {
        let strip = self.rows_per_strip * self.shape.row_bytes();
        let ready = if last { self.pending.len() } else { self.pending.len() / strip * strip };
        let shape = self.shape;
        let strips: Vec<io::Result<Vec<u8>>> =
            self.pending[..ready].par_chunks(strip).map(|rows| compressed(rows, shape)).collect();
        self.pending.drain(..ready);
        for strip in strips {
            let strip = strip?;
            self.file.write_all(&strip)?;
            self.offsets.push(self.position);
            self.counts.push(strip.len() as u64);
            self.position += strip.len() as u64;
            if self.position % 2 == 1 {
                self.file.write_all(&[0])?;
                self.position += 1;
            }
        }
        Ok(())
    }

    fn write_directory(&mut self) -> io::Result<()> {
        let block = self.options.exif.take();
        let links = block.as_deref().map(ifd::links).unwrap_or_default();
        let mut exif = block.as_deref().and_then(Exif::parse).unwrap_or_default();
        let inherited = std::mem::take(&mut exif.ifd0);
        let start = self.position;
        let mut entries = self.entries(inherited);
        if self.exif_stays {
            entries.extend(links);
            ifd::serialise(&entries, start, self.big, &mut self.file)?;
        } else {
            exif.write(entries, start, self.big, &mut self.file)?;
        }
        if !self.big && self.file.stream_position()? > u64::from(u32::MAX) {
            return Err(io::Error::other("the picture outgrew a classic TIFF"));
        }
        if self.big {
            self.file.seek(SeekFrom::Start(8))?;
            self.file.write_all(&start.to_le_bytes())?;
        } else {
            self.file.seek(SeekFrom::Start(4))?;
            self.file.write_all(&(start as u32).to_le_bytes())?;
        }
        Ok(())
    }

    /// The directory's entries; `inherited` are those of the input's EXIF block.
    fn entries(&mut self, inherited: Vec<IfdEntry>) -> Vec<IfdEntry> {
        let shape = self.shape;
        let channels = shape.channels();
        let shorts = |tag, value: u16| {
            let data = std::iter::repeat_n(value.to_le_bytes(), channels);
            IfdEntry::bytes(tag, ifd::SHORT, data.flatten().collect())
        };
        let mut entries = vec![
            IfdEntry::long(256, shape.width),
            IfdEntry::long(257, shape.height),
            shorts(258, 8 * shape.depth.bytes() as u16),
            IfdEntry::short(259, 8), // Adobe deflate
            IfdEntry::short(262, if shape.grey { 1 } else { 2 }), // black is zero, or RGB
            self.places(273, &self.offsets),
            IfdEntry::short(277, channels as u16),
            IfdEntry::long(278, self.rows_per_strip as u32),
            self.places(279, &self.counts),
            IfdEntry::short(284, 1), // interleaved
            // Differences of samples, or of the bytes of floats; unsigned integers, or floats.
            IfdEntry::short(317, if shape.depth.is_float() { 3 } else { 2 }),
            shorts(339, if shape.depth.is_float() { 3 } else { 1 }),
        ];
        if shape.alpha {
            entries.push(IfdEntry::short(338, 2)); // unassociated
        }
        if let Some((x, y)) = self.options.dpi {
            entries.push(IfdEntry::dpi(tag::X_RESOLUTION, x));
            entries.push(IfdEntry::dpi(tag::Y_RESOLUTION, y));
            entries.push(IfdEntry::short(tag::RESOLUTION_UNIT, 2));
        }
        if let Some(xmp) = self.options.xmp.take() {
            entries.push(IfdEntry::bytes(tag::XMP, 1, xmp));
        }
        if let Some(icc) = self.options.icc.take() {
            entries.push(IfdEntry::bytes(tag::ICC_PROFILE, 7, icc));
        }
        if let Some(block) = self.options.photoshop.take() {
            // IPTC's records by themselves as well, for readers that know no resources: as whole numbers of 32 bits.
            if let Some(records) = photoshop::iptc(&block) {
                let mut records = records.to_vec();
                records.resize(records.len().next_multiple_of(4), 0);
                entries.push(IfdEntry::bytes(tag::IPTC, ifd::LONG, records));
            }
            entries.push(IfdEntry::bytes(tag::PHOTOSHOP, 1, block));
        }
        entries.push(IfdEntry::ascii(tag::SOFTWARE, SOFTWARE));
        let describes = |e: &IfdEntry| e.tag != tag::SOFTWARE && Exif::describes(e.tag);
        entries.extend(inherited.into_iter().filter(describes));
        entries
    }

    fn places(&self, tag: u16, values: &[u64]) -> IfdEntry {
        if self.big {
            let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            IfdEntry::bytes(tag, ifd::LONG8, data)
        } else {
            let data = values.iter().flat_map(|&v| (v as u32).to_le_bytes());
            IfdEntry::bytes(tag, ifd::LONG, data.collect())
        }
    }
}

impl FormatWriter for TiffWriter {
    fn write(&mut self, rows: &[u8]) -> Result<()> {
        self.pending.extend_from_slice(rows);
        self.write_strips(false).map_err(|e| self.file.failed(e))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.write_strips(true)
            .and_then(|()| self.write_directory())
            .and_then(|()| self.file.finish())
            .map_err(|e| self.file.failed(e))
    }
}

/// `true` if an EXIF block can stand in a TIFF as it is: both have the same order of bytes and kind of directories.
fn can_stay(block: &[u8], big: bool) -> bool {
    !big && block.starts_with(b"II*\0")
}

/// `true` if a picture may outgrow the 4 GiB that a classic TIFF's offsets reach.
fn needs_big(shape: SampleShape) -> bool {
    shape.row_bytes() as u64 * u64::from(shape.height) > CLASSIC_LIMIT
}

/// Replaces a row of floats by their bytes, the most significant ones of all first, as horizontal differences.
/// Source: Adobe Photoshop TIFF technical note 3.
fn difference_floats(row: &mut [u8], channels: usize) {
    let samples = row.len() / 4;
    let bytes = row.to_vec();
    for (at, sample) in bytes.chunks_exact(4).enumerate() {
        for (place, &byte) in sample.iter().rev().enumerate() {
            row[place * samples + at] = byte;
        }
    }
    for i in (channels..row.len()).rev() {
        row[i] = row[i].wrapping_sub(row[i - channels]);
    }
}

/// A strip's rows as horizontal differences, deflated.
fn compressed(rows: &[u8], shape: SampleShape) -> io::Result<Vec<u8>> {
    let channels = shape.channels();
    let mut rows = rows.to_vec();
    for row in rows.chunks_exact_mut(shape.row_bytes()) {
        if shape.depth.is_float() {
            difference_floats(row, channels);
        } else if shape.depth == Depth::Sixteen {
            for i in (channels..row.len() / 2).rev() {
                let at = |k: usize| u16::from_le_bytes([row[2 * k], row[2 * k + 1]]);
                let difference = at(i).wrapping_sub(at(i - channels));
                row[2 * i..2 * i + 2].copy_from_slice(&difference.to_le_bytes());
            }
        } else {
            for i in (channels..row.len()).rev() {
                row[i] = row[i].wrapping_sub(row[i - channels]);
            }
        }
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(DEFLATE_LEVEL));
    encoder.write_all(&rows)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Input, Output, decode};

    fn shape(width: u32, height: u32, sixteen: bool) -> SampleShape {
        let depth = if sixteen { Depth::Sixteen } else { Depth::Eight };
        SampleShape { width, height, grey: false, alpha: false, depth }
    }

    #[test]
    fn bigtiff_begins_where_the_samples_come_near_four_gibibytes() {
        assert!(!needs_big(shape(16_384, 16_384, true)));
        assert!(!needs_big(shape(36_864, 36_864, false)));
        assert!(needs_big(shape(37_800, 37_800, false)));
        assert!(needs_big(shape(32_768, 32_768, true)));
        // At the limit to the byte: a row of 2¹⁶ samples.
        let row = SampleShape { grey: true, ..shape(1 << 16, 1, false) };
        let rows = (CLASSIC_LIMIT >> 16) as u32;
        assert!(!needs_big(SampleShape { height: rows, ..row }));
        assert!(needs_big(SampleShape { height: rows + 1, ..row }));
    }

    #[test]
    fn a_bigtiff_is_read_back_sample_by_sample_with_its_metadata() {
        let folder = tempfile::tempdir().unwrap();
        // Several strips, and a directory whose arrays lie outside of it.
        for (width, height, sixteen) in [(300, 700, false), (300, 700, true), (1, 1, false)] {
            let shape = shape(width, height, sixteen);
            let path = folder.path().join("big.tif");
            let target = OpenOutput::open(&Output::Path(path.clone()), None).unwrap();
            let options = EncodeOptions {
                dpi: Some((300.0, 150.0)),
                xmp: Some(b"<x:xmpmeta/>".to_vec()),
                ..EncodeOptions::default()
            };
            let mut writer = Box::new(TiffWriter::of_kind(&target, shape, options, true).unwrap());
            let bytes: Vec<u8> =
                (0..shape.row_bytes() * height as usize).map(|i| (i * i / 7) as u8).collect();
            bytes.chunks(shape.row_bytes() * 64).for_each(|rows| writer.write(rows).unwrap());
            writer.finish().unwrap();
            target.commit().unwrap();

            assert!(std::fs::read(&path).unwrap().starts_with(b"II+\0\x08\0\0\0"));
            let picture = decode(&Input::Path(path.clone())).unwrap();
            assert_eq!((picture.width, picture.height), (width, height));
            assert_eq!(
                (picture.metadata.dpi, picture.metadata.xmp.is_some()),
                (Some((300.0, 150.0)), true)
            );
            let samples: Vec<f32> = if sixteen {
                let pairs = bytes.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]]));
                pairs.map(|v| f32::from(v) / 65535.0).collect()
            } else {
                bytes.iter().map(|&v| f32::from(v) / 255.0).collect()
            };
            let same = picture.rgb.iter().zip(&samples).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(same && picture.rgb.len() == samples.len());
        }
    }
}
