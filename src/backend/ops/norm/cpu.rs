//! Normalizations on the CPU: one pass for sums in f64 (from which the variance loses nothing, however far
//! the mean lies from zero), one pass to apply them.

use std::mem::MaybeUninit;

use candle_core::{D, DType, Device, Result, Tensor};
use rayon::prelude::*;

use crate::backend::cpu::{
    simd::{self, vectorized},
    with_values, written,
};

/// Values per task, and most tasks of a sample in a group norm: their sums are added up by one thread.
const PIECE: usize = 1 << 14;
const PIECES_MAX: usize = 64;
/// Partial sums of a row, and channels whose sums are taken at a time.
const LANES: usize = 32;
/// Rows whose values are added up in registers before the sums in memory are touched.
const MOMENT_ROWS: usize = 8;

vectorized! {
    /// Adds each row's values and squares to the sums of their channels. Partial sums stay in registers
    /// while a few rows go by, which lie one after the other in memory.
    fn add_moments(x: &[f32], sums: &mut [f64], squares: &mut [f64]) {
        let width = sums.len();
        for x in x.chunks(MOMENT_ROWS * width) {
            let mut channels = sums.chunks_exact_mut(LANES).zip(squares.chunks_exact_mut(LANES));
            for (first, (sums, squares)) in (0..width).step_by(LANES).zip(&mut channels) {
                let (mut sum, mut square) = ([0f64; LANES], [0f64; LANES]);
                for row in x.chunks_exact(width) {
                    let row = &row[first..first + LANES];
                    for i in 0..LANES {
                        let x = f64::from(row[i]);
                        sum[i] += x;
                        // Exact but for the sum's rounding, fused or not.
                        square[i] = if FUSED { x.mul_add(x, square[i]) } else { square[i] + x * x };
                    }
                }
                for i in 0..LANES {
                    sums[i] += sum[i];
                    squares[i] += square[i];
                }
            }
            let first = width / LANES * LANES;
            for row in x.chunks_exact(width) {
                for i in first..width {
                    let x = f64::from(row[i]);
                    sums[i] += x;
                    squares[i] += x * x;
                }
            }
        }
    }
}

vectorized! {
    /// `y = (x − mean)·scale + shift`, each per channel.
    fn apply(
        x: &[f32],
        y: &mut [MaybeUninit<f32>],
        mean: &[f32],
        scale: &[f32],
        shift: &[f32],
    ) {
        let width = mean.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let channels = mean.iter().zip(scale).zip(shift);
            for ((y, &x), ((&mean, &scale), &shift)) in y.iter_mut().zip(x).zip(channels) {
                y.write(simd::multiply_add::<FUSED>(x - mean, scale, shift));
            }
        }
    }
}

vectorized! {
    /// [`apply`], then SiLU.
    fn apply_silu(
        x: &[f32],
        y: &mut [MaybeUninit<f32>],
        mean: &[f32],
        scale: &[f32],
        shift: &[f32],
    ) {
        let width = mean.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let channels = mean.iter().zip(scale).zip(shift);
            for ((y, &x), ((&mean, &scale), &shift)) in y.iter_mut().zip(x).zip(channels) {
                let value = simd::multiply_add::<FUSED>(x - mean, scale, shift);
                y.write(simd::swish::<FUSED>(value, 1.0));
            }
        }
    }
}

vectorized! {
    fn layer_norm_rows(
        x: &[f32],
        y: &mut [MaybeUninit<f32>],
        weight: &[f32],
        bias: &[f32],
        eps: f64,
    ) {
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
            for (((y, &x), &weight), &bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                let centred = x - moments.mean - moments.mean_rest;
                y.write(centred * moments.scale * weight + bias);
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

/// The length and the number of the pieces, whole rows, that a sample of so many values is cut into.
fn cut(sample: usize, channels: usize) -> (usize, usize) {
    let rows = PIECE.max(sample / PIECES_MAX).div_ceil(channels.max(1));
    let piece = rows * channels;
    (piece, sample.div_ceil(piece.max(1)))
}

/// The bytes that the sums of one sample's pieces take in [`group_norm`], and what is applied of them.
pub(super) fn group_norm_bytes(sample: usize, channels: usize) -> usize {
    let sums = 2 * size_of::<f64>() * cut(sample, channels).1;
    (sums + 3 * size_of::<f32>()) * channels
}

/// Mean and variance of each group of channels of `[…, C]`, over all positions.
pub(super) fn group_moments(x: &Tensor, groups: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let channels = x.dim(D::Minus1)?;
    let count = (x.elem_count() / groups) as f64;
    with_values([&x.contiguous()?], |[x]| {
        let partial: Vec<(Vec<f64>, Vec<f64>)> = x
            .par_chunks(cut(x.len(), channels).0)
            .map(|piece| {
                let (mut sums, mut squares) = (vec![0f64; channels], vec![0f64; channels]);
                add_moments(piece, &mut sums, &mut squares);
                (sums, squares)
            })
            .collect();
        let width = channels / groups;
        let moments = (0..groups).map(|group| {
            let (mut sum, mut square) = (0.0, 0.0);
            for (sums, squares) in &partial {
                sum += sums[group * width..][..width].iter().sum::<f64>();
                square += squares[group * width..][..width].iter().sum::<f64>();
            }
            let mean = sum / count;
            let variance = square / count - mean * mean;
            // `max` would hide a NaN.
            (mean, if variance < 0.0 { 0.0 } else { variance })
        });
        moments.unzip()
    })
}

/// `[B, …, C]` normalized over all positions of each group of channels; weight and bias `[C]`.
pub(super) fn group_norm(
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
    if sample == 0 {
        return Tensor::zeros(x.shape(), DType::F32, &Device::Cpu);
    }
    let y = with_values([&x.contiguous()?, weight, bias], |[x, weight, bias]| {
        let (piece, pieces) = cut(sample, channels);
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
        let fill = |y: &mut [MaybeUninit<f32>]| {
            y.par_chunks_mut(sample).zip(x.par_chunks(sample)).zip(&applied).for_each(
                |((y, x), [mean, scale, shift])| {
                    y.par_chunks_mut(piece)
                        .zip(x.par_chunks(piece))
                        .for_each(|(y, x)| apply(x, y, mean, scale, shift));
                },
            );
        };
        // SAFETY: the pieces are all of it, in whole rows.
        unsafe { written(x.len(), fill) }
    })?;
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
    let (mut sums, mut squares) = (vec![0f64; channels], vec![0f64; channels]);
    for (sums_of_piece, squares_of_piece) in partial {
        for (sum, &of_piece) in sums.iter_mut().zip(sums_of_piece) {
            *sum += of_piece;
        }
        for (square, &of_piece) in squares.iter_mut().zip(squares_of_piece) {
            *square += of_piece;
        }
    }
    for group in 0..groups {
        let members = group * width..(group + 1) * width;
        let sum = sums[members.clone()].iter().sum();
        let squares = squares[members.clone()].iter().sum();
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
pub(super) fn channel_affine(
    x: &Tensor,
    mean: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    silu: bool,
) -> Result<Tensor> {
    let y = with_values([&x.contiguous()?, mean, scale, shift], |[x, mean, scale, shift]| {
        let (piece, _) = cut(x.len(), mean.len());
        let apply = if silu { apply_silu } else { apply };
        let fill = |y: &mut [MaybeUninit<f32>]| {
            y.par_chunks_mut(piece)
                .zip(x.par_chunks(piece))
                .for_each(|(y, x)| apply(x, y, mean, scale, shift));
        };
        // SAFETY: the pieces are all of it, in whole rows.
        unsafe { written(x.len(), fill) }
    })?;
    Tensor::from_vec(y, x.shape(), &Device::Cpu)
}

/// `[…, C]` normalized over the last dimension; weight and bias `[C]`, or `[B, C]` for each sample of `[B, …, C]`.
pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if x.elem_count() == 0 {
        return Tensor::zeros(x.shape(), DType::F32, &Device::Cpu);
    }
    let channels = weight.dim(D::Minus1)?;
    let y = with_values([&x.contiguous()?, weight, bias], |[x, weight, bias]| {
        let sample = x.len() / (weight.len() / channels);
        let piece = (PIECE / channels).max(1) * channels;
        let fill = |y: &mut [MaybeUninit<f32>]| {
            let affine = weight.par_chunks(channels).zip(bias.par_chunks(channels));
            let samples = y.par_chunks_mut(sample).zip(x.par_chunks(sample)).zip(affine);
            samples.for_each(|((y, x), (weight, bias))| {
                y.par_chunks_mut(piece)
                    .zip(x.par_chunks(piece))
                    .for_each(|(y, x)| layer_norm_rows(x, y, weight, bias, eps));
            });
        };
        // SAFETY: the pieces are all of it, in whole rows.
        unsafe { written(x.len(), fill) }
    })?;
    Tensor::from_vec(y, x.shape(), &Device::Cpu)
}
