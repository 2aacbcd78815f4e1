//! Attention without a matrix of scores ([`flash`]), or, where there are few queries, with all of it
//! and nothing laid out before. The heads are read and written in place by their strides.

mod biased;
mod flash;
mod softmax;

use std::mem::MaybeUninit;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{AttentionSizes, Mask};
use crate::backend::{
    MatmulPrecision,
    cpu::{
        Shared,
        matmul::{Matrix, multiply},
        simd::{self, vectorized},
        with_scratch, with_values, written,
    },
};
pub(super) use biased::{biased, memory as biased_memory};

/// Least number of queries for which packing keys and values pays off.
const FLASH_QUERIES: usize = 8;
/// Partial results of a row.
const LANES: usize = 16;

vectorized! {
    /// Turns scores into `exp(score − largest)` and returns their sum.
    fn exponentials(scores: &mut [f32]) -> f32 {
        let mut largest = [f32::NEG_INFINITY; LANES];
        let lanes = scores.chunks_exact(LANES);
        for (i, &score) in lanes.remainder().iter().enumerate() {
            largest[i] = largest[i].max(score);
        }
        for lane in lanes {
            for i in 0..LANES {
                largest[i] = if lane[i] > largest[i] { lane[i] } else { largest[i] };
            }
        }
        let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let mut sums = [0f32; LANES];
        let mut lanes = scores.chunks_exact_mut(LANES);
        for lane in &mut lanes {
            for i in 0..LANES {
                lane[i] = simd::exp::<FUSED>(lane[i] - largest);
                sums[i] += lane[i];
            }
        }
        for (i, score) in lanes.into_remainder().iter_mut().enumerate() {
            *score = simd::exp::<FUSED>(*score - largest);
            sums[i] += *score;
        }
        sums.into_iter().sum()
    }
}

/// Scratch memory of attention, beside its output, in numbers of four bytes: that of a thread, and that
/// of the panels.
pub(super) fn memory(
    sizes: AttentionSizes,
    mask: Mask,
    precision: MatmulPrecision,
) -> (usize, usize) {
    let AttentionSizes { queries, keys, .. } = sizes;
    if queries < FLASH_QUERIES {
        return (queries * keys, 0);
    }
    flash::memory(sizes, mask, precision)
}

/// `q` `[B, N, heads·d]`, `k` and `v` `[B, M, key_heads·d]` → `[B, N, heads·d]`.
pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    sizes: AttentionSizes,
    mask: Mask,
    precision: MatmulPrecision,
) -> Result<Tensor> {
    let AttentionSizes { batch, queries, keys, heads, width, .. } = sizes;
    let shape = (batch, queries, heads * width);
    if q.elem_count() == 0 || keys == 0 {
        return Tensor::zeros(shape, DType::F32, &Device::Cpu);
    }
    let Some(kernel) = flash::kernel(precision) else {
        candle_core::bail!("this processor has no instructions for products in {precision}");
    };
    let tensors = [&q.contiguous()?, &k.contiguous()?, &v.contiguous()?];
    let y = with_values(tensors, |tensors| {
        let len = tensors[0].len();
        // SAFETY: both forms write every number.
        unsafe {
            written(len, |y| {
                if queries < FLASH_QUERIES {
                    direct(sizes, tensors, mask, y);
                } else {
                    flash::attention(kernel, sizes, tensors, mask, y, None);
                }
            })
        }
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}

/// Scratch memory of one part of [`parts`], as [`memory`] has it.
pub(super) fn part_memory(sizes: AttentionSizes, precision: MatmulPrecision) -> (usize, usize) {
    flash::memory(sizes, Mask::None, precision)
}

/// The parts of attention over two sets of keys and values: each set by itself with the logarithm of its sum of
/// exponentials, from which follows the share that it has in both. None of the sets is empty.
pub(super) fn parts(
    q: &Tensor,
    sets: [[&Tensor; 2]; 2],
    sizes: [AttentionSizes; 2],
    precision: MatmulPrecision,
) -> Result<[Tensor; 2]> {
    let AttentionSizes { batch, queries, heads, width, .. } = sizes[0];
    let shape = (batch, queries, heads * width);
    if q.elem_count() == 0 {
        let none = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
        return Ok([none.clone(), none]);
    }
    let Some(kernel) = flash::kernel(precision) else {
        candle_core::bail!("this processor has no instructions for products in {precision}");
    };
    let q = q.contiguous()?;
    let alone = |[k, v]: [&Tensor; 2], sizes: AttentionSizes| {
        with_values([&q, &k.contiguous()?, &v.contiguous()?], |tensors| {
            let (mut logarithms, count) = (Vec::new(), batch * queries * heads);
            // SAFETY: the kernel writes every number of both.
            let y = unsafe {
                written(tensors[0].len(), |y| {
                    logarithms = written(count, |logarithms| {
                        flash::attention(kernel, sizes, tensors, Mask::None, y, Some(logarithms));
                    });
                })
            };
            (y, logarithms)
        })
    };
    let (mut first, of_first) = alone(sets[0], sizes[0])?;
    let (mut second, of_second) = alone(sets[1], sizes[1])?;
    let heads_of_first = first.par_chunks_mut(width).zip(of_first.par_iter());
    let heads_of_second = second.par_chunks_mut(width).zip(of_second.par_iter());
    heads_of_first.zip(heads_of_second).with_min_len(heads).for_each(
        |((first, of_first), (second, of_second))| {
            for (values, difference) in
                [(first, of_second - of_first), (second, of_first - of_second)]
            {
                // Infinite where this set has no weight at all beside the other one.
                let share = (1.0 + difference.exp()).recip();
                for value in values {
                    *value *= share;
                }
            }
        },
    );
    Ok([
        Tensor::from_vec(first, shape, &Device::Cpu)?,
        Tensor::from_vec(second, shape, &Device::Cpu)?,
    ])
}

/// All scores of a head at once, in f32, for a few queries.
fn direct(sizes: AttentionSizes, [q, k, v]: [&[f32]; 3], mask: Mask, y: &mut [MaybeUninit<f32>]) {
    let AttentionSizes { batch, queries, keys, heads, key_heads, width } = sizes;
    let (stride, key_stride) = (heads * width, key_heads * width);
    let scale = (width as f64).powf(-0.5) as f32;
    // Keys that no query sees are not looked at.
    let (from, to) = (mask.seen(0, keys).start, mask.seen(queries - 1, keys).end);
    let count = to - from;
    let output = Shared::uninit(y);
    (0..batch * heads).into_par_iter().for_each(|task| {
        let (sample, head) = (task / heads, task % heads);
        let start = sample * queries * stride + head * width;
        let key_head = head / (heads / key_heads);
        let key_start = (sample * keys + from) * key_stride + key_head * width;
        let q = Matrix::row_major(&q[start..], queries, width, stride);
        let k = Matrix::row_major(&k[key_start..], count, width, key_stride);
        let v = Matrix::row_major(&v[key_start..], count, width, key_stride);
        with_scratch(queries * count, |scores| {
            let mut sums = [0f32; FLASH_QUERIES];
            let shared = Shared::new(scores);
            // SAFETY: the only block of the scratch buffer while it lives.
            let mut scores = unsafe { shared.block(0, queries, count, count) };
            multiply(&mut scores, q, k.transposed(), scale, false);
            for (row, sum) in sums[..queries].iter_mut().enumerate() {
                let scores = scores.row(row);
                let seen = mask.seen(row, keys);
                let seen = seen.start - from..seen.end - from;
                *sum = exponentials(&mut scores[seen.clone()]);
                scores[..seen.start].fill(0.0);
                scores[seen.end..].fill(0.0);
            }
            // SAFETY: each task has its own sample and head.
            let mut mixed = unsafe { output.block(start, queries, width, stride) };
            multiply(&mut mixed, scores.as_matrix(), v, 1.0, false);
            for (row, sum) in sums[..queries].iter().enumerate() {
                let normalize = sum.recip();
                for value in mixed.row(row) {
                    *value *= normalize;
                }
            }
        });
    });
}
