//! Layout of the picture that is read from a TIFF: its samples, its strips or tiles, and what decoding them takes.
//! Source: TIFF 6.0.

use super::chunk::Compression;
use super::samples::{Colour, Kind};

/// Chunks that are read side by side, each with a decompressor of its own.
const MAX_SIDE_BY_SIDE: usize = 2048;

/// Reason for which a TIFF is not decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Bytes that contradict the standard or themselves.
    Damaged(String),
    /// A lawful kind that is not read here, and what helps.
    Unsupported { kind: String, help: &'static str },
    /// No pixels, or too many.
    Size { width: u64, height: u64 },
}

/// What libtiff's own program converts.
pub(super) const TIFFCP: &str = "convert it: tiffcp -c lzw FILE NEW.tif";

/// Layout of the picture that is read.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub width: usize,
    pub height: usize,
    pub kind: Kind,
    pub colour: Colour,
    /// Samples per pixel, with those that are no colour.
    pub samples: usize,
    /// Place of the transparency among the samples, and whether colours are multiplied by it.
    pub alpha: Option<(usize, bool)>,
    /// Number of samples that are neither colour nor transparency.
    pub left_out: usize,
    /// The file does not say that its last sample is transparency.
    pub alpha_guessed: bool,
    pub compression: Compression,
    /// 1, 2 (differences of samples) or 3 (of bytes of floats).
    pub predictor: u64,
    /// The lowest bit of each byte comes first.
    pub reversed: bool,
    pub planar: bool,
    /// Width and height of a chunk, which is a tile, or a strip of all columns.
    pub chunk: (usize, usize),
    /// Place and length of each chunk.
    pub chunks: Vec<(u64, u64)>,
    /// Pixels that share one chroma sample, across and down.
    pub subsampling: (usize, usize),
    /// What comes before each chunk that is a JPEG.
    pub jpeg_tables: Vec<u8>,
    /// Chunks that are JPEGs hold YCbCr, which the decoder turns to RGB.
    pub jpeg_ycbcr: bool,
    /// Number of its directory in the chain.
    pub page: usize,
    /// Number of pages: pictures of the chain that are no smaller versions of others.
    pub pages: usize,
}

impl Layout {
    /// Chunks across and down.
    pub(super) fn grid(&self) -> (usize, usize) {
        (self.width.div_ceil(self.chunk.0), self.height.div_ceil(self.chunk.1))
    }

    /// Samples per pixel in one chunk.
    pub(super) fn chunk_samples(&self) -> usize {
        if self.planar { 1 } else { self.samples }
    }

    /// Bytes of the shortest run of whole rows in a chunk: a row, or the rows that share chroma.
    pub(super) fn row_bytes(&self) -> usize {
        let (h, v) = self.subsampling;
        if (h, v) == (1, 1) {
            (self.chunk.0 * self.chunk_samples() * usize::from(self.kind.bits)).div_ceil(8)
        } else {
            self.chunk.0.div_ceil(h) * (h * v + 2)
        }
    }

    /// Rows of chunk row `at` that belong to the picture.
    pub(super) fn chunk_rows(&self, at: usize) -> usize {
        self.chunk.1.min(self.height - at * self.chunk.1)
    }

    /// `true` if an output needs 16 bits to lose nothing.
    pub(super) fn is_deep(&self) -> bool {
        match &self.colour {
            Colour::Palette(entries) => {
                let between = |v: &f32| (v * 255.0 - (v * 255.0).round()).abs() > 1e-3;
                entries.iter().flatten().any(between)
            }
            _ => self.kind.bits > 8,
        }
    }

    /// What decoding holds at most beside rows, in bytes, of a file of `length` bytes.
    pub(super) fn scratch_bytes(&self, length: u64) -> u64 {
        let whole = matches!(self.compression, Compression::Jpeg | Compression::WebP);
        let across = self.grid().0 as u64;
        if whole {
            // Samples, and twice as much for the coefficients of a JPEG; and the chunk as it stands in the file, put
            // behind its tables.
            let pixels = (self.chunk.0 as u64).saturating_mul(self.chunk.1 as u64);
            let each = 3 * self.samples as u64 * across;
            let longest = self.chunks.iter().map(|(_, stated)| *stated).max().unwrap_or(0);
            return pixels.saturating_mul(each).saturating_add(2 * longest.min(length));
        }
        // What stands ready of each chunk, which may reach beyond the picture; units or a copy of one row; its numbers.
        let planes = if self.planar { self.samples as u64 } else { 1 };
        let (h, v) = self.subsampling;
        let ready = if (h, v) == (1, 1) { self.row_bytes() } else { 6 * v * (self.chunk.0 + h) };
        let rows = across * planes * ready as u64 + self.row_bytes() as u64;
        rows + 8 * (self.width * (self.samples + 1)) as u64
    }

    /// There must be as many chunks as the size asks for.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let (across, down) = self.grid();
        let planes = if self.planar { self.samples } else { 1 };
        if across * down * planes > self.chunks.len() {
            return Err(Refusal::Damaged("truncated, strips or tiles are missing".to_owned()));
        }
        // Room for a row is made when the file can hold one.
        let most = match self.compression {
            Compression::None => 1,
            Compression::PackBits => 64,
            Compression::Deflate => 1040,
            Compression::Lzw => 3000,
            // Lines of at most 65,535 bits; pictures have headers of their own.
            _ => u64::MAX,
        };
        let longest = self.chunks.iter().map(|(_, length)| *length).max().unwrap_or(0);
        if self.row_bytes() as u64 > longest.saturating_mul(most) {
            return Err(Refusal::Damaged("truncated, not even a row is there".to_owned()));
        }
        // Rows of tiles are put together from whole bytes.
        let bits = self.chunk.0 * self.chunk_samples() * usize::from(self.kind.bits);
        if across > 1 && !bits.is_multiple_of(8) || across * planes > MAX_SIDE_BY_SIDE {
            let kind = format!("TIFF with tiles of {} pixels across", self.chunk.0);
            return Err(Refusal::Unsupported { kind, help: TIFFCP });
        }
        Ok(())
    }
}
