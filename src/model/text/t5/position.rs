//! T5's positions: a learned bias of the attention's scores by how far apart two tokens are, in buckets that grow with
//! the distance (transformers `T5Attention._relative_position_bucket`).

use candle_core::{DType, Result};

use super::config::T5Config;
use crate::backend::ops::Embedding;
use crate::backend::{Activation, Params, Trace};

/// A table of biases, `[buckets, heads]`.
#[derive(Clone, Debug)]
pub(super) struct RelativePosition {
    table: Embedding,
    heads: usize,
    buckets: usize,
    max_distance: usize,
}

impl RelativePosition {
    /// Reads `weight` below `vb`.
    pub(super) fn load(config: &T5Config, vb: &Params) -> Result<Self> {
        let buckets = config.relative_attention_num_buckets;
        Ok(Self {
            table: Embedding::load(buckets, config.num_heads, vb)?,
            heads: config.num_heads,
            buckets,
            max_distance: config.relative_attention_max_distance,
        })
    }

    /// The biases of so many tokens, `[heads, length, length]`, f32: of the scores of a query, the row, for a key, the
    /// column.
    pub(super) fn bias(&self, length: usize, trace: Option<&Trace>) -> Result<Activation> {
        let tokens = 0..length as isize;
        let pairs = tokens.clone().flat_map(|query| tokens.clone().map(move |key| key - query));
        let buckets: Vec<u32> = pairs.map(|distance| self.bucket(distance)).collect();
        let rows = self.table.forward(&buckets, trace)?.to_dtype(DType::F32)?;
        rows.t()?.contiguous()?.reshape((self.heads, length, length))
    }

    /// The bucket of a key that lies `distance` tokens behind its query: half of them for each direction, of which
    /// half are for one distance each and the others grow, up to `max_distance`, with its logarithm.
    fn bucket(&self, distance: isize) -> u32 {
        let half = self.buckets / 2;
        let behind = if distance > 0 { half } else { 0 };
        let distance = distance.unsigned_abs();
        let exact = half / 2;
        let bucket = if distance < exact {
            distance
        } else {
            // f32 as in transformers, which decides where a logarithm is a whole number.
            let position = (distance as f32 / exact as f32).ln();
            let whole = (self.max_distance as f64 / exact as f64).ln() as f32;
            let beyond = position / whole * (half - exact) as f32;
            (exact + beyond as usize).min(half - 1)
        };
        (behind + bucket) as u32
    }
}
