//! Multi-head attention on tokens.

use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor};

use super::cpu;

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Every key.
    None,
    /// Keys up to the query's own position (text encoders).
    Causal,
    /// The first query is at position `past`: its keys and those before it have been computed, those
    /// behind the last query are room for later ones. A query sees keys up to its own position, with
    /// a `window` only so many (decoders with a cache).
    Cached { past: usize, window: Option<usize> },
}

impl Mask {
    /// The keys, out of so many, that query `index` sees.
    pub(super) fn seen(self, index: usize, keys: usize) -> Range<usize> {
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
pub(super) const SCORE_BYTES: usize = 256 << 20;

/// `softmax(q·kᵀ/√d)·v` per head, softmax in f32.
///
/// `q` is `[B, N, heads·d]`, `k` and `v` are `[B, M, heads·d]`; the result is `[B, N, heads·d]`
/// (`torch.nn.functional.scaled_dot_product_attention` between head splits). With fewer heads in `k`
/// and `v`, each serves as many heads of `q` in a row (`enable_gqa=True`).
///
/// # Errors
/// Widths that `heads` does not divide, or those of the backend.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Mask) -> Result<Tensor> {
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
    let head_width = width / heads;
    let key_heads = key_width / head_width;
    if key_heads * head_width != key_width || key_heads == 0 || !heads.is_multiple_of(key_heads) {
        candle_core::bail!(
            "attention: {heads} heads of {head_width} do not share keys of a width of {key_width}"
        );
    }
    if let Mask::Cached { past, window } = mask
        && (past + queries > keys || window == Some(0))
    {
        candle_core::bail!(
            "attention: {queries} queries after {past} tokens, {keys} keys, a window of {window:?}"
        );
    }
    if [q, k, v].into_iter().all(cpu::takes) {
        return cpu::attention(q, k, v, heads, mask);
    }
    let group = heads / key_heads;
    let split = |x: &Tensor, tokens: usize, heads: usize| {
        x.reshape((batch, tokens, heads, head_width))?.transpose(1, 2)?.contiguous()
    };
    let q = (split(q, queries, heads)? * (head_width as f64).powf(-0.5))?;
    let q = q.reshape((batch * key_heads, group, queries, head_width))?;
    let of_keys = (batch * key_heads, keys, head_width);
    let k_t = split(k, keys, key_heads)?.reshape(of_keys)?.transpose(1, 2)?;
    let v = split(v, keys, key_heads)?.reshape(of_keys)?;

    let rows_at_once = (SCORE_BYTES / (4 * batch * heads * keys).max(1)).clamp(1, queries.max(1));
    let mut parts = Vec::with_capacity(queries.div_ceil(rows_at_once));
    for start in (0..queries).step_by(rows_at_once) {
        let rows = rows_at_once.min(queries - start);
        let flat = (batch * key_heads, group * rows, head_width);
        let scores = q.narrow(2, start, rows)?.contiguous()?.reshape(flat)?.matmul(&k_t)?;
        let scores = scores.to_dtype(DType::F32)?;
        let scores = match mask {
            Mask::None => scores,
            mask => {
                let bias = bias(mask, start..start + rows, keys, q.device())?;
                let scores = scores.reshape((batch * key_heads, group, rows, keys))?;
                scores.broadcast_add(&bias)?.reshape((batch * key_heads, group * rows, keys))?
            }
        };
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(v.dtype())?;
        parts.push(weights.matmul(&v)?.reshape((batch, heads, rows, head_width))?);
    }
    let y = if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(&parts, 2)? };
    y.transpose(1, 2)?.contiguous()?.reshape((batch, queries, width))
}

/// 0 where a query sees a key and −∞ where not, `[queries, keys]`; made on the device, because it is as
/// large as a head's scores.
fn bias(mask: Mask, queries: Range<usize>, keys: usize, device: &Device) -> Result<Tensor> {
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
            let bias = bias(mask, 1..5, 8, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
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
