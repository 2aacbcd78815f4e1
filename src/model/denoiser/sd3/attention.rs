//! Joint attention: the tokens of the picture and those of the text, each with projections of their own, attend to all of
//! both. For the attention prior, what the text contributes to a token of the picture is kept apart (docs/method.md §5b).

use candle_core::Result;

use super::config::Sd3Config;
use crate::backend::ops::{Linear, Mask, RmsNorm, add, attention, attention_parts};
use crate::backend::{Activation, MatmulPrecision, Params};
use crate::model::denoiser::prior::PriorCursor;

/// ε of the norms of queries and keys.
const NORM_EPS: f64 = 1e-6;

/// Queries or keys of some tokens: a dense layer, and where the model has it a norm of each head.
#[derive(Clone, Debug)]
struct Projection {
    linear: Linear,
    norm: Option<RmsNorm>,
    head_width: usize,
}

impl Projection {
    fn load(config: &Sd3Config, name: &str, norm: &str, vb: &Params) -> Result<Self> {
        let (width, head_width) = (config.width(), config.head_width);
        let norm = || RmsNorm::load(head_width, NORM_EPS, &vb.pp(norm));
        Ok(Self {
            linear: Linear::load(width, width, &vb.pp(name))?,
            norm: config.qk_norm.then(norm).transpose()?,
            head_width,
        })
    }

    /// `[B, N, width]` → the same shape.
    fn forward(&self, x: &Activation) -> Result<Activation> {
        let y = self.linear.forward(x)?;
        let Some(norm) = &self.norm else { return Ok(y) };
        let (batch, tokens, width) = y.dims3()?;
        let heads = y.reshape((batch, tokens, width / self.head_width, self.head_width))?;
        norm.forward(&heads)?.reshape((batch, tokens, width))
    }
}

/// Attention of the picture's tokens to each other (the second one of dual blocks).
#[derive(Clone, Debug)]
pub(super) struct SelfAttention {
    to_q: Projection,
    to_k: Projection,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
    precision: MatmulPrecision,
}

impl SelfAttention {
    pub(super) fn load(config: &Sd3Config, vb: &Params) -> Result<Self> {
        let linear = |vb: &Params| Linear::load(config.width(), config.width(), vb);
        Ok(Self {
            to_q: Projection::load(config, "to_q", "norm_q", vb)?,
            to_k: Projection::load(config, "to_k", "norm_k", vb)?,
            to_v: linear(&vb.pp("to_v"))?,
            to_out: linear(&vb.pp("to_out").pp(0))?,
            heads: config.heads,
            precision: vb.precision(),
        })
    }

    /// `[B, N, width]` → the same shape, after the output projection.
    pub(super) fn forward(&self, x: &Activation) -> Result<Activation> {
        let (q, k, v) = (self.to_q.forward(x)?, self.to_k.forward(x)?, self.to_v.forward(x)?);
        let mixed = attention(&q, &k, &v, self.heads, Mask::None, self.precision)?;
        drop((q, k, v));
        self.to_out.forward(&mixed)
    }
}

/// What the tokens of the text have in a joint attention.
#[derive(Clone, Debug)]
struct TextSide {
    to_k: Projection,
    to_v: Linear,
    /// queries and output projection; the last block has no use for what they give
    asks: Option<(Projection, Linear)>,
}

/// Attention of the tokens of picture and text to all of both.
#[derive(Clone, Debug)]
pub(super) struct JointAttention {
    picture: SelfAttention,
    text: TextSide,
}

impl JointAttention {
    /// Reads it below `vb`; `is_last` for the block behind which the text's tokens end.
    pub(super) fn load(config: &Sd3Config, is_last: bool, vb: &Params) -> Result<Self> {
        let linear = |name: &str| Linear::load(config.width(), config.width(), &vb.pp(name));
        let asks = || {
            let queries = Projection::load(config, "add_q_proj", "norm_added_q", vb)?;
            Ok::<_, candle_core::Error>((queries, linear("to_add_out")?))
        };
        Ok(Self {
            picture: SelfAttention::load(config, vb)?,
            text: TextSide {
                to_k: Projection::load(config, "add_k_proj", "norm_added_k", vb)?,
                to_v: linear("add_v_proj")?,
                asks: (!is_last).then(asks).transpose()?,
            },
        })
    }

    /// `x` `[B, N, width]` of `height` × `width` patches, `context` `[B, M, width]`: both after their output
    /// projections, the text's unless this is the last block.
    pub(super) fn forward(
        &self,
        x: &Activation,
        context: &Activation,
        (height, width): (usize, usize),
        cursor: &mut PriorCursor,
    ) -> Result<(Activation, Option<Activation>)> {
        let SelfAttention { to_q, to_k, to_v, to_out, heads, precision } = &self.picture;
        let (q, k, v) = (to_q.forward(x)?, to_k.forward(x)?, to_v.forward(x)?);
        let (text_k, text_v) = (self.text.to_k.forward(context)?, self.text.to_v.forward(context)?);
        let both = |picture: &Activation, text: &Activation| Activation::cat(&[picture, text], 1);
        let attend = |q: &Activation| {
            let (k, v) = (both(&k, &text_k)?, both(&v, &text_v)?);
            attention(q, &k, &v, *heads, Mask::None, *precision)
        };
        let mixed = if cursor.is_used() {
            let sets = [[&k, &v], [&text_k, &text_v]];
            let [picture, text] = attention_parts(&q, sets, *heads, *precision)?;
            add(&picture, &cursor.visit(text, height, width)?)?
        } else {
            attend(&q)?
        };
        drop(q);
        let of_text = match &self.text.asks {
            Some((queries, to_add_out)) => {
                Some(to_add_out.forward(&attend(&queries.forward(context)?)?)?)
            }
            None => None,
        };
        drop((k, v, text_k, text_v));
        Ok((to_out.forward(&mixed)?, of_text))
    }
}
