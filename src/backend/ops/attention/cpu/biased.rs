//! Attention with a bias: the bias is where the scores of a block of queries are added up.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{super::AttentionSizes, exponentials};
use crate::backend::cpu::{
    Shared,
    matmul::{Matrix, multiply},
    with_scratch, with_values, written,
};

/// Queries of a block, whose scores a thread holds.
const QUERIES: usize = 64;

/// Scratch memory of a thread, in numbers of four bytes.
pub(in super::super) fn memory(sizes: AttentionSizes) -> usize {
    QUERIES.min(sizes.queries) * sizes.keys
}

/// `q` `[B, N, heads·d]`, `k` and `v` `[B, M, heads·d]`, `bias` `[heads, N, M]` → `[B, N, heads·d]`.
pub(in super::super) fn biased(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: &Tensor,
    sizes: AttentionSizes,
) -> Result<Tensor> {
    let AttentionSizes { batch, queries, keys, heads, width, .. } = sizes;
    let (stride, shape) = (heads * width, (batch, queries, heads * width));
    if q.elem_count() == 0 || keys == 0 {
        return Tensor::zeros(shape, DType::F32, &Device::Cpu);
    }
    let blocks = queries.div_ceil(QUERIES);
    let tensors = [&q.contiguous()?, &k.contiguous()?, &v.contiguous()?, &bias.contiguous()?];
    let y = with_values(tensors, |[q, k, v, bias]| {
        // SAFETY: the blocks are all of it.
        unsafe {
            written(q.len(), |y| {
                let output = Shared::uninit(y);
                (0..batch * heads * blocks).into_par_iter().for_each(|task| {
                    let (index, first) = (task / blocks, task % blocks * QUERIES);
                    let (sample, head) = (index / heads, index % heads);
                    let count = QUERIES.min(queries - first);
                    let start = (sample * queries + first) * stride + head * width;
                    let key_start = sample * keys * stride + head * width;
                    let q = Matrix::row_major(&q[start..], count, width, stride);
                    let k = Matrix::row_major(&k[key_start..], keys, width, stride);
                    let v = Matrix::row_major(&v[key_start..], keys, width, stride);
                    let bias = &bias[(head * queries + first) * keys..][..count * keys];
                    with_scratch(count * keys, |scores| {
                        scores.copy_from_slice(bias);
                        let shared = Shared::new(scores);
                        // The only block of the scratch buffer while it lives.
                        let mut scores = shared.block(0, count, keys, keys);
                        multiply(&mut scores, q, k.transposed(), 1.0, true);
                        let mut sums = [0f32; QUERIES];
                        for (row, sum) in sums[..count].iter_mut().enumerate() {
                            *sum = exponentials(scores.row(row));
                        }
                        // Each task has its own sample, head and queries.
                        let mut mixed = output.block(start, count, width, stride);
                        multiply(&mut mixed, scores.as_matrix(), v, 1.0, false);
                        for (row, sum) in sums[..count].iter().enumerate() {
                            let normalize = sum.recip();
                            for value in mixed.row(row) {
                                *value *= normalize;
                            }
                        }
                    });
                });
            })
        }
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}
