//! A block of the transformer (`JointTransformerBlock`): the tokens of the picture and of the text side by side, each
//! normed, attended, added through a gate, and sent through a feed-forward network, with scales, shifts and gates that
//! follow from timestep and pooled text (adaLN-zero).

use candle_core::Result;

use super::attention::{JointAttention, SelfAttention};
use super::config::Sd3Config;
use crate::backend::ops::{Linear, add_gated, gelu_tanh, modulated_norm};
use crate::backend::{Activation, MatmulPrecision, Params};
use crate::model::denoiser::prior::PriorCursor;

/// ε of every norm.
pub(super) const NORM_EPS: f64 = 1e-6;

/// Rows of numbers for each sample that modulate a block or the output.
#[derive(Clone, Debug)]
pub(super) struct Modulation {
    linear: Linear,
    count: usize,
}

impl Modulation {
    /// Reads the dense layer `linear` below `vb` that makes `count` rows.
    pub(super) fn load(width: usize, count: usize, vb: &Params) -> Result<Self> {
        // It acts on one vector for the whole picture: no rounding of it averages out.
        let exact = vb.with_precision(MatmulPrecision::F32);
        Ok(Self { linear: Linear::load(width, count * width, &exact.pp("linear"))?, count })
    }

    /// The rows, `[B, width]` each, for the embedding `[B, width]` after SiLU.
    pub(super) fn rows(&self, emb: &Activation) -> Result<Vec<Activation>> {
        let all = self.linear.forward(emb)?;
        let width = all.dim(1)? / self.count;
        (0..self.count).map(|row| all.narrow(1, row * width, width)).collect()
    }
}

/// Dense, GELU (tanh form), dense.
#[derive(Clone, Debug)]
struct FeedForward {
    inner: Linear,
    outer: Linear,
}

impl FeedForward {
    fn load(width: usize, vb: &Params) -> Result<Self> {
        let net = vb.pp("net");
        Ok(Self {
            inner: Linear::load(width, 4 * width, &net.pp(0).pp("proj"))?,
            outer: Linear::load(4 * width, width, &net.pp(2))?,
        })
    }

    fn forward(&self, x: &Activation) -> Result<Activation> {
        self.outer.forward(&gelu_tanh(&self.inner.forward(x)?)?)
    }
}

/// What the text's tokens have in a block; of the last block only the norm before its attention.
#[derive(Clone, Debug)]
struct TextStream {
    norm1: Modulation,
    ff: Option<FeedForward>,
}

/// The block.
#[derive(Clone, Debug)]
pub(super) struct JointBlock {
    norm1: Modulation,
    attn: JointAttention,
    /// the second attention of a dual block
    attn2: Option<SelfAttention>,
    ff: FeedForward,
    text: TextStream,
}

impl JointBlock {
    /// Reads block number `layer` below `vb`.
    pub(super) fn load(config: &Sd3Config, layer: usize, vb: &Params) -> Result<Self> {
        let width = config.width();
        let is_last = layer + 1 == config.layers;
        let is_dual = config.dual_layers.contains(&layer);
        let second = || SelfAttention::load(config, &vb.pp("attn2"));
        let of_text = || FeedForward::load(width, &vb.pp("ff_context"));
        Ok(Self {
            norm1: Modulation::load(width, if is_dual { 9 } else { 6 }, &vb.pp("norm1"))?,
            attn: JointAttention::load(config, is_last, &vb.pp("attn"))?,
            attn2: is_dual.then(second).transpose()?,
            ff: FeedForward::load(width, &vb.pp("ff"))?,
            text: TextStream {
                norm1: Modulation::load(
                    width,
                    if is_last { 2 } else { 6 },
                    &vb.pp("norm1_context"),
                )?,
                ff: (!is_last).then(of_text).transpose()?,
            },
        })
    }

    /// `x` `[B, N, width]` of `size` patches, `context` `[B, M, width]`, `emb` `[B, width]` after SiLU → both after the
    /// block, the text's unless it ends here.
    pub(super) fn forward(
        &self,
        x: &Activation,
        context: &Activation,
        emb: &Activation,
        size: (usize, usize),
        cursor: &mut PriorCursor,
    ) -> Result<(Activation, Option<Activation>)> {
        // Shift, scale and gate of the attention, of the feed-forward network, and of the second attention.
        let own = self.norm1.rows(emb)?;
        let of_text = self.text.norm1.rows(emb)?;
        let normed = modulated_norm(x, &own[1], &own[0], NORM_EPS)?;
        // Of the last block the scale stands first.
        let (scale, shift) = if self.text.ff.is_some() { (1, 0) } else { (0, 1) };
        let text_normed = modulated_norm(context, &of_text[scale], &of_text[shift], NORM_EPS)?;
        let (attended, text_attended) = self.attn.forward(&normed, &text_normed, size, cursor)?;
        drop((normed, text_normed));
        let mut y = add_gated(x, &attended, &own[2])?;
        drop(attended);
        if let Some(second) = &self.attn2 {
            let attended = second.forward(&modulated_norm(x, &own[7], &own[6], NORM_EPS)?)?;
            y = add_gated(&y, &attended, &own[8])?;
        }
        let y = feed_forward(&self.ff, y, &own[3..6])?;
        let context = match (&self.text.ff, text_attended) {
            (Some(ff), Some(attended)) => {
                let context = add_gated(context, &attended, &of_text[2])?;
                drop(attended);
                Some(feed_forward(ff, context, &of_text[3..6])?)
            }
            _ => None,
        };
        Ok((y, context))
    }
}

/// The second half of a block, with shift, scale and gate.
fn feed_forward(ff: &FeedForward, x: Activation, rows: &[Activation]) -> Result<Activation> {
    let [shift, scale, gate] = rows else { candle_core::bail!("sd3: {} rows", rows.len()) };
    let y = ff.forward(&modulated_norm(&x, scale, shift, NORM_EPS)?)?;
    add_gated(&x, &y, gate)
}
