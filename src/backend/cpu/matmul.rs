//! Matrix products of which neither side is a weight: the one place that calls the `gemm` crate. Each
//! tile is one single-threaded call, because how `gemm` splits its sums follows from the sizes it is
//! given.

use std::slice;

use gemm::Parallelism;
use rayon::prelude::*;

use super::values::{Block, Shared};

/// A tile has at most this many rows: enough to repay packing the weights for each tile.
const TILE_ROWS: usize = 256;
/// A product should give work to this many threads where it can.
const TILES_PER_PRODUCT: usize = 8;
/// Tiles are cut in whole micro-panels of the largest kernel (AVX-512: 48 × 8).
const PANEL_ROWS: usize = 8;
const PANEL_COLUMNS: usize = 48;
const TILE_COLUMNS_MIN: usize = 2 * PANEL_COLUMNS;

/// A matrix in memory, by its strides.
#[derive(Clone, Copy)]
pub(in crate::backend) struct Matrix<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after the other, `stride` apart.
    pub(in crate::backend) fn row_major(
        values: &'a [f32],
        rows: usize,
        columns: usize,
        stride: usize,
    ) -> Self {
        Self { values, rows, columns, row_stride: stride, column_stride: 1 }
    }

    pub(in crate::backend) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn fits(&self) -> bool {
        let last = (self.rows.max(1) - 1) * self.row_stride
            + (self.columns.max(1) - 1) * self.column_stride;
        self.rows == 0 || self.columns == 0 || last < self.values.len()
    }
}

impl Block<'_> {
    /// The same values, to be read.
    pub(in crate::backend) fn as_matrix(&self) -> Matrix<'_> {
        let len = (self.rows - 1) * self.stride + self.columns;
        // The values between its columns and its stride would not be ours.
        assert!(self.columns == self.stride, "a block with gaps");
        // SAFETY: the rows lie within the output without gaps, and only this block gives access to them.
        let values = unsafe { slice::from_raw_parts(self.start, len) };
        Matrix::row_major(values, self.rows, self.columns, self.stride)
    }
}

/// `y = scale·a·b`, or `y += scale·a·b`.
pub(in crate::backend) fn multiply(y: &mut Block, a: Matrix, b: Matrix, scale: f32, add: bool) {
    assert!(y.rows == a.rows && y.columns == b.columns && a.columns == b.rows, "shapes");
    assert!(a.fits() && b.fits(), "a matrix beyond its memory");
    // SAFETY: by the assertions all three lie within their memory; `y` is exclusively ours, and
    // the slices behind `a` and `b` are shared borrows that nobody writes.
    unsafe {
        gemm::gemm(
            y.rows,
            y.columns,
            a.columns,
            y.start,
            1,
            y.stride as isize,
            add,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Tiling of a product of `rows × columns`.
#[derive(Clone, Copy, Debug)]
struct Tiling {
    rows: usize,
    columns: usize,
    tile_rows: usize,
    tile_columns: usize,
}

/// One tile: where it begins and what it covers.
#[derive(Clone, Copy, Debug)]
struct Tile {
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

impl Tiling {
    fn new(rows: usize, columns: usize) -> Self {
        let most_rows = rows.div_ceil(TILES_PER_PRODUCT).clamp(TILE_ROWS / 2, TILE_ROWS);
        let count = rows.div_ceil(most_rows).max(1);
        let tile_rows = rows.div_ceil(count).next_multiple_of(PANEL_ROWS);
        let count = rows.div_ceil(tile_rows).max(1);
        let across = TILES_PER_PRODUCT.div_ceil(count);
        let tile_columns = columns
            .div_ceil(across)
            .next_multiple_of(PANEL_COLUMNS)
            .max(TILE_COLUMNS_MIN)
            .min(columns.max(1));
        Self { rows, columns, tile_rows, tile_columns }
    }

    fn count(&self) -> usize {
        self.rows.div_ceil(self.tile_rows) * self.columns.div_ceil(self.tile_columns)
    }

    fn tile(&self, index: usize) -> Tile {
        let across = self.columns.div_ceil(self.tile_columns);
        let row = index / across * self.tile_rows;
        let column = index % across * self.tile_columns;
        Tile {
            row,
            rows: self.tile_rows.min(self.rows - row),
            column,
            columns: self.tile_columns.min(self.columns - column),
        }
    }
}

/// `y += scale·a·b` for a `[rows, inner]` and b `[inner, columns]`, all in row order.
pub(crate) fn add_product(y: &mut [f32], a: &[f32], b: &[f32], inner: usize, scale: f32) {
    let (rows, columns) = (a.len() / inner.max(1), b.len() / inner.max(1));
    assert!(y.len() == rows * columns, "shapes");
    if y.is_empty() {
        return;
    }
    let tiling = Tiling::new(rows, columns);
    let output = Shared::new(y);
    (0..tiling.count()).into_par_iter().for_each(|index| {
        let tile = tiling.tile(index);
        let a = &a[tile.row * inner..(tile.row + tile.rows) * inner];
        let a = Matrix::row_major(a, tile.rows, inner, inner);
        let b = Matrix::row_major(&b[tile.column..], inner, tile.columns, columns);
        // SAFETY: the tiles of a tiling partition the output.
        let mut y = unsafe {
            output.block(tile.row * columns + tile.column, tile.rows, tile.columns, columns)
        };
        multiply(&mut y, a, b, scale, true);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tiles_of_a_product_cover_every_value_once() {
        for (rows, columns) in [(1, 1), (77, 640), (4096, 128), (63, 1281), (1000, 4), (5, 97)] {
            let tiling = Tiling::new(rows, columns);
            let mut seen = vec![0u8; rows * columns];
            for tile in (0..tiling.count()).map(|index| tiling.tile(index)) {
                assert!(tile.rows > 0 && tile.columns > 0);
                for row in tile.row..tile.row + tile.rows {
                    for column in tile.column..tile.column + tile.columns {
                        seen[row * columns + column] += 1;
                    }
                }
            }
            assert!(seen.iter().all(|&times| times == 1), "{rows} × {columns}");
        }
    }
}
