//! The layer that decoders of LLaMA's line are made of: LLaVA's language model, and Qwen3 as a text encoder
//! (transformers `models/llama/modeling_llama.py`: `LlamaDecoderLayer`, `models/qwen3/modeling_qwen3.py`:
//! `Qwen3DecoderLayer`); and the angles by which queries and keys turn with their place.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use crate::backend::ops::{Linear, RmsNorm, swiglu};
use crate::backend::{Activation, Params, Trace};

/// Sizes of a layer; the same for all layers of a decoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct DecoderShape {
    pub width: usize,
    /// width within the feed-forward layer
    pub inner: usize,
    pub heads: usize,
    /// heads of keys and values, each for as many of the queries' in a row
    pub key_heads: usize,
    pub head_dim: usize,
    pub eps: f64,
    /// every head of queries and keys has a norm before it turns
    pub normed_heads: bool,
}

/// Norm before attention and before the feed-forward layer, a residual around each; no bias anywhere.
#[derive(Clone, Debug)]
pub(super) struct DecoderLayer {
    pub norm1: RmsNorm,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub out: Linear,
    /// norms of the heads of queries and keys
    pub head_norms: Option<[RmsNorm; 2]>,
    norm2: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl DecoderLayer {
    /// Reads the tensors below `vb`.
    pub(super) fn load(shape: DecoderShape, vb: &Params) -> Result<Self> {
        let DecoderShape { width, inner, head_dim, eps, .. } = shape;
        let (queries, keys) = (shape.heads * head_dim, shape.key_heads * head_dim);
        let (attention, mlp) = (vb.pp("self_attn"), vb.pp("mlp"));
        let of_heads = |name: &str| RmsNorm::load(head_dim, eps, &attention.pp(name));
        let head_norms = || Ok::<_, candle_core::Error>([of_heads("q_norm")?, of_heads("k_norm")?]);
        Ok(Self {
            norm1: RmsNorm::load(width, eps, &vb.pp("input_layernorm"))?,
            q: Linear::load_no_bias(width, queries, &attention.pp("q_proj"))?,
            k: Linear::load_no_bias(width, keys, &attention.pp("k_proj"))?,
            v: Linear::load_no_bias(width, keys, &attention.pp("v_proj"))?,
            out: Linear::load_no_bias(queries, width, &attention.pp("o_proj"))?,
            head_norms: shape.normed_heads.then(head_norms).transpose()?,
            norm2: RmsNorm::load(width, eps, &vb.pp("post_attention_layernorm"))?,
            gate: Linear::load_no_bias(width, inner, &mlp.pp("gate_proj"))?,
            up: Linear::load_no_bias(width, inner, &mlp.pp("up_proj"))?,
            down: Linear::load_no_bias(inner, width, &mlp.pp("down_proj"))?,
        })
    }

    /// `x`, of any shape, and what the feed-forward layer adds to it.
    pub(super) fn feed_forward(&self, x: &Activation) -> Result<Activation> {
        let h = self.norm2.forward(x)?;
        let h = swiglu(&self.gate.forward(&h)?, &self.up.forward(&h)?)?;
        self.down.forward_add(&h, x)
    }
}

/// Turns per token (in radians) of each pair of a head's numbers.
pub(super) fn frequencies(theta: f64, head_dim: usize) -> impl Iterator<Item = f64> {
    (0..head_dim / 2).map(move |pair| theta.powf(-2.0 * pair as f64 / head_dim as f64))
}

/// Cosines and sines of these positions, `[positions, frequencies]`, in `dtype`. The angles are rounded to f32, as in
/// the original.
pub(super) fn rotation(
    frequencies: &[f32],
    positions: Range<usize>,
    dtype: DType,
    device: &Device,
    trace: Option<&Trace>,
) -> Result<(Activation, Activation)> {
    let shape = (positions.len(), frequencies.len());
    let of_angles = |f: fn(f64) -> f64| {
        let at = |position: usize| {
            let angle = move |frequency: &f32| f64::from(position as f32 * frequency);
            frequencies.iter().map(angle).map(move |angle| f(angle) as f32)
        };
        Activation::make(trace, shape, DType::F32, || {
            let values: Vec<f32> = positions.clone().flat_map(at).collect();
            Tensor::from_vec(values, shape, device)
        })?
        .to_dtype(dtype)
    };
    Ok((of_angles(f64::cos)?, of_angles(f64::sin)?))
}
