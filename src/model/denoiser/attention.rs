//! Attention with its projections, as the blocks of UNets and of transformers with cross-attention have it (diffusers'
//! `Attention`).

use candle_core::{DType, Result};

use crate::backend::ops::{Linear, Mask, attention, attention_of_lengths};
use crate::backend::{Activation, MatmulPrecision, Params};

/// Sizes and kind of an [`Attention`].
#[derive(Clone, Copy, Debug)]
pub(super) struct AttentionShape {
    pub channels: usize,
    /// width of what keys and values are made of
    pub context_width: usize,
    pub heads: usize,
    /// queries, keys and values have a bias
    pub bias: bool,
    /// scores in f32 whatever the working precision
    pub upcast: bool,
}

/// Multi-head attention with its four projections.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
    upcast: bool,
    precision: MatmulPrecision,
}

impl Attention {
    pub(super) fn load(shape: AttentionShape, vb: &Params) -> Result<Self> {
        let AttentionShape { channels, context_width, heads, bias, upcast } = shape;
        let projection = |input: usize, name: &str| {
            let vb = vb.pp(name);
            if bias {
                Linear::load(input, channels, &vb)
            } else {
                Linear::load_no_bias(input, channels, &vb)
            }
        };
        Ok(Self {
            to_q: projection(channels, "to_q")?,
            to_k: projection(context_width, "to_k")?,
            to_v: projection(context_width, "to_v")?,
            to_out: Linear::load(channels, channels, &vb.pp("to_out").pp(0))?,
            heads,
            upcast,
            precision: if upcast { MatmulPrecision::F32 } else { vb.precision() },
        })
    }

    /// `x` `[B, N, channels]`, `context` `[B, M, context_width]`, of which the first `lengths[i]` tokens of sample `i`
    /// count, or all; after the output projection, to which `residual` is added.
    pub(super) fn forward(
        &self,
        x: &Activation,
        context: &Activation,
        lengths: Option<&[usize]>,
        residual: Option<&Activation>,
    ) -> Result<Activation> {
        let mut qkv =
            [self.to_q.forward(x)?, self.to_k.forward(context)?, self.to_v.forward(context)?];
        if self.upcast {
            for tensor in &mut qkv {
                *tensor = tensor.to_dtype(DType::F32)?;
            }
        }
        let [q, k, v] = &qkv;
        let mixed = match lengths {
            None => attention(q, k, v, self.heads, Mask::None, self.precision)?,
            Some(lengths) => attention_of_lengths(q, k, v, self.heads, lengths, self.precision)?,
        };
        let mixed = mixed.to_dtype(x.dtype())?;
        match residual {
            Some(residual) => self.to_out.forward_add(&mixed, residual),
            None => self.to_out.forward(&mixed),
        }
    }
}
