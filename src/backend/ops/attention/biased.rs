//! Attention with a bias for each pair of positions and no scale: that of T5, which learns how far apart tokens
//! are in this way.

use candle_core::{D, DType, Result};

use super::{AttentionSizes, Mask, OpForm, cpu, form, plain_cost};
use crate::backend::{Activation, Operation};

/// `softmax(q·kᵀ + bias)·v` per head, softmax in f32 (transformers' `T5Attention`).
///
/// `q` is `[B, N, heads·d]`, `k` and `v` are `[B, M, heads·d]`, `bias` is `[heads, N, M]` in f32, the same for every
/// sample; the result is `[B, N, heads·d]`. GPUs compose it: beside the products of a text encoder it is hardly
/// anything.
///
/// # Errors
/// Widths that `heads` does not divide, a bias of another shape or type, or those of the backend.
pub fn biased_attention(
    q: &Activation,
    k: &Activation,
    v: &Activation,
    heads: usize,
    bias: &Activation,
) -> Result<Activation> {
    let sizes = AttentionSizes::checked(q, k, v, heads, Mask::None)?;
    let AttentionSizes { queries, keys, key_heads, .. } = sizes;
    if key_heads != heads || bias.dims() != [heads, queries, keys] || bias.dtype() != DType::F32 {
        candle_core::bail!(
            "attention: a bias of {:?} {:?} for {heads} heads ({key_heads} of keys), {queries} queries and {keys} keys",
            bias.dtype(),
            bias.shape()
        );
    }
    if let Some(trace) = q.trace() {
        trace.multiply(2.0 * q.elem_count() as f64 * keys as f64);
    }
    match form(Operation::BiasedAttention, [q, k, v, bias]) {
        OpForm::Cpu => cpu::biased(q.tensor()?, k.tensor()?, v.tensor()?, bias.tensor()?, sizes)
            .map(Activation::from),
        OpForm::CpuCost(trace) => {
            let scores = cpu::biased_memory(sizes);
            trace.scratch(scores);
            // Each thread's product with the values lays out its left side, the weights, anew.
            let _laid = trace.hold(rayon::current_num_threads() * scores * size_of::<f32>());
            plain_cost(trace, &[q, k, v, bias], q.shape())
        }
        OpForm::Cuda | OpForm::Metal | OpForm::Composed => composed([q, k, v], bias, sizes),
    }
}

/// The composed form, with all scores at once: text encoders have a few hundred tokens.
fn composed(
    [q, k, v]: [&Activation; 3],
    bias: &Activation,
    sizes: AttentionSizes,
) -> Result<Activation> {
    let AttentionSizes { batch, queries, keys, heads, width, .. } = sizes;
    let split = |x: &Activation, tokens: usize| {
        x.reshape((batch, tokens, heads, width))?.transpose(1, 2)?.contiguous()
    };
    let k = split(k, keys)?.transpose(2, 3)?;
    let scores = split(q, queries)?.matmul(&k)?.to_dtype(DType::F32)?;
    drop(k);
    let weights = scores.broadcast_add(bias)?;
    drop(scores);
    let weights = weights.softmax(D::Minus1)?.to_dtype(v.dtype())?;
    let mixed = weights.matmul(&split(v, keys)?)?;
    mixed.transpose(1, 2)?.contiguous()?.reshape((batch, queries, heads * width))
}
