//! Rows of a TIFF across its strips or tiles, as bytes of plain samples: predictors are undone, chroma that pixels share is
//! given to each, and chunks that are pictures themselves are decoded.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Cursor, Error, ErrorKind, Read, Seek};

use image_webp::WebPDecoder;

use super::chunk::{Compression, Piece, reader, undo_differences, undo_float_differences};
use super::layout::Layout;
use crate::image::decode::jpeg;
use crate::image::error::ImageError;

/// Reason for which rows end.
pub(super) enum Stop {
    /// The file's data end or break.
    Broken(Error),
    /// Whoever takes the rows failed.
    Failed(ImageError),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

impl From<ImageError> for Stop {
    fn from(error: ImageError) -> Self {
        Self::Failed(error)
    }
}

/// Takes the planes of a row.
type Take<'a> = dyn FnMut(&[Vec<u8>]) -> Result<(), ImageError> + 'a;

/// Gives every row, from top to bottom: the bytes of each plane, of which an interleaved picture has one.
pub(super) fn each_row<S: Read + Seek>(
    source: &RefCell<S>,
    layout: &Layout,
    take: &mut Take<'_>,
) -> Result<(), Stop> {
    let (across, down) = layout.grid();
    let planes = if layout.planar { layout.samples } else { 1 };
    let mut rows = vec![Vec::new(); planes];
    for y in 0..down {
        let mut chunks = Vec::with_capacity(planes * across);
        for plane in 0..planes {
            for x in 0..across {
                let (at, length) = layout.chunks[(plane * down + y) * across + x];
                let piece = Piece::new(source, at, length, layout.reversed);
                chunks.push(ChunkRows::new(piece, layout)?);
            }
        }
        for _ in 0..layout.chunk_rows(y) {
            for (row, chunks) in rows.iter_mut().zip(chunks.chunks_mut(across)) {
                row.clear();
                for chunk in chunks {
                    chunk.next(layout, row)?;
                }
            }
            take(&rows)?;
        }
    }
    Ok(())
}

/// Rows of one strip or tile.
struct ChunkRows<'a> {
    from: Box<dyn Read + 'a>,
    /// Rows that were read together.
    ready: VecDeque<Vec<u8>>,
}

impl<'a> ChunkRows<'a> {
    fn new<S: Read + Seek + 'a>(piece: Piece<'a, S>, layout: &Layout) -> io::Result<Self> {
        let from: Box<dyn Read + 'a> = match layout.compression {
            Compression::Jpeg => Box::new(Cursor::new(jpeg_chunk(&piece.all()?, layout)?)),
            Compression::WebP => Box::new(Cursor::new(webp_chunk(piece.all()?, layout)?)),
            compression => reader(piece, compression, layout.chunk.0)?,
        };
        Ok(Self { from, ready: VecDeque::new() })
    }

    /// Appends the next row.
    fn next(&mut self, layout: &Layout, row: &mut Vec<u8>) -> io::Result<()> {
        if layout.subsampling != (1, 1) {
            if self.ready.is_empty() {
                let mut units = vec![0; layout.row_bytes()];
                self.from.read_exact(&mut units)?;
                self.ready = separate(&units, layout);
            }
            row.extend(self.ready.pop_front().unwrap_or_default());
            return Ok(());
        }
        let start = row.len();
        row.resize(start + layout.row_bytes(), 0);
        let new = &mut row[start..];
        self.from.read_exact(new)?;
        let (kind, samples) = (layout.kind, layout.chunk_samples());
        match layout.predictor {
            2 => undo_differences(new, kind.bits, samples, kind.little),
            3 => undo_float_differences(new, kind.bits, samples),
            _ => {}
        }
        Ok(())
    }
}

/// Rows of interleaved YCbCr from units of some luma samples and the two chroma samples that they share.
fn separate(units: &[u8], layout: &Layout) -> VecDeque<Vec<u8>> {
    let (h, v) = layout.subsampling;
    let width = layout.chunk.0;
    let mut rows = VecDeque::from(vec![Vec::with_capacity(3 * (width + h)); v]);
    for unit in units.chunks_exact(h * v + 2) {
        let (luma, chroma) = unit.split_at(h * v);
        for (row, luma) in rows.iter_mut().zip(luma.chunks_exact(h)) {
            for &y in luma {
                row.extend([y, chroma[0], chroma[1]]);
            }
        }
    }
    rows.iter_mut().for_each(|row| row.truncate(3 * width));
    rows
}

fn jpeg_chunk(bytes: &[u8], layout: &Layout) -> io::Result<Vec<u8>> {
    let samples = layout.chunk_samples();
    let picture = jpeg::tiff_chunk(&layout.jpeg_tables, bytes, layout.chunk, layout.jpeg_ycbcr)
        .map_err(|why| Error::new(ErrorKind::InvalidData, why))?;
    fitting(picture, samples, layout.chunk.0)
}

fn webp_chunk(bytes: Vec<u8>, layout: &Layout) -> io::Result<Vec<u8>> {
    let bad = |why: &dyn std::fmt::Display| Error::new(ErrorKind::InvalidData, why.to_string());
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| bad(&e))?;
    let (width, height) = decoder.dimensions();
    if width as usize != layout.chunk.0 || height as usize > layout.chunk.1 {
        return Err(bad(&"a strip or tile of another size"));
    }
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut data = vec![0; width as usize * height as usize * channels];
    decoder.read_image(&mut data).map_err(|e| bad(&e))?;
    if channels == 3 && layout.samples == 4 {
        data = data.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
    } else if channels != layout.samples {
        return Err(bad(&"a strip or tile of other channels"));
    }
    Ok(data)
}

/// Rows of a picture that is a chunk, without what its width goes beyond the chunk's.
fn fitting(picture: jpeg::Chunk, samples: usize, width: usize) -> io::Result<Vec<u8>> {
    if picture.channels != samples || picture.width < width {
        let why = "a strip or tile of another size";
        return Err(Error::new(ErrorKind::InvalidData, why));
    }
    if picture.width == width {
        return Ok(picture.data);
    }
    let rows = picture.data.chunks_exact(picture.width * samples);
    Ok(rows.flat_map(|row| &row[..width * samples]).copied().collect())
}
