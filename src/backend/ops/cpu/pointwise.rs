//! Operations on every value or pixel by itself: non-linearities, in parallel over pieces of the
//! tensor, and samples of a map, row by row.

use std::mem::MaybeUninit;

use candle_core::{D, DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    simd::{self, vectorized},
    with_values, written,
};
use crate::backend::ops::crop_resize::Sample;

/// Values per task.
const PIECE: usize = 1 << 14;

vectorized! {
    fn silu_slice(x: &[f32], y: &mut [MaybeUninit<f32>]) {
        for (y, &x) in y.iter_mut().zip(x) {
            y.write(simd::swish(x, 1.0));
        }
    }
}

vectorized! {
    fn quick_gelu_slice(x: &[f32], y: &mut [MaybeUninit<f32>]) {
        for (y, &x) in y.iter_mut().zip(x) {
            y.write(simd::swish(x, 1.702));
        }
    }
}

vectorized! {
    fn gelu_slice(x: &[f32], y: &mut [MaybeUninit<f32>]) {
        for (y, &x) in y.iter_mut().zip(x) {
            y.write(simd::gelu(x));
        }
    }
}

vectorized! {
    fn geglu_slice(value: &[f32], gate: &[f32], y: &mut [MaybeUninit<f32>]) {
        for ((y, &value), &gate) in y.iter_mut().zip(value).zip(gate) {
            y.write(value * simd::gelu(gate));
        }
    }
}

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

fn map(x: &Tensor, f: fn(&[f32], &mut [MaybeUninit<f32>])) -> Result<Tensor> {
    let y = with_values([&x.contiguous()?], |[x]| {
        // SAFETY: the pieces are all of it, and every `f` writes one value for each of `x`.
        unsafe {
            written(x.len(), |y| {
                y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| f(x, y));
            })
        }
    })?;
    Tensor::from_vec(y, x.shape(), &Device::Cpu)
}

pub(in super::super) fn silu(x: &Tensor) -> Result<Tensor> {
    map(x, silu_slice)
}

pub(in super::super) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    map(x, quick_gelu_slice)
}

pub(in super::super) fn gelu(x: &Tensor) -> Result<Tensor> {
    map(x, gelu_slice)
}

/// `[…, 2C]` → `[…, C]`.
pub(in super::super) fn geglu(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)? / 2;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    let y = with_values([&x.contiguous()?], |[x]| {
        let rows = (PIECE / width.max(1)).max(1);
        // SAFETY: the rows are all of it.
        unsafe {
            written(x.len() / 2, |y| {
                y.par_chunks_mut((rows * width).max(1))
                    .zip(x.par_chunks((rows * 2 * width).max(1)))
                    .for_each(|(y, x)| {
                        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(2 * width)) {
                            let (value, gate) = x.split_at(width);
                            geglu_slice(value, gate, y);
                        }
                    });
            })
        }
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}

/// Bilinear samples of a map `[1, H, W, C]` at every row and column → `[1, rows, columns, C]`.
pub(in super::super) fn crop_resize(
    map: &Tensor,
    rows: &[Sample],
    columns: &[Sample],
) -> Result<Tensor> {
    let (_, _, width, channels) = map.dims4()?;
    let shape = (1, rows.len(), columns.len(), channels);
    if map.elem_count() == 0 || rows.is_empty() || columns.is_empty() {
        return Tensor::zeros(shape, DType::F32, &Device::Cpu);
    }
    let y = with_values([&map.contiguous()?], |[map]| {
        let pixel = |row: usize, column: usize| &map[(row * width + column) * channels..];
        let row = |(y, row): (&mut [MaybeUninit<f32>], &Sample)| {
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
