//! OpenEXR, written by hand: blocks of 16 rows, compressed as ZIP, go out as they come, and the table of their places is
//! filled in at the end. (The `exr` crate writes pictures that are given whole, or asks for their blocks itself.)
//! Source: OpenEXR File Layout; `ImfZip.cpp` for the order of bytes before they are deflated.

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
use crate::image::error::Result;
use crate::image::metadata::exr::{SETTINGS, XMP};
use crate::image::metadata::text::{COMMENT, COPYRIGHT};
use crate::image::output::OpenOutput;
use crate::image::primaries::chromaticities;

/// Rows of a block that is compressed as ZIP.
const ROWS: usize = 16;
/// Number of that compression.
const ZIP: u8 = 3;
const DEFLATE_LEVEL: u32 = 4;

pub(super) struct ExrWriter {
    file: SeekableFile,
    shape: SampleShape,
    pending: Vec<u8>,
    /// Place of the table, and of what comes next.
    table: u64,
    position: u64,
    offsets: Vec<u64>,
}

impl ExrWriter {
    pub(super) fn new(
        target: &OpenOutput,
        shape: SampleShape,
        options: &EncodeOptions,
    ) -> Result<Self> {
        let mut file = SeekableFile::open(target)?;
        let mut header = header(shape, options);
        let table = header.len() as u64;
        header.resize(header.len() + (shape.height as usize).div_ceil(ROWS) * 8, 0);
        file.write_all(&header).map_err(|e| file.failed(e))?;
        let position = header.len() as u64;
        let (pending, offsets) = (Vec::new(), Vec::new());
        Ok(Self { file, shape, pending, table, position, offsets })
    }

    /// Compresses and writes the full blocks among the pending rows; at the end also the last, shorter one.
    fn write_blocks(&mut self, last: bool) -> io::Result<()> {
        let block = ROWS * self.shape.row_bytes();
        let ready = if last { self.pending.len() } else { self.pending.len() / block * block };
        let shape = self.shape;
        let blocks: Vec<io::Result<Vec<u8>>> =
            self.pending[..ready].par_chunks(block).map(|rows| compressed(rows, shape)).collect();
        self.pending.drain(..ready);
        for block in blocks {
            let block = block?;
            let length = i32::try_from(block.len())
                .map_err(|_| io::Error::other("a block larger than an OpenEXR's"))?;
            let row = (self.offsets.len() * ROWS) as i32;
            self.file.write_all(&row.to_le_bytes())?;
            self.file.write_all(&length.to_le_bytes())?;
            self.file.write_all(&block)?;
            self.offsets.push(self.position);
            self.position += 8 + block.len() as u64;
        }
        Ok(())
    }

    fn write_table(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.table))?;
        for offset in &self.offsets {
            self.file.write_all(&offset.to_le_bytes())?;
        }
        Ok(())
    }
}

impl FormatWriter for ExrWriter {
    fn write(&mut self, rows: &[u8]) -> Result<()> {
        self.pending.extend_from_slice(rows);
        self.write_blocks(false).map_err(|e| self.file.failed(e))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.write_blocks(true)
            .and_then(|()| self.write_table())
            .and_then(|()| self.file.finish())
            .map_err(|e| self.file.failed(e))
    }
}

/// Channels in the order of their names, with the place of each among the samples.
fn channels(shape: SampleShape) -> &'static [(&'static str, usize)] {
    match (shape.grey, shape.alpha) {
        (true, false) => &[("Y", 0)],
        (true, true) => &[("A", 1), ("Y", 0)],
        (false, false) => &[("B", 2), ("G", 1), ("R", 0)],
        (false, true) => &[("A", 3), ("B", 2), ("G", 1), ("R", 0)],
    }
}

/// Everything before the table.
fn header(shape: SampleShape, options: &EncodeOptions) -> Vec<u8> {
    let mut header = b"v/1\x01\x02\0\0\0".to_vec();
    let mut put = |name: &str, kind: &str, data: &[u8]| {
        for text in [name, kind] {
            header.extend_from_slice(text.as_bytes());
            header.push(0);
        }
        header.extend_from_slice(&(data.len() as i32).to_le_bytes());
        header.extend_from_slice(data);
    };
    let floats = |values: &[f64]| -> Vec<u8> {
        values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect()
    };
    let mut list = Vec::new();
    let kind: i32 = if shape.depth == Depth::Half { 1 } else { 2 };
    for (name, _) in channels(shape) {
        list.extend_from_slice(name.as_bytes());
        list.push(0);
        // Number format; perceptual or linear, and reserved bytes; pixels per sample across and down.
        for value in [kind, 0, 1, 1] {
            list.extend_from_slice(&value.to_le_bytes());
        }
    }
    list.push(0);
    put("channels", "chlist", &list);
    if !shape.grey {
        let c = chromaticities(options.icc.as_deref());
        let all = [c.red, c.green, c.blue, c.white];
        put("chromaticities", "chromaticities", &floats(all.as_flattened()));
    }
    put("compression", "compression", &[ZIP]);
    let window = [0, 0, shape.width as i32 - 1, shape.height as i32 - 1];
    let window = window.map(i32::to_le_bytes);
    put("dataWindow", "box2i", window.as_flattened());
    put("displayWindow", "box2i", window.as_flattened());
    put("lineOrder", "lineOrder", &[0]);
    let aspect = options.dpi.map_or(1.0, |(x, y)| y / x);
    put("pixelAspectRatio", "float", &floats(&[aspect]));
    put("screenWindowCenter", "v2f", &floats(&[0.0, 0.0]));
    put("screenWindowWidth", "float", &floats(&[1.0]));
    put("software", "string", SOFTWARE.as_bytes());
    if let Some((x, _)) = options.dpi {
        put("xDensity", "float", &floats(&[x]));
    }
    for (keyword, name) in [(COMMENT, "comments"), (COPYRIGHT, "owner")] {
        if let Some(text) = options.texts.iter().find(|text| text.keyword == keyword) {
            put(name, "string", text.text.as_bytes());
        }
    }
    if let Some(packet) = &options.xmp {
        put(XMP, "string", packet);
    }
    if let Some(settings) = &options.settings {
        put(SETTINGS, "string", settings.as_bytes());
    }
    header.push(0);
    header
}

/// A block's rows, channel after channel in each, compressed if that makes them shorter.
fn compressed(rows: &[u8], shape: SampleShape) -> io::Result<Vec<u8>> {
    let (size, count) = (shape.depth.bytes(), shape.channels());
    let mut plain = Vec::with_capacity(rows.len());
    for row in rows.chunks_exact(shape.row_bytes()) {
        for &(_, place) in channels(shape) {
            let samples = row.chunks_exact(size * count);
            samples.for_each(|pixel| plain.extend_from_slice(&pixel[place * size..][..size]));
        }
    }
    // Bytes at even places, then those at odd ones, as differences that begin at half of their range.
    let halves = plain.iter().step_by(2).chain(plain.iter().skip(1).step_by(2));
    let mut before = None;
    let differences: Vec<u8> = halves
        .map(|&byte| match before.replace(byte) {
            None => byte,
            Some(before) => byte.wrapping_sub(before).wrapping_add(128),
        })
        .collect();
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(DEFLATE_LEVEL));
    encoder.write_all(&differences)?;
    let compressed = encoder.finish()?;
    Ok(if compressed.len() < plain.len() { compressed } else { plain })
}
