//! Products of activations with a weight in panels. A tile of rows is brought block by block into
//! memory of its thread, rounded if need be, and multiplied there with one panel after the other;
//! bias and summand are added where the first block's sums are written.

use std::{mem::MaybeUninit, ptr::null};

use half::bf16;
use rayon::prelude::*;

use super::{
    element::{Element, Line, with_lines},
    epilogue::Epilogue,
    kernel::{DEPTH, LINE, PANEL, Place, ROW},
    panels::{Blocks, Right},
    values::{Shared, written},
};
use crate::backend::MatmulPrecision;

/// Rows of a tile: their block stays in a second-level cache (183 KB).
const TILE_ROWS: usize = 14 * ROWS_TOGETHER;
/// Rows of one call of the largest kernel.
const ROWS_TOGETHER: usize = 12;
/// Rows of a tile where the blocks of panels have to be made: more, to make each less often.
const TILE_ROWS_MADE: usize = 2 * TILE_ROWS;
/// Panels of a tile: they stay in a third-level cache from one tile of rows to the next.
const TILE_PANELS: usize = 20;
/// Tiles for each thread, so that all end at about the same time.
const TILES_PER_THREAD: usize = 4;

/// The left side of a product: rows that are put together when they are needed.
pub(in crate::backend) trait Rows: Sync {
    /// Writes numbers `from..from + count` of `rows` rows from `first` on, rounded, into `out`,
    /// [`ROW`] words from one to the next.
    fn copy<E: Element>(&self, first: usize, rows: usize, from: usize, count: usize, out: &mut [E]);
}

/// Rows one after the other in memory.
pub(in crate::backend) struct Plain<'a> {
    pub values: &'a [f32],
    pub inner: usize,
}

impl Rows for Plain<'_> {
    fn copy<E: Element>(
        &self,
        first: usize,
        rows: usize,
        from: usize,
        count: usize,
        out: &mut [E],
    ) {
        let values = self.values[first * self.inner..].chunks_exact(self.inner);
        for (out, row) in out.chunks_mut(ROW * E::PER_WORD).zip(values).take(rows) {
            E::round(&row[from..from + count], &mut out[..count]);
        }
    }
}

/// The values of the buffer that each thread needs for a product of so many rows, of `samples` with
/// biases of their own, with a weight of so many columns.
pub(in crate::backend) fn scratch_values(
    rows: usize,
    samples: usize,
    columns: usize,
    blocks: Blocks,
) -> usize {
    let rows = rows / samples.max(1);
    let tiling = Tiling::new(rows, samples, columns, blocks);
    tiling.tile_rows.min(rows) * ROW + blocks.scratch_lines() * Line::WORDS
}

/// `rows·weight + epilogue` → `[count, columns]`. Rows belong to `samples` of equal size, one after
/// the other, each of which may have a bias of its own.
pub(in crate::backend) fn product(
    rows: &impl Rows,
    count: usize,
    samples: usize,
    right: Right,
    epilogue: Epilogue<[f32]>,
) -> Vec<f32> {
    let (_, columns) = right.dims();
    let len = count * columns;
    if let Some(other) = epilogue.other {
        assert_eq!(other.len(), len, "the summand's size");
    }
    let own_bias = epilogue.bias.is_some_and(|bias| bias.len() > columns);
    if let Some(bias) = epilogue.bias {
        assert_eq!(
            bias.len(),
            if own_bias { samples * columns } else { columns },
            "the bias's size"
        );
    }
    if len == 0 {
        return Vec::new();
    }
    let samples = if own_bias { samples } else { 1 };
    let tiling = Tiling::new(count / samples, samples, columns, right.blocks());
    let fill = |y: &mut [MaybeUninit<f32>]| {
        let output = Shared::uninit(y);
        (0..tiling.count()).into_par_iter().for_each(|index| {
            let tile = tiling.tile(index);
            match right.kernel().precision {
                MatmulPrecision::F32 => multiply::<f32>(rows, &right, epilogue, tile, &output),
                MatmulPrecision::Bf16 => multiply::<bf16>(rows, &right, epilogue, tile, &output),
            }
        });
    };
    // SAFETY: the tiles cover all of it, and write what their first block makes.
    unsafe { written(len, fill) }
}

/// Tiling of a product. No value depends on it: each sum is taken by itself, in order.
#[derive(Clone, Copy, Debug)]
struct Tiling {
    /// of one sample
    rows: usize,
    samples: usize,
    panels: usize,
    tile_rows: usize,
    tile_panels: usize,
}

#[derive(Clone, Copy, Debug)]
struct Tile {
    row: usize,
    rows: usize,
    panel: usize,
    panels: usize,
    /// where the bias of its sample begins, in samples
    bias: usize,
}

impl Tiling {
    fn new(rows: usize, samples: usize, columns: usize, blocks: Blocks) -> Self {
        let panels = columns.div_ceil(PANEL);
        let most = if blocks.are_made() { TILE_ROWS_MADE } else { TILE_ROWS };
        let even = |rows: usize, most: usize| rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
        let wanted = TILES_PER_THREAD * rayon::current_num_threads();
        let mut tiling = Self {
            rows,
            samples,
            panels,
            // Whole calls of the largest kernel but for the last.
            tile_rows: even(rows, most).next_multiple_of(ROWS_TOGETHER),
            tile_panels: even(panels, TILE_PANELS),
        };
        while tiling.count() < wanted && tiling.tile_panels > 4 {
            tiling.tile_panels = tiling.tile_panels.div_ceil(2);
        }
        while tiling.count() < wanted && tiling.tile_rows > TILE_ROWS / 4 {
            tiling.tile_rows = (tiling.tile_rows / 2).next_multiple_of(ROWS_TOGETHER);
        }
        while tiling.count() < wanted && tiling.tile_panels > 1 {
            tiling.tile_panels = tiling.tile_panels.div_ceil(2);
        }
        tiling
    }

    fn down(&self) -> usize {
        self.rows.div_ceil(self.tile_rows)
    }

    fn count(&self) -> usize {
        self.samples * self.down() * self.panels.div_ceil(self.tile_panels)
    }

    /// Tiles of the same panels come one after the other.
    fn tile(&self, index: usize) -> Tile {
        let down = self.samples * self.down();
        let (panel, index) = (index / down * self.tile_panels, index % down);
        let (sample, row) = (index / self.down(), index % self.down() * self.tile_rows);
        Tile {
            row: sample * self.rows + row,
            rows: self.tile_rows.min(self.rows - row),
            panel,
            panels: self.tile_panels.min(self.panels - panel),
            bias: sample,
        }
    }
}

/// One tile.
fn multiply<E: Element>(
    rows: &impl Rows,
    right: &Right,
    epilogue: Epilogue<[f32]>,
    tile: Tile,
    output: &Shared,
) {
    let (inner, columns) = right.dims();
    let kernel = right.kernel();
    let all_words = kernel.words(inner);
    // Calls of about one size: the last of them would leave the multipliers idle with few rows.
    let together = tile.rows.div_ceil(tile.rows.div_ceil(kernel.rows));
    let left_lines = tile.rows * ROW / Line::WORDS;
    with_lines(left_lines + right.blocks().scratch_lines(), |lines| {
        let (left, scratch) = lines.split_at_mut(left_lines);
        for first in (0..all_words).step_by(DEPTH) {
            let words = DEPTH.min(all_words - first);
            let from = first * E::PER_WORD;
            let count = (words * E::PER_WORD).min(inner - from);
            let left = E::of_lines_mut(left);
            rows.copy(tile.row, tile.rows, from, count, left);
            if count < words * E::PER_WORD {
                for row in left.chunks_exact_mut(ROW * E::PER_WORD) {
                    row[count..words * E::PER_WORD].fill(E::default());
                }
            }
            for panel in tile.panel..tile.panel + tile.panels {
                let block = right.block(panel, first, words, scratch);
                let column = panel * PANEL;
                let width = PANEL.min(columns - column);
                let mut next = if panel + 1 < tile.panel + tile.panels {
                    right.place(panel + 1, first)
                } else {
                    right.place(tile.panel, first + words)
                };
                for row in (0..tile.rows).step_by(together) {
                    let count = together.min(tile.rows - row);
                    let left = left[row * ROW * E::PER_WORD..].as_ptr().cast();
                    let offset = (tile.row + row) * columns + column;
                    let y = output.place(offset, count, width, columns);
                    let (bias, other) = if first == 0 {
                        let at = tile.bias * columns + column;
                        let bias =
                            epilogue.bias.map_or(null(), |bias| bias[at..][..width].as_ptr());
                        (bias, epilogue.other.map_or(null(), |other| other[offset..].as_ptr()))
                    } else {
                        (null(), y.cast_const())
                    };
                    let place = Place { y, width, stride: columns, bias, other, next };
                    // SAFETY: there are so many rows and words, and the block has as many words; the
                    // bias is as wide as the place, and the summand as large as the output, in which
                    // tiles share no value; the processor has the kernel's instructions, for which
                    // it was chosen.
                    unsafe { kernel.run(count, words, left, block.as_ptr().cast(), &place) };
                    // Each call prefetches a cache line for each word, and a block has two of them.
                    let has_more = row == 0 && !next.is_null();
                    next = if has_more { next.wrapping_add(words * LINE) } else { null() };
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::backend::cpu::{kernel::Kernel, panels::Panels};

    fn values(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn rounded(precision: MatmulPrecision, values: &[f32]) -> Vec<f64> {
        let round = |&x: &f32| match precision {
            MatmulPrecision::F32 => f64::from(x),
            MatmulPrecision::Bf16 => bf16::from_f32(x).to_f64(),
        };
        values.iter().map(round).collect()
    }

    /// Rows, inputs, outputs: tails of rows, of panels, of words and of blocks, alone and together.
    const SHAPES: [(usize, usize, usize); 10] = [
        (1, 1, 1),
        (12, 256, 32),
        (13, 257, 33),
        (11, 511, 31),
        (37, 513, 70),
        (5, 27, 3),
        (100, 36, 64),
        (2, 1030, 96),
        (171, 90, 40),
        (350, 300, 65),
    ];

    #[test]
    fn every_kernel_of_this_processor_gives_the_exact_products_of_what_it_rounds_to() {
        let names: Vec<_> = Kernel::all().map(|kernel| kernel.name).collect();
        println!("kernels of this processor: {names:?}");
        assert!(names.contains(&"portable"));
        for kernel in Kernel::all() {
            for (rows, inner, columns) in SHAPES {
                let (x, weight) = (values(1, rows * inner), values(2, columns * inner));
                let (bias, other) = (values(3, columns), values(4, rows * columns));
                let tensor = Tensor::from_slice(&weight, (columns, inner), &Device::Cpu).unwrap();
                let panels = Panels::for_kernel(&tensor, kernel).unwrap();
                let [left, right] = [&x, &weight].map(|x| rounded(kernel.precision, x));
                for epilogue in [
                    Epilogue::default(),
                    Epilogue { bias: Some(&bias[..]), other: None },
                    Epilogue { bias: None, other: Some(&other[..]) },
                    Epilogue { bias: Some(&bias[..]), other: Some(&other[..]) },
                ] {
                    let plain = Plain { values: &x, inner };
                    let y = product(&plain, rows, 1, Right::Panels(&panels), epilogue);
                    assert_eq!(y.len(), rows * columns);
                    for (index, &y) in y.iter().enumerate() {
                        let (row, column) = (index / columns, index % columns);
                        let left = &left[row * inner..][..inner];
                        let right = &right[column * inner..][..inner];
                        let products = left.iter().zip(right).map(|(a, b)| a * b);
                        let exact = products.sum::<f64>()
                            + epilogue.bias.map_or(0.0, |bias| f64::from(bias[column]))
                            + epilogue.other.map_or(0.0, |other| f64::from(other[index]));
                        // Sums of numbers below 1 in f32.
                        let bound = 1e-6 * (inner as f64).sqrt().max(2.0);
                        let error = (f64::from(y) - exact).abs();
                        assert!(
                            error <= bound,
                            "{} {rows}×{inner}×{columns}: {error:e}",
                            kernel.name
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn samples_have_their_own_biases() {
        let (x, weight) = (values(1, 6 * 7), values(2, 35 * 7));
        let bias = values(3, 3 * 35);
        let weight = Tensor::from_slice(&weight, (35, 7), &Device::Cpu).unwrap();
        let panels = Panels::new(&weight, MatmulPrecision::F32).unwrap();
        let of = |bias| {
            let epilogue = Epilogue { bias, other: None };
            product(&Plain { values: &x, inner: 7 }, 6, 3, Right::Panels(&panels), epilogue)
        };
        for (index, (with, without)) in of(Some(&bias[..])).iter().zip(of(None)).enumerate() {
            let (row, column) = (index / 35, index % 35);
            assert!((with - without - bias[row / 2 * 35 + column]).abs() < 1e-6);
        }
    }

    #[test]
    fn the_tiles_of_a_product_cover_every_value_once() {
        for (rows, samples, columns) in
            [(1, 1, 1), (77, 1, 640), (4096, 1, 128), (63, 3, 1281), (1000, 2, 4), (5, 1, 97)]
        {
            for blocks in [Blocks::Kept, Blocks::OfRows] {
                let tiling = Tiling::new(rows, samples, columns, blocks);
                let panels = columns.div_ceil(PANEL);
                let mut seen = vec![0u8; samples * rows * panels];
                for tile in (0..tiling.count()).map(|index| tiling.tile(index)) {
                    assert!(tile.rows > 0 && tile.panels > 0 && tile.bias == tile.row / rows);
                    for row in tile.row..tile.row + tile.rows {
                        for panel in tile.panel..tile.panel + tile.panels {
                            seen[row * panels + panel] += 1;
                        }
                    }
                }
                assert!(seen.iter().all(|&times| times == 1), "{samples} × {rows} × {columns}");
            }
        }
    }
}
