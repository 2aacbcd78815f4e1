//! Pointwise non-linearities, in parallel over pieces of the tensor.

use candle_core::{D, Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    simd::{self, vectorized},
    with_values,
};

/// Values per task.
const PIECE: usize = 1 << 14;

vectorized! {
    fn silu_slice(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = simd::swish(x, 1.0);
        }
    }
}

vectorized! {
    fn quick_gelu_slice(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = simd::swish(x, 1.702);
        }
    }
}

vectorized! {
    fn gelu_slice(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = simd::gelu(x);
        }
    }
}

vectorized! {
    fn geglu_slice(value: &[f32], gate: &[f32], y: &mut [f32]) {
        for ((y, &value), &gate) in y.iter_mut().zip(value).zip(gate) {
            *y = value * simd::gelu(gate);
        }
    }
}

fn map(x: &Tensor, f: fn(&[f32], &mut [f32])) -> Result<Tensor> {
    let y = with_values([&x.contiguous()?], |[x]| {
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| f(x, y));
        y
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
        let mut y = vec![0f32; x.len() / 2];
        let rows = (PIECE / width.max(1)).max(1);
        y.par_chunks_mut((rows * width).max(1))
            .zip(x.par_chunks((rows * 2 * width).max(1)))
            .for_each(|(y, x)| {
                for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(2 * width)) {
                    let (value, gate) = x.split_at(width);
                    geglu_slice(value, gate, y);
                }
            });
        y
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}
