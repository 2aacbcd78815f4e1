//! Sums, and channels put side by side, on the CPU.

use std::mem::MaybeUninit;

use candle_core::{D, Device, Result, Tensor};
use rayon::prelude::*;

use crate::backend::cpu::{
    pointwise::{PIECE, zip},
    simd::vectorized,
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
