//! A block of the transformer (`ZImageTransformerBlock`): attention and a feed-forward network, each between two norms,
//! with scales and gates that follow from the timestep where the tokens are noisy. Text and picture are one stream; for the
//! attention prior, what the text contributes to a token of the picture is kept apart (docs/method.md §5b).

use candle_core::Result;

use super::config::ZImageConfig;
use crate::backend::ops::{
    Linear, Mask, RmsNorm, add, add_gated, attention, attention_parts, swiglu,
};
use crate::backend::{Activation, MatmulPrecision, Params};
use crate::model::denoiser::{prior::PriorCursor, rotary::Angles};

/// ε of the norms of queries and keys.
const HEAD_NORM_EPS: f64 = 1e-5;

/// The tokens of a picture, which stand before those of the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Picture {
    /// rows and columns of patches
    pub size: (usize, usize),
    /// tokens, the padding included
    pub tokens: usize,
}

/// Attention of all tokens to all.
#[derive(Clone, Debug)]
struct JointAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    /// norms of the heads of queries and keys
    norms: Option<[RmsNorm; 2]>,
    heads: usize,
    precision: MatmulPrecision,
}

impl JointAttention {
    fn load(config: &ZImageConfig, vb: &Params) -> Result<Self> {
        let dim = config.dim;
        let linear = |name: &str| Linear::load_no_bias(dim, dim, &vb.pp(name));
        let norm = |name: &str| RmsNorm::load(dim / config.heads, HEAD_NORM_EPS, &vb.pp(name));
        let norms = || Ok::<_, candle_core::Error>([norm("norm_q")?, norm("norm_k")?]);
        Ok(Self {
            to_q: linear("to_q")?,
            to_k: linear("to_k")?,
            to_v: linear("to_v")?,
            to_out: linear("to_out.0")?,
            norms: config.qk_norm.then(norms).transpose()?,
            heads: config.heads,
            precision: vb.precision(),
        })
    }

    /// `[B, N, dim]` → the same shape, after the output projection. With a cursor the first tokens are the picture's.
    fn forward(
        &self,
        x: &Activation,
        angles: &Angles,
        prior: Option<(Picture, &mut PriorCursor)>,
    ) -> Result<Activation> {
        let (batch, tokens, dim) = x.dims3()?;
        let turned = |x: Activation, norm: usize| {
            let x = x.reshape((batch, tokens, self.heads, dim / self.heads))?;
            match &self.norms {
                Some(norms) => angles.turned(&norms[norm].forward(&x)?),
                None => angles.turned(&x),
            }
        };
        let q = turned(self.to_q.forward(x)?, 0)?;
        let k = turned(self.to_k.forward(x)?, 1)?;
        let v = self.to_v.forward(x)?;
        let mixed = match prior.filter(|(_, cursor)| cursor.is_used()) {
            Some((picture, cursor)) => self.with_prior([&q, &k, &v], picture, cursor)?,
            None => attention(&q, &k, &v, self.heads, Mask::None, self.precision)?,
        };
        drop((q, k, v));
        self.to_out.forward(&mixed)
    }

    /// Attention in which the text's part of the picture's tokens goes through the prior.
    fn with_prior(
        &self,
        [q, k, v]: [&Activation; 3],
        Picture { size: (rows, columns), tokens }: Picture,
        cursor: &mut PriorCursor,
    ) -> Result<Activation> {
        let of_picture = |x: &Activation| x.narrow(1, 0, tokens)?.contiguous();
        let of_text = |x: &Activation| x.narrow(1, tokens, x.dim(1)? - tokens)?.contiguous();
        let (own, text) = ([of_picture(k)?, of_picture(v)?], [of_text(k)?, of_text(v)?]);
        let sets = [[&own[0], &own[1]], [&text[0], &text[1]]];
        let [own_part, text_part] =
            attention_parts(&of_picture(q)?, sets, self.heads, self.precision)?;
        drop((own, text));
        // Padding has no place in the picture.
        let patches = rows * columns;
        let shown = text_part.narrow(1, 0, patches)?.contiguous()?;
        let shown = cursor.visit(shown, rows, columns)?;
        let text_part = match tokens - patches {
            0 => shown,
            rest => Activation::cat(&[&shown, &text_part.narrow(1, patches, rest)?], 1)?,
        };
        let picture = add(&own_part, &text_part)?;
        drop((own_part, text_part));
        let text = attention(&of_text(q)?, k, v, self.heads, Mask::None, self.precision)?;
        Activation::cat(&[&picture, &text], 1)
    }
}

/// `w2(silu(w1·x)·w3·x)`
#[derive(Clone, Debug)]
struct FeedForward {
    w1: Linear,
    w2: Linear,
    w3: Linear,
}

impl FeedForward {
    fn load(config: &ZImageConfig, vb: &Params) -> Result<Self> {
        let (dim, inner) = (config.dim, config.inner());
        Ok(Self {
            w1: Linear::load_no_bias(dim, inner, &vb.pp("w1"))?,
            w2: Linear::load_no_bias(inner, dim, &vb.pp("w2"))?,
            w3: Linear::load_no_bias(dim, inner, &vb.pp("w3"))?,
        })
    }

    fn forward(&self, x: &Activation) -> Result<Activation> {
        self.w2.forward(&swiglu(&self.w1.forward(x)?, &self.w3.forward(x)?)?)
    }
}

/// The block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    attention: JointAttention,
    feed_forward: FeedForward,
    attention_norms: [RmsNorm; 2],
    feed_forward_norms: [RmsNorm; 2],
    /// what makes scales and gates of the timestep's embedding, where the tokens are noisy
    modulation: Option<Linear>,
}

impl Block {
    /// Reads the tensors below `vb`; `modulated` for a block of noisy tokens.
    pub(super) fn load(config: &ZImageConfig, modulated: bool, vb: &Params) -> Result<Self> {
        let norm = |name: &str| RmsNorm::load(config.dim, config.norm_eps, &vb.pp(name));
        // It acts on one vector for the whole picture: no rounding of it averages out.
        let exact = vb.with_precision(MatmulPrecision::F32).pp("adaLN_modulation.0");
        let modulation = || Linear::load(config.adaln_width(), 4 * config.dim, &exact);
        Ok(Self {
            attention: JointAttention::load(config, &vb.pp("attention"))?,
            feed_forward: FeedForward::load(config, &vb.pp("feed_forward"))?,
            attention_norms: [norm("attention_norm1")?, norm("attention_norm2")?],
            feed_forward_norms: [norm("ffn_norm1")?, norm("ffn_norm2")?],
            modulation: modulated.then(modulation).transpose()?,
        })
    }

    /// `x` `[B, N, dim]` → the same shape; `emb` `[B, width]` is the timestep's embedding.
    pub(super) fn forward(
        &self,
        x: &Activation,
        angles: &Angles,
        emb: &Activation,
        prior: Option<(Picture, &mut PriorCursor)>,
    ) -> Result<Activation> {
        let rows = self.modulation.as_ref().map(|linear| rows(linear, emb)).transpose()?;
        let [scale_attention, gate_attention, scale_dense, gate_dense] = match &rows {
            Some(rows) => rows.each_ref().map(Some),
            None => [None; 4],
        };
        let h = scaled(&self.attention_norms[0].forward(x)?, scale_attention)?;
        let h = self.attention.forward(&h, angles, prior)?;
        let x = gated(x, &self.attention_norms[1].forward(&h)?, gate_attention)?;
        drop(h);
        let h = scaled(&self.feed_forward_norms[0].forward(&x)?, scale_dense)?;
        let h = self.feed_forward.forward(&h)?;
        gated(&x, &self.feed_forward_norms[1].forward(&h)?, gate_dense)
    }
}

/// Scale and gate of the attention and of the feed-forward network, `[B, dim]` each.
fn rows(linear: &Linear, emb: &Activation) -> Result<[Activation; 4]> {
    let all = linear.forward(emb)?;
    let dim = all.dim(1)? / 4;
    let row = |index: usize| all.narrow(1, index * dim, dim)?.contiguous();
    Ok([row(0)?.affine(1.0, 1.0)?, row(1)?.tanh()?, row(2)?.affine(1.0, 1.0)?, row(3)?.tanh()?])
}

/// `x·scale`, where there is one.
fn scaled(x: &Activation, scale: Option<&Activation>) -> Result<Activation> {
    scale.map_or_else(|| Ok(x.clone()), |scale| x.broadcast_mul(&scale.unsqueeze(1)?))
}

/// `x + gate·y`, or `x + y` without a gate.
fn gated(x: &Activation, y: &Activation, gate: Option<&Activation>) -> Result<Activation> {
    gate.map_or_else(|| add(x, y), |gate| add_gated(x, y, gate))
}
