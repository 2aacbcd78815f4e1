//! Doubling of a picture on the CPU.

use std::mem::MaybeUninit;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use crate::backend::cpu::{with_values, written};

/// `[B, H, W, C]` → `[B, 2H, 2W, C]`.
pub(super) fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let shape = (batch, 2 * height, 2 * width, channels);
    if x.elem_count() == 0 {
        return Tensor::zeros(shape, DType::F32, &Device::Cpu);
    }
    let row = width * channels;
    let y = with_values([&x.contiguous()?], |[x]| {
        let double = |(y, x): (&mut [MaybeUninit<f32>], &[f32])| {
            for line in y.chunks_exact_mut(2 * row) {
                for (twice, pixel) in
                    line.chunks_exact_mut(2 * channels).zip(x.chunks_exact(channels))
                {
                    twice[..channels].write_copy_of_slice(pixel);
                    twice[channels..].write_copy_of_slice(pixel);
                }
            }
        };
        let fill = |y: &mut [MaybeUninit<f32>]| {
            y.par_chunks_exact_mut(4 * row).zip(x.par_chunks_exact(row)).for_each(double);
        };
        // SAFETY: every row of `x` makes two of `y`, of two pixels for each.
        unsafe { written(4 * x.len(), fill) }
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}
