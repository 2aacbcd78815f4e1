//! Functions of every value by itself, or of two, in parallel over pieces of the tensor.

use std::mem::MaybeUninit;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::values::{with_values, written};

/// Values per task.
pub(in crate::backend) const PIECE: usize = 1 << 14;

/// `f` of every value, for an `f` that writes one value for each that it reads.
pub(in crate::backend) fn map(
    x: &Tensor,
    f: fn(&[f32], &mut [MaybeUninit<f32>]),
) -> Result<Tensor> {
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

/// A function of two tensors of one shape, value by value.
pub(in crate::backend) fn zip(
    a: &Tensor,
    b: &Tensor,
    f: fn(&[f32], &[f32], &mut [MaybeUninit<f32>]),
) -> Result<Tensor> {
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
