//! A layer of T5's encoder (transformers `models/t5/modeling_t5.py`: `T5Block`).

use candle_core::{DType, Result};

use super::config::{FeedForward, T5Config};
use crate::backend::ops::{Linear, RmsNorm, biased_attention, gelu_tanh};
use crate::backend::{Activation, Params};

/// Norm before attention and before the feed-forward layer, a residual around each; no bias anywhere.
#[derive(Clone, Debug)]
pub(super) struct T5Layer {
    norm1: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm2: RmsNorm,
    /// what the activation is applied to
    wi: Linear,
    /// what it is multiplied with, in a gated layer
    gated: Option<Linear>,
    wo: Linear,
    heads: usize,
    feed_forward: FeedForward,
    /// precision of the products, but for `wo`
    dtype: DType,
}

impl T5Layer {
    /// Reads the tensors below `vb`.
    pub(super) fn load(config: &T5Config, vb: &Params) -> Result<Self> {
        let &T5Config { d_model, d_ff, layer_norm_epsilon: eps, .. } = config;
        let inner = config.num_heads * config.d_kv;
        let residual = residual_dtype(vb.dtype());
        let norm =
            |vb: Params| RmsNorm::load(d_model, eps, &vb.pp("layer_norm").to_dtype(residual));
        let (first, second) = (vb.pp("layer.0"), vb.pp("layer.1"));
        let attention = first.pp("SelfAttention");
        let input = |name: &str| Linear::load_no_bias(d_model, inner, &attention.pp(name));
        let dense = second.pp("DenseReluDense");
        let wide = |name: &str| Linear::load_no_bias(d_model, d_ff, &dense.pp(name));
        let (wi, gated) = match config.feed_forward {
            FeedForward::GatedGelu => (wide("wi_0")?, Some(wide("wi_1")?)),
            FeedForward::Relu => (wide("wi")?, None),
        };
        Ok(Self {
            q: input("q")?,
            k: input("k")?,
            v: input("v")?,
            o: Linear::load_no_bias(inner, d_model, &attention.pp("o"))?,
            norm1: norm(first)?,
            wi,
            gated,
            wo: Linear::load_no_bias(d_ff, d_model, &dense.pp("wo").to_dtype(residual))?,
            norm2: norm(second)?,
            heads: config.num_heads,
            feed_forward: config.feed_forward,
            dtype: vb.dtype(),
        })
    }

    /// `[B, N, d_model]` → the same shape, with a bias `[heads, N, N]` of positions.
    pub(super) fn forward(&self, x: &Activation, bias: &Activation) -> Result<Activation> {
        let residual = x.dtype();
        let h = self.norm1.forward(x)?.to_dtype(self.dtype)?;
        let (q, k, v) = (self.q.forward(&h)?, self.k.forward(&h)?, self.v.forward(&h)?);
        drop(h);
        let mixed = biased_attention(&q, &k, &v, self.heads, bias)?;
        drop((q, k, v));
        let x = self.o.forward(&mixed)?.to_dtype(residual)?.add(x)?;
        drop(mixed);
        let h = self.norm2.forward(&x)?.to_dtype(self.dtype)?;
        let wide = self.wi.forward(&h)?;
        let wide = match self.feed_forward {
            FeedForward::GatedGelu => gelu_tanh(&wide)?,
            FeedForward::Relu => wide.relu()?,
        };
        let wide = match &self.gated {
            Some(gated) => wide.mul(&gated.forward(&h)?)?,
            None => wide,
        };
        drop(h);
        self.wo.forward_add(&wide.to_dtype(residual)?, &x)
    }
}

/// Precision of the sum that goes through all layers. T5's grows beyond what f16 holds, so that transformers keeps the
/// last product of the feed-forward layers in f32 there (`_keep_in_fp32_modules`), and the sum with it.
pub(super) fn residual_dtype(dtype: DType) -> DType {
    if dtype == DType::F16 { DType::F32 } else { dtype }
}
