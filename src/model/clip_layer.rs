//! The layer that CLIP's text and vision encoders are both made of (transformers
//! `models/clip/modeling_clip.py`: `CLIPEncoderLayer`).

use candle_core::Result;

use super::text::HiddenAct;
use crate::backend::ops::{LayerNorm, Linear, Mask, attention, gelu, quick_gelu};
use crate::backend::{Activation, MatmulPrecision, Params};

/// Configuration of a layer; the same for all layers of an encoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerShape {
    pub width: usize,
    /// width within the MLP
    pub inner: usize,
    pub heads: usize,
    pub act: HiddenAct,
    pub eps: f64,
}

/// Norm before attention and before the MLP, a residual around each.
#[derive(Clone, Debug)]
pub(super) struct ClipLayer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    shape: LayerShape,
    precision: MatmulPrecision,
}

impl ClipLayer {
    /// Reads the tensors below `vb`.
    pub(super) fn load(shape: LayerShape, vb: &Params) -> Result<Self> {
        let LayerShape { width, inner, eps, .. } = shape;
        let attention = vb.pp("self_attn");
        let linear = |name: &str| Linear::load(width, width, &attention.pp(name));
        Ok(Self {
            norm1: LayerNorm::load(width, eps, &vb.pp("layer_norm1"))?,
            q: linear("q_proj")?,
            k: linear("k_proj")?,
            v: linear("v_proj")?,
            out: linear("out_proj")?,
            norm2: LayerNorm::load(width, eps, &vb.pp("layer_norm2"))?,
            fc1: Linear::load(width, inner, &vb.pp("mlp.fc1"))?,
            fc2: Linear::load(inner, width, &vb.pp("mlp.fc2"))?,
            shape,
            precision: vb.precision(),
        })
    }

    /// `[B, N, width]` → the same shape.
    pub(super) fn forward(&self, x: &Activation, mask: Mask) -> Result<Activation> {
        let h = self.norm1.forward(x)?;
        let (q, k, v) = (self.q.forward(&h)?, self.k.forward(&h)?, self.v.forward(&h)?);
        let mixed = attention(&q, &k, &v, self.shape.heads, mask, self.precision)?;
        let x = self.out.forward_add(&mixed, x)?;
        let h = self.fc1.forward(&self.norm2.forward(&x)?)?;
        let h = match self.shape.act {
            HiddenAct::QuickGelu => quick_gelu(&h)?,
            HiddenAct::Gelu => gelu(&h)?,
        };
        self.fc2.forward_add(&h, &x)
    }
}
