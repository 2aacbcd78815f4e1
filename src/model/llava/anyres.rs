//! Pictures of any size in LLaVA-1.6: a small view of the whole and tiles of an enlarged one, whose
//! features are put together by rows, without those of the padding, each row ended by a learned
//! vector (transformers `models/llava_next/modeling_llava_next.py`: `pack_image_features`,
//! `unpad_image`; `image_processing_utils.py`: `select_best_resolution`, `get_patch_output_size`).

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::backend::Activation;

/// Height and width.
pub(super) type Size = (usize, usize);

/// The size, of those that may be tiled, that keeps most of the picture's pixels and of these wastes
/// least. `None` only if there is none to choose from.
pub(super) fn best_resolution((height, width): Size, possible: &[Size]) -> Option<Size> {
    let mut best: Option<(usize, usize, Size)> = None;
    for &(tall, wide) in possible {
        let scale = (wide as f64 / width as f64).min(tall as f64 / height as f64);
        let covered = (width as f64 * scale) as usize * (height as f64 * scale) as usize;
        let effective = covered.min(width * height);
        let wasted = tall * wide - effective;
        let is_better = best.is_none_or(|(most, least, _)| {
            effective > most || (effective == most && wasted < least)
        });
        if is_better {
            best = Some((effective, wasted, (tall, wide)));
        }
    }
    best.map(|(.., size)| size)
}

/// The size that a picture is resized to before it is padded to `target`.
pub(super) fn fitted((height, width): Size, (tall, wide): Size) -> Size {
    let (scale_w, scale_h) = (wide as f64 / width as f64, tall as f64 / height as f64);
    if scale_w < scale_h {
        (((height as f64 * scale_w).ceil() as usize).min(tall), wide)
    } else {
        (tall, ((width as f64 * scale_h).ceil() as usize).min(wide))
    }
}

/// Rows and columns of a grid of features, `tall` × `wide`, that are no padding of a picture of this
/// size.
fn unpadded((height, width): Size, (tall, wide): Size) -> (Range<usize>, Range<usize>) {
    let (height, width) = (height as f64, width as f64);
    // Rounded first, so that 23.9999999 is 24.
    let whole = |x: f64| ((x * 1e7).round_ties_even() / 1e7) as usize;
    if width / height > wide as f64 / tall as f64 {
        let padding = (tall - whole(height * (wide as f64 / width)).min(tall)) / 2;
        (padding..tall - padding, 0..wide)
    } else {
        let padding = (wide - whole(width * (tall as f64 / height)).min(wide)) / 2;
        (0..tall, padding..wide - padding)
    }
}

/// Packing of the features of a picture's tiles into one sequence.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Packing {
    /// tiles in a column and in a row
    grid: Size,
    /// patches in a row of a tile
    side: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Packing {
    /// For a picture of `size` that is tiled at `resolution` by tiles of `tile` pixels and
    /// `side` × `side` patches.
    pub(super) fn new(size: Size, resolution: Size, tile: usize, side: usize) -> Self {
        let grid = (resolution.0 / tile, resolution.1 / tile);
        let (rows, columns) = unpadded(size, (grid.0 * side, grid.1 * side));
        Self { grid, side, rows, columns }
    }

    /// Features of the whole sequence.
    pub(super) fn len(&self) -> usize {
        self.side * self.side + self.rows.len() * (self.columns.len() + 1)
    }

    /// The small view, then the tiles row by row, `[T, side², D]`, and the vector that ends a row,
    /// `[D]` → `[len, D]`.
    pub(super) fn pack(&self, tiles: &Activation, newline: &Tensor) -> Result<Activation> {
        let width = tiles.dim(2)?;
        let (side, (down, across)) = (self.side, self.grid);
        let whole = tiles.get(0)?;
        let rows = tiles
            .narrow(0, 1, down * across)?
            .contiguous()?
            .reshape((down, across, side, side * width))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((down * side, across * side, width))?
            .narrow(0, self.rows.start, self.rows.len())?
            .narrow(1, self.columns.start, self.columns.len())?;
        let ends = (self.rows.len(), 1, width);
        let newlines = Activation::make(tiles.trace(), ends, newline.dtype(), || {
            newline.reshape((1, 1, width))?.repeat((self.rows.len(), 1, 1))
        })?;
        let rows = Activation::cat(&[&rows.contiguous()?, &newlines], 1)?;
        let count = rows.dim(0)? * rows.dim(1)?;
        Activation::cat(&[&whole, &rows.reshape((count, width))?], 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PINPOINTS: [Size; 5] = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)];

    #[test]
    fn the_best_resolution_keeps_pixels_first_and_wastes_least_next() {
        for (size, best) in [
            ((336, 336), (336, 672)),
            ((1024, 1024), (672, 672)),
            ((400, 1200), (336, 1008)),
            ((1200, 400), (1008, 336)),
            ((10, 10_000), (336, 1008)),
            ((1, 10_000), (336, 672)),
        ] {
            assert_eq!(best_resolution(size, &PINPOINTS), Some(best), "{size:?}");
        }
    }

    #[test]
    fn a_picture_is_as_many_features_as_published_for_its_size() {
        // 24 × 24 of the whole; 48 × 48 and 48 ends of rows.
        assert_eq!(Packing::new((1024, 1024), (672, 672), 336, 24).len(), 576 + 48 * 49);
        // A square in a tile of two: 24 columns remain of 48.
        assert_eq!(Packing::new((336, 336), (336, 672), 336, 24).len(), 576 + 24 * 25);
        // 100 · 1.12 is a little more than 112 in f64, and so it is in the original.
        assert_eq!(fitted((300, 100), (336, 672)), (336, 113));
    }
}
