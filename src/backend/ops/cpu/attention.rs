//! Attention, sample by sample: without a matrix of scores where this processor has kernels for it
//! ([`flash`]), and otherwise by blocks of queries with their scores to all keys. The heads are read
//! and written in place by their strides.

use std::mem::MaybeUninit;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    Shared,
    flash::{self, Sizes},
    matmul::{Matrix, multiply},
    simd::{self, vectorized},
    with_scratch, with_values, written,
};
use crate::backend::ops::Mask;

/// Most queries in a block, and most scores (2 MiB).
const BLOCK: usize = 128;
const SCORES: usize = 1 << 19;
const BLOCK_MIN: usize = 16;
/// Partial results of a row.
const LANES: usize = 16;

vectorized! {
    /// Scores become `exp(score − largest)`; returns their sum.
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
                lane[i] = simd::exp(lane[i] - largest);
                sums[i] += lane[i];
            }
        }
        for (i, score) in lanes.into_remainder().iter_mut().enumerate() {
            *score = simd::exp(*score - largest);
            sums[i] += *score;
        }
        sums.into_iter().sum()
    }
}

/// How many queries make a block: follows from the shape of one sample alone.
fn block_rows(queries: usize, keys: usize) -> usize {
    (SCORES / keys.max(1)).clamp(BLOCK_MIN, BLOCK).min(queries.max(1))
}

/// What attention with as many heads of keys as of queries takes beside its output: numbers of the
/// scratch buffer of a thread, and others.
pub(in super::super) fn attention_memory(
    queries: usize,
    keys: usize,
    heads: usize,
    width: usize,
) -> (usize, usize) {
    let sizes = Sizes { queries, keys, heads, key_heads: heads, width: width / heads.max(1) };
    flash::memory(sizes).unwrap_or((block_rows(queries, keys) * keys, 0))
}

/// `q` `[B, N, heads·d]`, `k` and `v` `[B, M, key_heads·d]` → `[B, N, heads·d]`.
pub(in super::super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Mask,
) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let (_, keys, key_width) = k.dims3()?;
    let sizes =
        Sizes { queries, keys, heads, key_heads: heads * key_width / width, width: width / heads };
    let shape = (batch, queries, width);
    if q.elem_count() == 0 || keys == 0 {
        return Tensor::zeros(shape, DType::F32, &Device::Cpu);
    }
    let tensors = [&q.contiguous()?, &k.contiguous()?, &v.contiguous()?];
    let y = with_values(tensors, |[q, k, v]| {
        // SAFETY: both forms write every number of a sample.
        unsafe {
            written(q.len(), |y| {
                let samples =
                    y.chunks_exact_mut(queries * width).zip(q.chunks_exact(queries * width));
                let keys = k.chunks_exact(keys * key_width).zip(v.chunks_exact(keys * key_width));
                for ((y, q), (k, v)) in samples.zip(keys) {
                    if !flash::attention(sizes, [q, k, v], mask, y) {
                        direct(sizes, [q, k, v], mask, y);
                    }
                }
            })
        }
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}

/// One sample with all scores of a block of queries at once, by the products of any processor; also
/// where there are few queries.
fn direct(sizes: Sizes, [q, k, v]: [&[f32]; 3], mask: Mask, y: &mut [MaybeUninit<f32>]) {
    let Sizes { queries, keys, heads, key_heads, width } = sizes;
    let (stride, key_stride) = (heads * width, key_heads * width);
    let scale = (width as f64).powf(-0.5) as f32;
    let block = block_rows(queries, keys);
    let blocks = queries.div_ceil(block);
    let output = Shared::uninit(y);
    (0..heads * blocks).into_par_iter().for_each(|task| {
        let (head, first) = (task / blocks, task % blocks * block);
        let rows = block.min(queries - first);
        // Keys that no query of the block sees are not looked at.
        let from = mask.seen(first, keys).start;
        let to = mask.seen(first + rows - 1, keys).end;
        let count = to - from;
        let start = first * stride + head * width;
        let key_start = from * key_stride + head / (heads / key_heads) * width;
        let q = Matrix::row_major(&q[start..], rows, width, stride);
        let k = Matrix::row_major(&k[key_start..], count, width, key_stride);
        let v = Matrix::row_major(&v[key_start..], count, width, key_stride);
        with_scratch(rows * count, |scores| {
            let mut sums = [0f32; BLOCK];
            let shared = Shared::new(scores);
            // SAFETY: the only block of the scratch buffer while it lives.
            let mut scores = unsafe { shared.block(0, rows, count, count) };
            multiply(&mut scores, q, k.transposed(), scale, false);
            for (row, sum) in sums[..rows].iter_mut().enumerate() {
                let scores = scores.row(row);
                let seen = mask.seen(first + row, keys);
                let seen = seen.start - from..seen.end - from;
                *sum = exponentials(&mut scores[seen.clone()]);
                scores[..seen.start].fill(0.0);
                scores[seen.end..].fill(0.0);
            }
            // SAFETY: each task has its own head and queries.
            let mut mixed = unsafe { output.block(start, rows, width, stride) };
            multiply(&mut mixed, scores.as_matrix(), v, 1.0, false);
            for (row, sum) in sums[..rows].iter().enumerate() {
                let normalize = sum.recip();
                for value in mixed.row(row) {
                    *value *= normalize;
                }
            }
        });
    });
}
