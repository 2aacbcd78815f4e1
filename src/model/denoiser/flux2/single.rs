//! A block of one stream (`Flux2SingleTransformerBlock`): text and picture, one behind the other, go through attention and a
//! feed-forward network side by side, whose first layers are one and whose last layers are one.

use candle_core::Result;

use super::attention::{Heads, Qkv, with_prior};
use super::config::Flux2Config;
use super::modulation::{Rows, in_range};
use crate::backend::ops::{Linear, Mask, attention, join, swiglu};
use crate::backend::{Activation, MatmulPrecision, Params};
use crate::model::denoiser::{prior::PriorCursor, rotary::Angles};

/// The block.
#[derive(Clone, Debug)]
pub(super) struct SingleBlock {
    to_qkv_mlp: Linear,
    to_out: Linear,
    heads: Heads,
    width: usize,
    inner: usize,
    precision: MatmulPrecision,
}

impl SingleBlock {
    /// Reads the tensors below `vb`.
    pub(super) fn load(config: &Flux2Config, vb: &Params) -> Result<Self> {
        let (width, inner, vb) = (config.width(), config.inner, vb.pp("attn"));
        let all = 3 * width + 2 * inner;
        Ok(Self {
            to_qkv_mlp: Linear::load_no_bias(width, all, &vb.pp("to_qkv_mlp_proj"))?,
            to_out: Linear::load_no_bias(width + inner, width, &vb.pp("to_out"))?,
            heads: Heads::load(config, ["norm_q", "norm_k"], &vb)?,
            width,
            inner,
            precision: vb.precision(),
        })
    }

    /// `x` `[B, N, width]` → the same shape: of its tokens the last `size` are the picture's.
    pub(super) fn forward(
        &self,
        x: &Activation,
        rows: &Rows,
        angles: &Angles,
        size: (usize, usize),
        cursor: &mut PriorCursor,
    ) -> Result<Activation> {
        let (width, inner) = (self.width, self.inner);
        let all = self.to_qkv_mlp.forward(&rows.normed(x)?)?;
        let (gate, value) =
            (all.narrow(2, 3 * width, inner)?, all.narrow(2, 3 * width + inner, inner)?);
        let dense = swiglu(&gate, &value)?;
        drop((gate, value));
        let third = |index: usize| all.narrow(2, index * width, width)?.contiguous();
        let qkv = Qkv { q: third(0)?, k: third(1)?, v: third(2)? };
        drop(all);
        let qkv = self.heads.turned(qkv, angles)?;
        let mixed = self.attend(qkv, size, cursor)?;
        let both = join(&mixed, &dense)?;
        drop((mixed, dense));
        let y = self.to_out.forward(&both)?;
        drop(both);
        in_range(rows.added(x, &y)?)
    }

    /// What the tokens get of all.
    fn attend(
        &self,
        qkv: Qkv,
        size: (usize, usize),
        cursor: &mut PriorCursor,
    ) -> Result<Activation> {
        let (heads, precision) = (self.heads.count, self.precision);
        if !cursor.is_used() {
            return attention(&qkv.q, &qkv.k, &qkv.v, heads, Mask::None, precision);
        }
        let (tokens, patches) = (qkv.q.dim(1)?, size.0 * size.1);
        let (text, picture) =
            (qkv.part(0, tokens - patches)?, qkv.part(tokens - patches, patches)?);
        let Qkv { q, k, v } = qkv;
        drop(q);
        let parts = with_prior([&text, &picture], [&k, &v], heads, precision, size, cursor)?;
        drop((text, picture, k, v));
        Activation::cat(&parts, 1)
    }
}
