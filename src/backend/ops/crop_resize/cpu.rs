//! Bilinear samples of a map on the CPU, row by row.

use std::mem::MaybeUninit;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::AxisSample;
use crate::backend::cpu::{simd::vectorized, with_values, written};

vectorized! {
    /// `y = (a·(1 − x) + b·x)·(1 − y) + (c·(1 − x) + d·x)·y` for fractions x, y.
    fn blend(corners: [&[f32]; 4], fractions: (f32, f32), out: &mut [MaybeUninit<f32>]) {
        let [a, b, c, d] = corners.map(|corner| &corner[..out.len()]);
        let (x, y) = fractions;
        for (i, out) in out.iter_mut().enumerate() {
            let above = a[i] * (1.0 - x) + b[i] * x;
            let below = c[i] * (1.0 - x) + d[i] * x;
            out.write(above * (1.0 - y) + below * y);
        }
    }
}

/// Bilinear samples of a map `[1, H, W, C]` at every row and column → `[1, rows, columns, C]`.
pub(super) fn crop_resize(
    map: &Tensor,
    rows: &[AxisSample],
    columns: &[AxisSample],
) -> Result<Tensor> {
    let (_, _, width, channels) = map.dims4()?;
    let shape = (1, rows.len(), columns.len(), channels);
    if map.elem_count() == 0 || rows.is_empty() || columns.is_empty() {
        return Tensor::zeros(shape, DType::F32, &Device::Cpu);
    }
    let y = with_values([&map.contiguous()?], |[map]| {
        let pixel =
            |row: u32, column: u32| &map[(row as usize * width + column as usize) * channels..];
        let row = |(y, row): (&mut [MaybeUninit<f32>], &AxisSample)| {
            for (out, column) in y.chunks_exact_mut(channels).zip(columns) {
                let corners = [
                    pixel(row.low, column.low),
                    pixel(row.low, column.high),
                    pixel(row.high, column.low),
                    pixel(row.high, column.high),
                ];
                blend(corners, (column.fraction, row.fraction), out);
            }
        };
        let fill = |y: &mut [MaybeUninit<f32>]| {
            y.par_chunks_exact_mut(columns.len() * channels).zip(rows).for_each(row);
        };
        // SAFETY: the rows are all of it, in whole pixels.
        unsafe { written(rows.len() * columns.len() * channels, fill) }
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}
