//! Products with weights that are kept as stored. A panel of outputs is brought to f32 in a
//! buffer that stays in the cache, multiplied with all rows of the input that its thread has, and
//! forgotten; nothing ever holds the whole matrix in f32.

use candle_core::{CpuStorage, D, Device, Result, Storage, Tensor};
use half::slice::HalfFloatSliceExt as _;
use rayon::prelude::*;

use super::{
    Shared,
    matmul::{Matrix, PANEL_COLUMNS, PANEL_ROWS, TILE_ROWS, Tile, affine_tile},
    with_scratch, with_values,
};
use crate::backend::ops::weight::Packed;

/// A panel in f32 takes about this many values (512 KiB): half of a usual second-level cache, the
/// rest of which the input streams through.
const PANEL: usize = 1 << 17;
/// Rows of the weight that are brought to f32 before they are written into the panel as columns:
/// a cache line of them.
const STRIP: usize = 16;

/// How many outputs make a panel: follows from the weight's shape alone.
fn panel_columns(inner: usize, columns: usize) -> usize {
    let fitting = PANEL / inner.max(1) / PANEL_COLUMNS * PANEL_COLUMNS;
    fitting.max(PANEL_COLUMNS).min(columns)
}

/// How many values a thread needs to bring a panel to f32.
pub(in super::super) fn panel_values(inner: usize, columns: usize) -> usize {
    (panel_columns(inner, columns) + STRIP) * inner
}

/// How many rows of one sample make a tile.
fn tile_rows(rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(TILE_ROWS).max(1)).next_multiple_of(PANEL_ROWS)
}

/// Outputs `first..first + columns` of `weight` as `[in, columns]`.
fn fill_panel(weight: &Packed, first: usize, columns: usize, panel: &mut [f32], strip: &mut [f32]) {
    let inner = weight.input;
    for start in (0..columns).step_by(STRIP) {
        let count = STRIP.min(columns - start);
        for (row, values) in strip.chunks_exact_mut(inner).take(count).enumerate() {
            weight.unpack_row(first + start + row, values);
        }
        if count == STRIP {
            transpose_strip(strip, inner, panel, columns, start);
        } else {
            for (k, line) in panel.chunks_exact_mut(columns).enumerate() {
                for (row, value) in line[start..start + count].iter_mut().enumerate() {
                    *value = strip[row * inner + k];
                }
            }
        }
    }
}

/// Writes `STRIP` rows of `inner` values as columns `start..` of a panel.
fn transpose_strip(strip: &[f32], inner: usize, panel: &mut [f32], columns: usize, start: usize) {
    let mut rows = strip.chunks_exact(inner);
    let rows: [&[f32]; STRIP] = std::array::from_fn(|_| rows.next().unwrap_or_default());
    for (k, line) in panel.chunks_exact_mut(columns).enumerate() {
        let line: &mut [f32] = &mut line[start..start + STRIP];
        for (value, row) in line.iter_mut().zip(rows) {
            *value = row[k];
        }
    }
}

/// `[B, …, in]` times a weight of `out` rows as stored, plus a bias → `[B, …, out]`.
pub(in super::super) fn linear_packed(
    x: &Tensor,
    weight: &Packed,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (inner, columns) = (weight.input, weight.output);
    if x.dim(D::Minus1)? != inner {
        candle_core::bail!("linear: {:?} for a weight of [{columns}, {inner}]", x.shape());
    }
    let batch = if x.rank() > 1 { x.dim(0)? } else { 1 };
    let rows = x.elem_count() / (batch * inner).max(1);
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    let mut y = vec![0f32; batch * rows * columns];
    if !y.is_empty() {
        let x = x.contiguous()?;
        match bias {
            Some(bias) => {
                with_values([&x, bias], |[x, bias]| multiply(x, weight, Some(bias), rows, &mut y))
            }
            None => with_values([&x], |[x]| multiply(x, weight, None, rows, &mut y)),
        }?;
    }
    Tensor::from_vec(y, shape, &Device::Cpu)
}

/// The tasks of one product. Each takes a panel and a run of tiles. How long the runs are depends
/// on the number of threads, so that each panel is filled as few times as keeps all of them busy;
/// what a tile computes does not depend on the run that it is in.
fn multiply(x: &[f32], weight: &Packed, bias: Option<&[f32]>, rows: usize, y: &mut [f32]) {
    let (inner, columns) = (weight.input, weight.output);
    let width = panel_columns(inner, columns);
    let panels = columns.div_ceil(width);
    let height = tile_rows(rows);
    let per_sample = rows.div_ceil(height);
    let tiles = x.len() / (inner * rows) * per_sample;
    let runs = (4 * rayon::current_num_threads()).div_ceil(panels).min(tiles);
    let output = Shared::new(y);
    (0..panels * runs).into_par_iter().for_each(|task| {
        let (column, run) = (task / runs * width, task % runs);
        let width = width.min(columns - column);
        with_scratch((width + STRIP) * inner, |scratch| {
            let (panel, strip) = scratch.split_at_mut(width * inner);
            fill_panel(weight, column, width, panel, strip);
            let bias = bias.map(|bias| &bias[column..column + width]);
            for index in run * tiles / runs..(run + 1) * tiles / runs {
                let row = index % per_sample * height;
                let height = height.min(rows - row);
                let first = index / per_sample * rows + row;
                let a = &x[first * inner..(first + height) * inner];
                let a = Matrix::row_major(a, height, inner, inner);
                // SAFETY: panels and tiles partition the output.
                let y = unsafe { output.block(first * columns + column, height, width, columns) };
                let tile = Tile { row: 0, rows: height, column: 0, columns: width };
                affine_tile(y, a, panel, bias, width, tile);
            }
        });
    });
}

/// Calls `f` with the f32 values of a weight that is kept in f32, f16 or bf16; of the latter two
/// in a buffer that the next call uses again. Unlike a dense layer's, a convolution's tiles need
/// the whole weight each, and there are many tiles.
pub(super) fn with_weight<T>(weight: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = weight.storage_and_layout();
    let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
    else {
        candle_core::bail!("cpu kernel: the weight is not contiguous on the CPU");
    };
    /// What one thread converts at a time.
    const STEP: usize = 1 << 16;
    Ok(match storage {
        CpuStorage::F16(values) => super::with_weight_scratch(end - start, |buffer| {
            buffer
                .par_chunks_mut(STEP)
                .zip(values[start..end].par_chunks(STEP))
                .for_each(|(buffer, values)| values.convert_to_f32_slice(buffer));
            f(buffer)
        }),
        CpuStorage::BF16(values) => super::with_weight_scratch(end - start, |buffer| {
            buffer
                .par_chunks_mut(STEP)
                .zip(values[start..end].par_chunks(STEP))
                .for_each(|(buffer, values)| values.convert_to_f32_slice(buffer));
            f(buffer)
        }),
        storage => f(&storage.as_slice::<f32>()?[start..end]),
    })
}
