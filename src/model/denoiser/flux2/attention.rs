//! What the attention of both kinds of blocks shares: queries and keys that are normed and turned, and for the attention prior
//! the two parts of what a token of the picture gets (docs/method.md §5b).

use candle_core::Result;

use super::config::Flux2Config;
use crate::backend::ops::{Mask, RmsNorm, add, attention, attention_parts};
use crate::backend::{Activation, MatmulPrecision, Params};
use crate::model::denoiser::{prior::PriorCursor, rotary::Angles};

/// Queries, keys and values of some tokens, `[B, N, width]` each.
#[derive(Debug)]
pub(super) struct Qkv {
    pub q: Activation,
    pub k: Activation,
    pub v: Activation,
}

impl Qkv {
    /// Those of some tokens in a row.
    pub(super) fn part(&self, start: usize, tokens: usize) -> Result<Self> {
        let part = |x: &Activation| x.narrow(1, start, tokens)?.contiguous();
        Ok(Self { q: part(&self.q)?, k: part(&self.k)?, v: part(&self.v)? })
    }
}

/// Norms of the heads of queries and keys, and the heads.
#[derive(Clone, Debug)]
pub(super) struct Heads {
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    pub count: usize,
}

impl Heads {
    /// Reads the norms of these names below `vb`.
    pub(super) fn load(config: &Flux2Config, names: [&str; 2], vb: &Params) -> Result<Self> {
        let norm = |name: &str| RmsNorm::load(config.head_width, config.eps, &vb.pp(name));
        Ok(Self { q_norm: norm(names[0])?, k_norm: norm(names[1])?, count: config.heads })
    }

    /// Queries and keys as projections give them, normed and turned.
    pub(super) fn turned(&self, x: Qkv, angles: &Angles) -> Result<Qkv> {
        let turned = |x: Activation, norm: &RmsNorm| {
            let (batch, tokens, width) = x.dims3()?;
            let heads = x.reshape((batch, tokens, self.count, width / self.count))?;
            drop(x);
            let normed = norm.forward(&heads)?;
            drop(heads);
            angles.turned(&normed)
        };
        let Qkv { q, k, v } = x;
        Ok(Qkv { q: turned(q, &self.q_norm)?, k: turned(k, &self.k_norm)?, v })
    }
}

/// Attention in which what the text contributes to the picture's tokens goes through the prior: what the text's tokens get
/// of all, and what the picture's do. `all` has the keys and values of both.
pub(super) fn with_prior(
    [text, picture]: [&Qkv; 2],
    all: [&Activation; 2],
    heads: usize,
    precision: MatmulPrecision,
    (rows, columns): (usize, usize),
    cursor: &mut PriorCursor,
) -> Result<[Activation; 2]> {
    let sets = [[&picture.k, &picture.v], [&text.k, &text.v]];
    let [own, of_text] = attention_parts(&picture.q, sets, heads, precision)?;
    let picture = add(&own, &cursor.visit(of_text, rows, columns)?)?;
    drop(own);
    let [k, v] = all;
    Ok([attention(&text.q, k, v, heads, Mask::None, precision)?, picture])
}
