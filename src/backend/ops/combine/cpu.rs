//! Sums, and channels put side by side, on the CPU.

use std::mem::MaybeUninit;

use candle_core::{D, Device, Result, Tensor};
use rayon::prelude::*;

use crate::backend::cpu::{
    pointwise::{PIECE, zip},
    simd::{self, vectorized},
    with_values, written,
};

vectorized! {
    fn add_slice(a: &[f32], b: &[f32], y: &mut [MaybeUninit<f32>]) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            y.write(a + b);
        }
    }
}

pub(super) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    zip(a, b, add_slice)
}

vectorized! {
    /// `y = residual + gate·x` of whole rows.
    fn add_gated_rows(residual: &[f32], x: &[f32], gate: &[f32], y: &mut [MaybeUninit<f32>]) {
        let width = gate.len();
        let rows = residual.chunks_exact(width).zip(x.chunks_exact(width));
        for (y, (residual, x)) in y.chunks_exact_mut(width).zip(rows) {
            let values = residual.iter().zip(x).zip(gate);
            for (y, ((&residual, &x), &gate)) in y.iter_mut().zip(values) {
                y.write(simd::multiply_add::<FUSED>(gate, x, residual));
            }
        }
    }
}

/// `residual + gate·x`, of `[B, N, C]` and `[B, C]`.
pub(super) fn add_gated(residual: &Tensor, x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    let (batch, _, channels) = x.dims3()?;
    if x.elem_count() == 0 {
        return x.zeros_like();
    }
    let tensors = [&residual.contiguous()?, &x.contiguous()?, &gate.contiguous()?];
    let y = with_values(tensors, |[residual, x, gate]| {
        let sample = x.len() / batch;
        let piece = (PIECE / channels).max(1) * channels;
        let fill = |y: &mut [MaybeUninit<f32>]| {
            let samples = residual.par_chunks(sample).zip(x.par_chunks(sample));
            let samples = samples.zip(gate.par_chunks(channels));
            y.par_chunks_mut(sample).zip(samples).for_each(|(y, ((residual, x), gate))| {
                let pieces = residual.par_chunks(piece).zip(x.par_chunks(piece));
                y.par_chunks_mut(piece)
                    .zip(pieces)
                    .for_each(|(y, (residual, x))| add_gated_rows(residual, x, gate, y));
            });
        };
        // SAFETY: the pieces are all of it, in whole rows.
        unsafe { written(x.len(), fill) }
    })?;
    Tensor::from_vec(y, x.shape(), &Device::Cpu)
}

/// `[…, A]` and `[…, B]` → `[…, A + B]`; the other dimensions are the same.
pub(super) fn join(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (left, right) = (a.dim(D::Minus1)?, b.dim(D::Minus1)?);
    let mut shape = a.dims().to_vec();
    let others = shape.len() - 1;
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
