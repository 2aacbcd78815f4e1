//! Normalizations: one pass for sums in f64 (from which the variance loses nothing, however far
//! the mean lies from zero), one pass to apply them.

use candle_core::{D, Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    simd::{self, vectorized},
    with_values,
};

/// Values per task.
const PIECE: usize = 1 << 14;
/// Partial sums of a row.
const LANES: usize = 8;

vectorized! {
    /// Adds each row's values and squares to the sums of their channels.
    fn add_moments(x: &[f32], sums: &mut [f64], squares: &mut [f64]) {
        for row in x.chunks_exact(sums.len()) {
            for ((sum, square), &x) in sums.iter_mut().zip(squares.iter_mut()).zip(row) {
                let x = f64::from(x);
                *sum += x;
                *square += x * x;
            }
        }
    }
}

vectorized! {
    /// `y = (x − mean)·scale + shift`, each per channel.
    fn apply(x: &[f32], y: &mut [f32], mean: &[f32], scale: &[f32], shift: &[f32]) {
        let width = mean.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            for i in 0..width {
                y[i] = (x[i] - mean[i]) * scale[i] + shift[i];
            }
        }
    }
}

vectorized! {
    /// [`apply`], then SiLU.
    fn apply_silu(x: &[f32], y: &mut [f32], mean: &[f32], scale: &[f32], shift: &[f32]) {
        let width = mean.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            for i in 0..width {
                y[i] = simd::swish((x[i] - mean[i]) * scale[i] + shift[i], 1.0);
            }
        }
    }
}

vectorized! {
    fn layer_norm_rows(x: &[f32], y: &mut [f32], weight: &[f32], bias: &[f32], eps: f64) {
        let width = weight.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let (mut sums, mut squares) = ([0f64; LANES], [0f64; LANES]);
            let lanes = x.chunks_exact(LANES);
            let rest = lanes.remainder();
            for lane in lanes {
                for i in 0..LANES {
                    let x = f64::from(lane[i]);
                    sums[i] += x;
                    squares[i] += x * x;
                }
            }
            for (i, &x) in rest.iter().enumerate() {
                let x = f64::from(x);
                sums[i] += x;
                squares[i] += x * x;
            }
            let moments = Moments::new(sums.iter().sum(), squares.iter().sum(), width, eps);
            for i in 0..width {
                y[i] = (x[i] - moments.mean - moments.mean_rest) * moments.scale * weight[i]
                    + bias[i];
            }
        }
    }
}

/// Mean and inverse deviation of a group. The mean has two parts: its f32, and what the rounding
/// left, which matters where the values lie far from zero.
struct Moments {
    mean: f32,
    mean_rest: f32,
    scale: f32,
}

impl Moments {
    fn new(sum: f64, squares: f64, count: usize, eps: f64) -> Self {
        let mean = sum / count as f64;
        let variance = (squares / count as f64 - mean * mean).max(0.0);
        // `max` would hide a NaN, and non-finite values must come out as such.
        let variance = if sum.is_finite() && squares.is_finite() { variance } else { f64::NAN };
        Self {
            mean: mean as f32,
            mean_rest: (mean - f64::from(mean as f32)) as f32,
            scale: (variance + eps).sqrt().recip() as f32,
        }
    }
}

/// `[B, …, C]` normalized over all positions of each group of channels; weight and bias `[C]`.
pub(in super::super) fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<Tensor> {
    let batch = x.dim(0)?;
    let channels = x.dim(D::Minus1)?;
    let sample = x.elem_count() / batch.max(1);
    let mut y = vec![0f32; x.elem_count()];
    if !y.is_empty() {
        with_values([&x.contiguous()?, weight, bias], |[x, weight, bias]| {
            let piece = (PIECE / channels).max(1) * channels;
            let pieces = sample.div_ceil(piece);
            let range = |task: usize| {
                let start = task / pieces * sample;
                let first = start + task % pieces * piece;
                first..(first + piece).min(start + sample)
            };
            let partial: Vec<(Vec<f64>, Vec<f64>)> = (0..batch * pieces)
                .into_par_iter()
                .map(|task| {
                    let (mut sums, mut squares) = (vec![0f64; channels], vec![0f64; channels]);
                    add_moments(&x[range(task)], &mut sums, &mut squares);
                    (sums, squares)
                })
                .collect();
            let applied: Vec<[Vec<f32>; 3]> = partial
                .chunks_exact(pieces)
                .map(|partial| per_channel(partial, weight, bias, groups, sample, eps))
                .collect();
            let apply = if silu { apply_silu } else { apply };
            // Samples first, then pieces of each, so that a piece never spans two samples.
            y.par_chunks_mut(sample).zip(x.par_chunks(sample)).zip(&applied).for_each(
                |((y, x), [mean, scale, shift])| {
                    y.par_chunks_mut(piece)
                        .zip(x.par_chunks(piece))
                        .for_each(|(y, x)| apply(x, y, mean, scale, shift));
                },
            );
        })?;
    }
    Tensor::from_vec(y, x.shape(), &Device::Cpu)
}

/// Mean, scale and shift of every channel, from the sums of the pieces in their order.
fn per_channel(
    partial: &[(Vec<f64>, Vec<f64>)],
    weight: &[f32],
    bias: &[f32],
    groups: usize,
    sample: usize,
    eps: f64,
) -> [Vec<f32>; 3] {
    let channels = weight.len();
    let width = channels / groups;
    let mut result = [(); 3].map(|()| Vec::with_capacity(channels));
    for group in 0..groups {
        let members = group * width..(group + 1) * width;
        let (mut sum, mut squares) = (0f64, 0f64);
        for (sums, square_sums) in partial {
            sum += sums[members.clone()].iter().sum::<f64>();
            squares += square_sums[members.clone()].iter().sum::<f64>();
        }
        let moments = Moments::new(sum, squares, sample / groups, eps);
        for channel in members {
            let scale = moments.scale * weight[channel];
            result[0].push(moments.mean);
            result[1].push(scale);
            result[2].push(bias[channel] - moments.mean_rest * scale);
        }
    }
    result
}

/// `(x − mean)·scale + shift`, each per channel of `[…, C]`, and SiLU behind it if `silu`.
pub(in super::super) fn channel_affine(
    x: &Tensor,
    mean: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    silu: bool,
) -> Result<Tensor> {
    let mut y = vec![0f32; x.elem_count()];
    with_values([&x.contiguous()?, mean, scale, shift], |[x, mean, scale, shift]| {
        let piece = (PIECE / mean.len()).max(1) * mean.len();
        let apply = if silu { apply_silu } else { apply };
        y.par_chunks_mut(piece)
            .zip(x.par_chunks(piece))
            .for_each(|(y, x)| apply(x, y, mean, scale, shift));
    })?;
    Tensor::from_vec(y, x.shape(), &Device::Cpu)
}

/// `[…, C]` normalized over the last dimension; weight and bias `[C]`.
pub(in super::super) fn layer_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let mut y = vec![0f32; x.elem_count()];
    if !y.is_empty() {
        with_values([&x.contiguous()?, weight, bias], |[x, weight, bias]| {
            let piece = (PIECE / weight.len()).max(1) * weight.len();
            y.par_chunks_mut(piece)
                .zip(x.par_chunks(piece))
                .for_each(|(y, x)| layer_norm_rows(x, y, weight, bias, eps));
        })?;
    }
    Tensor::from_vec(y, x.shape(), &Device::Cpu)
}
