//! Operations on every value or pixel by itself: non-linearities and sums, in parallel over pieces of the
//! tensor, channels put side by side, and samples of a map, row by row.

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
            y.write(simd::swish::<FUSED>(x, 1.0));
        }
    }
}

vectorized! {
    fn quick_gelu_slice(x: &[f32], y: &mut [MaybeUninit<f32>]) {
        for (y, &x) in y.iter_mut().zip(x) {
            y.write(simd::swish::<FUSED>(x, 1.702));
        }
    }
}

vectorized! {
    fn gelu_slice(x: &[f32], y: &mut [MaybeUninit<f32>]) {
        for (y, &x) in y.iter_mut().zip(x) {
            y.write(simd::gelu::<FUSED>(x));
        }
    }
}

vectorized! {
    fn geglu_slice(value: &[f32], gate: &[f32], y: &mut [MaybeUninit<f32>]) {
        for ((y, &value), &gate) in y.iter_mut().zip(value).zip(gate) {
            y.write(value * simd::gelu::<FUSED>(gate));
        }
    }
}

vectorized! {
    fn swiglu_slice(gate: &[f32], value: &[f32], y: &mut [MaybeUninit<f32>]) {
        for ((y, &value), &gate) in y.iter_mut().zip(value).zip(gate) {
            y.write(value * simd::swish::<FUSED>(gate, 1.0));
        }
    }
}

vectorized! {
    fn add_slice(a: &[f32], b: &[f32], y: &mut [MaybeUninit<f32>]) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            y.write(a + b);
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

/// A function of two tensors of one shape, value by value.
fn zip(a: &Tensor, b: &Tensor, f: fn(&[f32], &[f32], &mut [MaybeUninit<f32>])) -> Result<Tensor> {
    if a.shape() != b.shape() {
        candle_core::bail!("{:?} and {:?} are not of one shape", a.shape(), b.shape());
    }
    let y = with_values([&a.contiguous()?, &b.contiguous()?], |[a, b]| {
        // SAFETY: the pieces are all of it, and every `f` writes one value for each two.
        unsafe {
            written(a.len(), |y| {
                let pieces = a.par_chunks(PIECE).zip(b.par_chunks(PIECE));
                y.par_chunks_mut(PIECE).zip(pieces).for_each(|(y, (a, b))| f(a, b, y));
            })
        }
    })?;
    Tensor::from_vec(y, a.shape(), &Device::Cpu)
}

pub(in super::super) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    zip(a, b, add_slice)
}

pub(in super::super) fn swiglu(gate: &Tensor, value: &Tensor) -> Result<Tensor> {
    zip(gate, value, swiglu_slice)
}

/// `[…, A]` and `[…, B]` → `[…, A + B]`.
pub(in super::super) fn join(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (left, right) = (a.dim(D::Minus1)?, b.dim(D::Minus1)?);
    let mut shape = a.dims().to_vec();
    let others = shape.len() - 1;
    if b.rank() != a.rank() || b.dims()[..others] != shape[..others] {
        candle_core::bail!("{:?} and {:?} cannot be joined", a.shape(), b.shape());
    }
    shape[others] = left + right;
    if left == 0 || right == 0 {
        return if left == 0 { b.contiguous() } else { a.contiguous() };
    }
    let rows = (PIECE / (left + right)).max(1);
    let y = with_values([&a.contiguous()?, &b.contiguous()?], |[a, b]| {
        // SAFETY: the rows are all of it, each written by its two halves.
        unsafe {
            written(a.len() + b.len(), |y| {
                let pieces = a.par_chunks(rows * left).zip(b.par_chunks(rows * right));
                y.par_chunks_mut(rows * (left + right)).zip(pieces).for_each(|(y, (a, b))| {
                    let halves = a.chunks_exact(left).zip(b.chunks_exact(right));
                    for (y, (a, b)) in y.chunks_exact_mut(left + right).zip(halves) {
                        let (first, second) = y.split_at_mut(left);
                        first.write_copy_of_slice(a);
                        second.write_copy_of_slice(b);
                    }
                });
            })
        }
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
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
