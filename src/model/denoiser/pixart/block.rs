//! A block of a PixArt transformer: self-attention, cross-attention to the text and a feed-forward network, of which
//! the first and the last are scaled, shifted and gated by the timestep (diffusers' `BasicTransformerBlock` with
//! `ada_norm_single`).

use candle_core::{Result, Tensor};

use super::config::PixArtConfig;
use crate::backend::ops::{Linear, add, add_gated, gelu_tanh, modulated_norm};
use crate::backend::{Activation, Params};
use crate::model::denoiser::{
    attention::{Attention, AttentionShape},
    prior::PriorCursor,
};

/// The text of a call: states `[B, M, D]`, and how many of each row count.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub context: &'a Activation,
    pub lengths: Option<&'a [usize]>,
}

#[derive(Clone, Debug)]
pub(super) struct PixArtBlock {
    /// `[6, C]`: what this block adds to the six vectors of all
    scale_shift_table: Tensor,
    attn1: Attention,
    attn2: Attention,
    ff_in: Linear,
    ff_out: Linear,
    eps: f64,
}

impl PixArtBlock {
    pub(super) fn load(config: &PixArtConfig, vb: &Params) -> Result<Self> {
        let channels = config.width();
        let attention = |name: &str, context_width: usize| {
            let shape = AttentionShape {
                channels,
                context_width,
                heads: config.heads,
                bias: config.attention_bias,
                upcast: config.upcast_attention,
            };
            Attention::load(shape, &vb.pp(name))
        };
        let ff = vb.pp("ff").pp("net");
        Ok(Self {
            scale_shift_table: vb.get((6, channels), "scale_shift_table")?,
            attn1: attention("attn1", channels)?,
            attn2: attention("attn2", config.cross_attention_width)?,
            ff_in: Linear::load(channels, 4 * channels, &ff.pp(0).pp("proj"))?,
            ff_out: Linear::load(4 * channels, channels, &ff.pp(2))?,
            eps: config.norm_eps,
        })
    }

    /// `x` `[B, h·w, C]`, `vectors` `[B, 6, C]` → `[B, h·w, C]`.
    pub(super) fn forward(
        &self,
        x: &Activation,
        text: Text<'_>,
        vectors: &Activation,
        (height, width): (usize, usize),
        cursor: &mut PriorCursor,
    ) -> Result<Activation> {
        let vectors = vectors.broadcast_add(&(&self.scale_shift_table).into())?;
        let vector = |index: usize| vectors.narrow(1, index, 1)?.squeeze(1)?.contiguous();
        let normed = modulated_norm(x, &vector(1)?, &vector(0)?, self.eps)?;
        let attended = self.attn1.forward(&normed, &normed, None, None)?;
        drop(normed);
        let x = add_gated(x, &attended, &vector(2)?)?;
        drop(attended);
        // No norm stands before the cross-attention.
        let cross = self.attn2.forward(&x, text.context, text.lengths, None)?;
        let x = add(&x, &cursor.visit(cross, height, width)?)?;
        let normed = modulated_norm(&x, &vector(4)?, &vector(3)?, self.eps)?;
        let hidden = gelu_tanh(&self.ff_in.forward(&normed)?)?;
        drop(normed);
        add_gated(&x, &self.ff_out.forward(&hidden)?, &vector(5)?)
    }
}
