//! Convolutions with a few outputs, such as the last one of a UNet or of a decoder. In a panel most
//! columns would be zeros; here a vector holds neighbouring inputs, and products are summed along them.

use std::{array, mem::MaybeUninit, ops::Range};

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::Window;
use crate::backend::cpu::{
    Epilogue, Narrow, OUTPUTS,
    simd::{self, vectorized},
    with_epilogue, written,
};

/// Partial sums.
const LANES: usize = 16;

type NarrowSums = [[f32; LANES]; OUTPUTS];

vectorized! {
    /// Adds the products of a pixel's inputs with the weights of each output. All slices have one length.
    fn add_products(x: &[f32], weights: [&[f32]; OUTPUTS], sums: &mut NarrowSums) {
        let [mut a, mut b, mut c, mut d] = *sums;
        let whole = weights.map(|weights| weights.as_chunks::<LANES>().0);
        let (vectors, rest) = x.as_chunks::<LANES>();
        let both = whole[0].iter().zip(whole[1]).zip(whole[2].iter().zip(whole[3]));
        for (x, ((u, v), (w, z))) in vectors.iter().zip(both) {
            for i in 0..LANES {
                a[i] = simd::multiply_add::<FUSED>(x[i], u[i], a[i]);
                b[i] = simd::multiply_add::<FUSED>(x[i], v[i], b[i]);
                c[i] = simd::multiply_add::<FUSED>(x[i], w[i], c[i]);
                d[i] = simd::multiply_add::<FUSED>(x[i], z[i], d[i]);
            }
        }
        *sums = [a, b, c, d];
        let skipped = x.len() - rest.len();
        for (weights, sums) in weights.into_iter().zip(sums) {
            for ((sum, &x), &weight) in sums.iter_mut().zip(rest).zip(&weights[skipped..]) {
                *sum = simd::multiply_add::<FUSED>(x, weight, *sum);
            }
        }
    }
}

/// `[B, H, W, in]` → `[B, H', W', out]`; the window is not of a doubled picture. The bias is `[out]` or
/// `[B, out]`, `other` of the output's shape.
pub(super) fn narrow(
    x: &Tensor,
    weight: &Narrow,
    epilogue: Epilogue<Tensor>,
    window: Window,
) -> Result<Tensor> {
    let (batch, _, _, channels) = x.dims4()?;
    let ((height, width), columns) = (window.output(), weight.columns);
    let shape = (batch, height, width, columns);
    let y = with_epilogue(&x.contiguous()?, epilogue, (batch, columns), |values, epilogue| {
        let row = width * columns;
        let picture = values.len() / batch.max(1);
        // SAFETY: the rows are all of it, and of each every pixel is written.
        unsafe {
            written(batch * height * row, |y| {
                y.par_chunks_mut(row.max(1)).enumerate().for_each(|(index, y)| {
                    let (sample, line) = (index / height, index % height);
                    let x = &values[sample * picture..][..picture];
                    let Epilogue { bias, other } = epilogue;
                    let bias = bias.map(|bias| {
                        if bias.len() > columns { &bias[sample * columns..] } else { bias }
                    });
                    let other = other.map(|other| &other[index * row..][..row]);
                    let epilogue = Epilogue { bias, other };
                    compute_row(x, weight, channels, line, window, epilogue, y);
                });
            })
        }
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}

/// One row of output pixels of a picture `[H, W, in]`.
fn compute_row(
    x: &[f32],
    weight: &Narrow,
    channels: usize,
    line: usize,
    window: Window,
    epilogue: Epilogue<[f32]>,
    y: &mut [MaybeUninit<f32>],
) {
    let Window { kernel, stride, padding, picture: (height, width), .. } = window;
    let (run, columns) = (kernel * channels, weight.columns);
    let rows = window.seen(line, height);
    for (pixel, y) in y.chunks_exact_mut(columns).enumerate() {
        let Range { start: left, end: right } = window.seen(pixel, width);
        let seen = left * channels..right * channels;
        let mut sums = NarrowSums::default();
        for row in if seen.is_empty() { 0..0 } else { rows.clone() } {
            let weights = &weight.weights[row * OUTPUTS * run..][..OUTPUTS * run];
            let weights = array::from_fn(|output| &weights[output * run..][seen.clone()]);
            let start = (line * stride + row - padding) * width + pixel * stride + left - padding;
            add_products(&x[start * channels..][..seen.len()], weights, &mut sums);
        }
        for (output, (y, lanes)) in y.iter_mut().zip(&sums).enumerate() {
            let bias = epilogue.bias.map_or(0.0, |bias| bias[output]);
            let other = epilogue.other.map_or(0.0, |other| other[pixel * columns + output]);
            y.write(lanes.iter().sum::<f32>() + bias + other);
        }
    }
}
