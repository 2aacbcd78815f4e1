//! A block of two streams (`Flux2TransformerBlock`): the tokens of the picture and of the text, each with weights of their own,
//! attend to all of both, and go through a feed-forward network.

use candle_core::{D, Result};

use super::attention::{Heads, Qkv, with_prior};
use super::config::Flux2Config;
use super::modulation::{Rows, in_range};
use crate::backend::ops::{Linear, Mask, attention, swiglu};
use crate::backend::{Activation, MatmulPrecision, Params};
use crate::model::denoiser::{prior::PriorCursor, rotary::Angles};

/// Names of what a stream has in a block.
struct Names {
    q: &'static str,
    k: &'static str,
    v: &'static str,
    out: &'static str,
    norms: [&'static str; 2],
    feed_forward: &'static str,
}

const PICTURE: Names = Names {
    q: "to_q",
    k: "to_k",
    v: "to_v",
    out: "to_out.0",
    norms: ["norm_q", "norm_k"],
    feed_forward: "ff",
};

const TEXT: Names = Names {
    q: "add_q_proj",
    k: "add_k_proj",
    v: "add_v_proj",
    out: "to_add_out",
    norms: ["norm_added_q", "norm_added_k"],
    feed_forward: "ff_context",
};

/// What the tokens of one stream have in a block.
#[derive(Clone, Debug)]
struct Stream {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: Heads,
    feed_forward: [Linear; 2],
}

impl Stream {
    fn load(config: &Flux2Config, names: &Names, vb: &Params) -> Result<Self> {
        let (width, inner) = (config.width(), config.inner);
        let (attn, ff) = (vb.pp("attn"), vb.pp(names.feed_forward));
        let linear = |name: &str| Linear::load_no_bias(width, width, &attn.pp(name));
        Ok(Self {
            to_q: linear(names.q)?,
            to_k: linear(names.k)?,
            to_v: linear(names.v)?,
            to_out: linear(names.out)?,
            heads: Heads::load(config, names.norms, &attn)?,
            feed_forward: [
                Linear::load_no_bias(width, 2 * inner, &ff.pp("linear_in"))?,
                Linear::load_no_bias(inner, width, &ff.pp("linear_out"))?,
            ],
        })
    }

    /// Queries, keys and values of normed tokens `[B, N, width]`.
    fn qkv(&self, x: &Activation, angles: &Angles) -> Result<Qkv> {
        let (q, k, v) = (self.to_q.forward(x)?, self.to_k.forward(x)?, self.to_v.forward(x)?);
        self.heads.turned(Qkv { q, k, v }, angles)
    }

    /// The tokens after the block: `mixed` is what attention gave.
    fn go_on(&self, x: &Activation, mixed: Activation, rows: &[Rows]) -> Result<Activation> {
        let [attention, dense] = rows else { candle_core::bail!("flux.2: {} halves", rows.len()) };
        let attended = self.to_out.forward(&mixed)?;
        drop(mixed);
        let x = attention.added(x, &attended)?;
        drop(attended);
        let inner = self.feed_forward[0].forward(&dense.normed(&x)?)?;
        let half = inner.dim(D::Minus1)? / 2;
        let (gate, value) =
            (inner.narrow(D::Minus1, 0, half)?, inner.narrow(D::Minus1, half, half)?);
        drop(inner);
        let y = swiglu(&gate, &value)?;
        drop((gate, value));
        let y = self.feed_forward[1].forward(&y)?;
        dense.added(&x, &y)
    }
}

/// Text and picture of one call: tokens, their shifts, scales and gates, and their angles.
pub(super) struct Streams<'a> {
    pub rows: [&'a [Rows]; 2],
    pub angles: [&'a Angles; 2],
    /// rows and columns of the picture
    pub size: (usize, usize),
}

/// The block.
#[derive(Clone, Debug)]
pub(super) struct DoubleBlock {
    text: Stream,
    picture: Stream,
    precision: MatmulPrecision,
}

impl DoubleBlock {
    /// Reads the tensors below `vb`.
    pub(super) fn load(config: &Flux2Config, vb: &Params) -> Result<Self> {
        Ok(Self {
            text: Stream::load(config, &TEXT, vb)?,
            picture: Stream::load(config, &PICTURE, vb)?,
            precision: vb.precision(),
        })
    }

    /// Tokens of the text `[B, M, width]` and of the picture `[B, N, width]` → both after the block.
    pub(super) fn forward(
        &self,
        [text, picture]: [&Activation; 2],
        streams: &Streams<'_>,
        cursor: &mut PriorCursor,
    ) -> Result<[Activation; 2]> {
        let [text_rows, picture_rows] = streams.rows;
        let [text_angles, picture_angles] = streams.angles;
        let own = self.picture.qkv(&picture_rows[0].normed(picture)?, picture_angles)?;
        let of_text = self.text.qkv(&text_rows[0].normed(text)?, text_angles)?;
        let k = Activation::cat(&[&of_text.k, &own.k], 1)?;
        let v = Activation::cat(&[&of_text.v, &own.v], 1)?;
        let (heads, precision) = (self.picture.heads.count, self.precision);
        let [text_mixed, picture_mixed] = if cursor.is_used() {
            let size = streams.size;
            with_prior([&of_text, &own], [&k, &v], heads, precision, size, cursor)?
        } else {
            let (text_q, picture_q) = (of_text.q, own.q);
            drop((of_text.k, of_text.v, own.k, own.v));
            let attend = |q: &Activation| attention(q, &k, &v, heads, Mask::None, precision);
            [attend(&text_q)?, attend(&picture_q)?]
        };
        drop((k, v));
        let picture = self.picture.go_on(picture, picture_mixed, picture_rows)?;
        let text = self.text.go_on(text, text_mixed, text_rows)?;
        Ok([in_range(text)?, picture])
    }
}
