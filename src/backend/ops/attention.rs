//! Multi-head attention on tokens.

use candle_core::{D, DType, Result, Tensor};

use super::cpu;

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Every key.
    None,
    /// Keys up to the query's own position (text encoders).
    Causal,
}

/// Score matrices are built for at most this many bytes of f32 at a time: 16 384 tokens of SDXL's
/// first attention level would otherwise need 10 GiB.
pub(super) const SCORE_BYTES: usize = 256 << 20;

/// `softmax(q·kᵀ/√d)·v` per head, softmax in f32.
///
/// `q` is `[B, N, heads·d]`, `k` and `v` are `[B, M, heads·d]`; the result is `[B, N, heads·d]`
/// (`torch.nn.functional.scaled_dot_product_attention` between head splits).
///
/// # Errors
/// Widths that `heads` does not divide, or those of the backend.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Mask) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let keys = k.dim(1)?;
    if k.dims() != [batch, keys, width] || v.dims() != k.dims() {
        candle_core::bail!(
            "attention: queries {:?}, keys {:?} and values {:?} do not fit",
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    if heads == 0 || !width.is_multiple_of(heads) {
        candle_core::bail!("attention: {heads} heads do not divide a width of {width}");
    }
    if [q, k, v].into_iter().all(cpu::takes) {
        return cpu::attention(q, k, v, heads, mask == Mask::Causal);
    }
    let head_width = width / heads;
    let split = |x: &Tensor, tokens: usize| {
        x.reshape((batch, tokens, heads, head_width))?.transpose(1, 2)?.contiguous()
    };
    let q = (split(q, queries)? * (head_width as f64).powf(-0.5))?;
    let k_t = split(k, keys)?.transpose(2, 3)?;
    let v = split(v, keys)?;

    let rows_at_once = (SCORE_BYTES / (4 * batch * heads * keys).max(1)).clamp(1, queries.max(1));
    let mut parts = Vec::with_capacity(queries.div_ceil(rows_at_once));
    for start in (0..queries).step_by(rows_at_once) {
        let rows = rows_at_once.min(queries - start);
        let scores = q.narrow(2, start, rows)?.contiguous()?.matmul(&k_t)?.to_dtype(DType::F32)?;
        let scores = match mask {
            Mask::None => scores,
            Mask::Causal => {
                let bias: Vec<f32> = (start..start + rows)
                    .flat_map(|query| {
                        (0..keys).map(move |key| if key <= query { 0.0 } else { f32::NEG_INFINITY })
                    })
                    .collect();
                scores.broadcast_add(&Tensor::from_vec(bias, (rows, keys), q.device())?)?
            }
        };
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(v.dtype())?;
        parts.push(weights.matmul(&v)?);
    }
    let y = if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(&parts, 2)? };
    y.transpose(1, 2)?.contiguous()?.reshape((batch, queries, width))
}
