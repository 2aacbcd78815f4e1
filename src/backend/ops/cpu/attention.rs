//! Attention by blocks of queries: scores, softmax and weighted values of one block of one head
//! never leave the cache, and the heads are read and written in place by their strides.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    Shared,
    matmul::{Matrix, multiply},
    simd::{self, vectorized},
    with_scratch, with_values,
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
pub(in super::super) fn attention_block(queries: usize, keys: usize) -> usize {
    (SCORES / keys.max(1)).clamp(BLOCK_MIN, BLOCK).min(queries.max(1))
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
    let head_width = width / heads;
    let group = width / key_width;
    let scale = (head_width as f64).powf(-0.5) as f32;
    let block = attention_block(queries, keys);
    let blocks = queries.div_ceil(block);
    let mut y = vec![0f32; batch * queries * width];
    if y.is_empty() || keys == 0 {
        return Tensor::from_vec(y, (batch, queries, width), &Device::Cpu);
    }
    let tensors = [&q.contiguous()?, &k.contiguous()?, &v.contiguous()?];
    with_values(tensors, |[q, k, v]| {
        let output = Shared::new(&mut y);
        (0..batch * heads * blocks).into_par_iter().for_each(|task| {
            let (sample, head) = (task / blocks / heads, task / blocks % heads);
            let first = task % blocks * block;
            let rows = block.min(queries - first);
            // Keys that no query of the block sees are not looked at.
            let from = mask.seen(first, keys).start;
            let to = mask.seen(first + rows - 1, keys).end;
            let count = to - from;
            let start = sample * queries * width + first * width + head * head_width;
            let key_start = (sample * keys + from) * key_width + head / group * head_width;
            let q = Matrix::row_major(&q[start..], rows, head_width, width);
            let k = Matrix::row_major(&k[key_start..], count, head_width, key_width);
            let v = Matrix::row_major(&v[key_start..], count, head_width, key_width);
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
                // SAFETY: each task has its own sample, head and queries.
                let mut mixed = unsafe { output.block(start, rows, head_width, width) };
                multiply(&mut mixed, scores.as_matrix(), v, 1.0, false);
                for (row, sum) in sums[..rows].iter().enumerate() {
                    let normalize = sum.recip();
                    for value in mixed.row(row) {
                        *value *= normalize;
                    }
                }
            });
        });
    })?;
    Tensor::from_vec(y, (batch, queries, width), &Device::Cpu)
}
