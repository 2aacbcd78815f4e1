//! Non-linearities on the CPU.

use std::mem::MaybeUninit;

use candle_core::{D, Device, Result, Tensor};
use rayon::prelude::*;

use crate::backend::cpu::{
    pointwise::{PIECE, map, zip},
    simd::{self, vectorized},
    with_values, written,
};

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
    fn gelu_tanh_slice(x: &[f32], y: &mut [MaybeUninit<f32>]) {
        for (y, &x) in y.iter_mut().zip(x) {
            y.write(simd::gelu_tanh::<FUSED>(x));
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
    /// `slopes` is one for all, or one for each of the values by turns.
    fn leaky_relu_slice(x: &[f32], slopes: &[f32], y: &mut [MaybeUninit<f32>]) {
        let leaky = |x: f32, slope: f32| if x > 0.0 { x } else { slope * x };
        if let &[slope] = slopes {
            for (y, &x) in y.iter_mut().zip(x) {
                y.write(leaky(x, slope));
            }
            return;
        }
        for (y, x) in y.chunks_mut(slopes.len()).zip(x.chunks(slopes.len())) {
            for ((y, &x), &slope) in y.iter_mut().zip(x).zip(slopes) {
                y.write(leaky(x, slope));
            }
        }
    }
}

pub(super) fn silu(x: &Tensor) -> Result<Tensor> {
    map(x, silu_slice)
}

pub(super) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    map(x, quick_gelu_slice)
}

pub(super) fn gelu(x: &Tensor) -> Result<Tensor> {
    map(x, gelu_slice)
}

pub(super) fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    map(x, gelu_tanh_slice)
}

pub(super) fn swiglu(gate: &Tensor, value: &Tensor) -> Result<Tensor> {
    zip(gate, value, swiglu_slice)
}

/// `[…, 2C]` → `[…, C]`.
pub(super) fn geglu(x: &Tensor) -> Result<Tensor> {
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

/// `slopes` is one for all, or one for each channel.
pub(super) fn leaky_relu(x: &Tensor, slopes: &[f32]) -> Result<Tensor> {
    let y = with_values([&x.contiguous()?], |[x]| {
        let piece = (PIECE / slopes.len()).max(1) * slopes.len();
        // SAFETY: the pieces are all of it, each of whole pixels.
        unsafe {
            written(x.len(), |y| {
                y.par_chunks_mut(piece)
                    .zip(x.par_chunks(piece))
                    .for_each(|(y, x)| leaky_relu_slice(x, slopes, y));
            })
        }
    })?;
    Tensor::from_vec(y, x.shape(), &Device::Cpu)
}
