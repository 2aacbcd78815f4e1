//! Multi-head attention on tokens.

mod biased;
mod cpu;
mod cuda;
mod launch;
mod launch_metal;
mod lengths;
mod metal;
mod parts;

use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor};

use super::{OpForm, form, plain_cost};
use crate::backend::{Activation, MatmulPrecision, Operation};
pub use biased::biased_attention;
pub use lengths::attention_of_lengths;
pub use parts::attention_parts;

/// Attention mask: the keys that a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Every key.
    None,
    /// Keys up to the query's own position (text encoders).
    Causal,
    /// Keys up to the query's own position, where those behind the last query are room for later ones
    /// (decoders with a cache).
    Cached {
        /// Position of the first query: its keys and those before it have been computed.
        past: usize,
        /// Sliding window: at most so many keys, the nearest.
        window: Option<usize>,
    },
}

impl Mask {
    /// The keys, out of so many, that query `index` sees.
    fn seen(self, index: usize, keys: usize) -> Range<usize> {
        let (past, window) = match self {
            Self::None => return 0..keys,
            Self::Causal => (0, None),
            Self::Cached { past, window } => (past, window),
        };
        let end = keys.min(past + index + 1);
        window.map_or(0, |window| (past + index + 1).saturating_sub(window)).min(end)..end
    }
}

/// Score matrices are built for at most this many bytes of f32 at a time: 16 384 tokens of SDXL's
/// first attention level would otherwise need 10 GiB.
const SCORE_BYTES: usize = 256 << 20;

/// `softmax(q·kᵀ/√d)·v` per head, softmax in f32.
///
/// `q` is `[B, N, heads·d]`, `k` and `v` are `[B, M, heads·d]`; the result is `[B, N, heads·d]`
/// (`torch.nn.functional.scaled_dot_product_attention` between head splits). With fewer heads in `k`
/// and `v`, each serves as many heads of `q` in a row (`enable_gqa=True`). The CPU's kernels round what
/// they multiply to `precision`, but where there are only a few queries.
///
/// # Errors
/// Widths that `heads` does not divide, a precision that this processor does not multiply in, or those
/// of the backend.
pub fn attention(
    q: &Activation,
    k: &Activation,
    v: &Activation,
    heads: usize,
    mask: Mask,
    precision: MatmulPrecision,
) -> Result<Activation> {
    let sizes = AttentionSizes::checked(q, k, v, heads, mask)?;
    let form = form(Operation::Attention, [q, k, v]);
    if let Some(trace) = q.trace() {
        // Scores, and the values that they weigh.
        trace.multiply(2.0 * q.elem_count() as f64 * sizes.keys as f64);
    }
    let own = match form {
        OpForm::Cuda => cuda::attention([q, k, v], sizes, mask)?,
        OpForm::Metal => metal::attention([q, k, v], sizes, mask)?,
        _ => None,
    };
    if let Some(y) = own {
        return Ok(y);
    }
    match form {
        OpForm::Cpu => {
            cpu::attention(q.tensor()?, k.tensor()?, v.tensor()?, sizes, mask, precision)
                .map(Activation::from)
        }
        OpForm::CpuCost(trace) => {
            let (scratch, laid) = cpu::memory(sizes, mask, precision);
            trace.scratch(scratch);
            let _laid = trace.hold(laid * size_of::<f32>());
            plain_cost(trace, &[q, k, v], q.shape())
        }
        OpForm::Cuda | OpForm::Metal | OpForm::Composed => composed(q, k, v, sizes, mask),
    }
}

/// The samples, and the sizes of one.
#[derive(Clone, Copy, Debug)]
struct AttentionSizes {
    batch: usize,
    queries: usize,
    keys: usize,
    /// heads of the queries and of the output
    heads: usize,
    key_heads: usize,
    /// width of one head
    width: usize,
}

impl AttentionSizes {
    /// The sizes of such queries, keys and values.
    fn checked(
        q: &Activation,
        k: &Activation,
        v: &Activation,
        heads: usize,
        mask: Mask,
    ) -> Result<Self> {
        let (batch, queries, width) = q.dims3()?;
        let (_, keys, key_width) = k.dims3()?;
        if k.dim(0)? != batch || v.dims() != k.dims() {
            candle_core::bail!(
                "attention: queries {:?}, keys {:?} and values {:?} do not fit",
                q.shape(),
                k.shape(),
                v.shape()
            );
        }
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            candle_core::bail!("attention: {heads} heads do not divide a width of {width}");
        }
        let width = width / heads;
        let key_heads = key_width / width;
        if key_heads * width != key_width || key_heads == 0 || !heads.is_multiple_of(key_heads) {
            candle_core::bail!(
                "attention: {heads} heads of {width} do not share keys of a width of {key_width}"
            );
        }
        if let Mask::Cached { past, window } = mask
            && (past + queries > keys || window == Some(0))
        {
            candle_core::bail!(
                "attention: {queries} queries after {past} tokens, {keys} keys, a window of {window:?}"
            );
        }
        Ok(Self { batch, queries, keys, heads, key_heads, width })
    }
}

/// The composed form: a matrix of scores for some of the queries at a time.
fn composed(
    q: &Activation,
    k: &Activation,
    v: &Activation,
    sizes: AttentionSizes,
    mask: Mask,
) -> Result<Activation> {
    let AttentionSizes { batch, queries, keys, heads, key_heads, width } = sizes;
    let group = heads / key_heads;
    let split = |x: &Activation, tokens: usize, heads: usize| {
        x.reshape((batch, tokens, heads, width))?.transpose(1, 2)?.contiguous()
    };
    let q = split(q, queries, heads)?.affine((width as f64).powf(-0.5), 0.0)?;
    let q = q.reshape((batch * key_heads, group, queries, width))?;
    let of_keys = (batch * key_heads, keys, width);
    let k_t = split(k, keys, key_heads)?.reshape(of_keys)?.transpose(1, 2)?;
    let v = split(v, keys, key_heads)?.reshape(of_keys)?;

    let rows_at_once = (SCORE_BYTES / (4 * batch * heads * keys).max(1)).clamp(1, queries.max(1));
    let mut parts = Vec::with_capacity(queries.div_ceil(rows_at_once));
    for start in (0..queries).step_by(rows_at_once) {
        let rows = rows_at_once.min(queries - start);
        let flat = (batch * key_heads, group * rows, width);
        let scores = q.narrow(2, start, rows)?.contiguous()?.reshape(flat)?.matmul(&k_t)?;
        let scores = scores.to_dtype(DType::F32)?;
        let scores = match mask {
            Mask::None => scores,
            mask => {
                let bias = bias(mask, start..start + rows, keys, &q)?;
                let scores = scores.reshape((batch * key_heads, group, rows, keys))?;
                scores.broadcast_add(&bias)?.reshape((batch * key_heads, group * rows, keys))?
            }
        };
        let weights = scores.softmax(D::Minus1)?.to_dtype(v.dtype())?;
        drop(scores);
        parts.push(weights.matmul(&v)?.reshape((batch, heads, rows, width))?);
    }
    let y = if parts.len() == 1 { parts.swap_remove(0) } else { Activation::cat(&parts, 2)? };
    y.transpose(1, 2)?.contiguous()?.reshape((batch, queries, heads * width))
}

/// 0 where a query sees a key and −∞ where not, `[queries, keys]`, on the device of `q`, because it is as
/// large as a head's scores.
fn bias(mask: Mask, queries: Range<usize>, keys: usize, q: &Activation) -> Result<Activation> {
    let shape = (queries.len(), keys);
    // Both comparisons of positions and their conjunction, a byte each.
    let _seen = q.trace().map(|trace| trace.hold(3 * queries.len() * keys));
    Activation::make(q.trace(), shape, DType::F32, || {
        make_bias(mask, queries, keys, q.tensor()?.device())
    })
}

/// The values of [`bias`].
fn make_bias(mask: Mask, queries: Range<usize>, keys: usize, device: &Device) -> Result<Tensor> {
    let count = queries.len();
    let (starts, ends): (Vec<u32>, Vec<u32>) = queries
        .map(|query| mask.seen(query, keys))
        .map(|seen| (seen.start as u32, seen.end as u32))
        .unzip();
    let of_rows = |values: Vec<u32>| Tensor::from_vec(values, (count, 1), device);
    let key = Tensor::arange(0, keys as u32, device)?.unsqueeze(0)?;
    let is_seen = (key.broadcast_ge(&of_rows(starts)?)? * key.broadcast_lt(&of_rows(ends)?)?)?;
    let everywhere = |value: f32| Tensor::new(value, device)?.broadcast_as((count, keys));
    is_seen.where_cond(&everywhere(0.0)?, &everywhere(f32::NEG_INFINITY)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bias_hides_what_the_mask_does_not_show() {
        let window = |window| Mask::Cached { past: 3, window };
        for mask in [Mask::Causal, window(None), window(Some(2)), window(Some(9))] {
            let bias = make_bias(mask, 1..5, 8, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
            for (query, bias) in (1..5).zip(bias) {
                for (key, bias) in bias.into_iter().enumerate() {
                    let is_seen = mask.seen(query, 8).contains(&key);
                    let expected = if is_seen { 0.0 } else { f32::NEG_INFINITY };
                    assert_eq!(bias, expected, "{mask:?}: query {query}, key {key}");
                }
            }
        }
    }
}
