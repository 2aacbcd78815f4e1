//! Keys and values of the tokens so far, for a batch of sequences of one length. Room for all tokens is
//! taken at once, so that a step writes its own and moves nothing; memory is
//! `2 · layers · rows · capacity · key width` numbers.

use candle_core::{DType, Device, Result, Tensor};

use super::config::DecoderConfig;
use crate::backend::{Activation, Trace};

/// The cache of a batch.
#[derive(Clone, Debug)]
pub(super) struct KvCache {
    /// keys and values of each layer, `[rows, capacity, key width]`
    layers: Vec<[Activation; 2]>,
    rows: usize,
    capacity: usize,
}

impl KvCache {
    /// Zeros for `rows` sequences of `capacity` tokens; within `trace` their shape alone.
    pub(super) fn new(
        config: &DecoderConfig,
        (rows, capacity): (usize, usize),
        dtype: DType,
        device: &Device,
        trace: Option<&Trace>,
    ) -> Result<Self> {
        let shape = (rows, capacity, config.num_key_value_heads * config.head_dim);
        let zeros =
            || Activation::make(trace, shape, dtype, || Tensor::zeros(shape, dtype, device));
        let layer = |_| Ok([zeros()?, zeros()?]);
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, rows, capacity })
    }

    /// Sequences.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Takes over the first `count` tokens of a cache of one row, for all rows.
    pub(super) fn begin_with(&self, other: &Self, count: usize) -> Result<()> {
        for (ours, theirs) in self.layers.iter().zip(&other.layers) {
            for (ours, theirs) in ours.iter().zip(theirs) {
                let width = ours.dim(2)?;
                let flat = ours.reshape((self.rows * self.capacity, width))?;
                let theirs = theirs.get(0)?.narrow(0, 0, count)?.contiguous()?;
                for row in 0..self.rows {
                    flat.slice_set(&theirs, 0, row * self.capacity)?;
                }
            }
        }
        Ok(())
    }

    /// View of some rows, which shares the cache's memory.
    pub(super) fn slice(&self, first: usize, rows: usize) -> Result<Self> {
        let part = |x: &Activation| x.narrow(0, first, rows);
        let layers = self
            .layers
            .iter()
            .map(|[keys, values]| Ok([part(keys)?, part(values)?]))
            .collect::<Result<_>>()?;
        Ok(Self { layers, rows, capacity: self.capacity })
    }

    /// Copy of the rows with these indices, made layer by layer, so that there are never two whole caches.
    pub(super) fn compacted(self, rows: &[u32]) -> Result<Self> {
        let mut layers = Vec::with_capacity(self.layers.len());
        for [keys, values] in self.layers {
            layers.push([keys.index_select(rows, 0)?, values.index_select(rows, 0)?]);
        }
        Ok(Self { layers, rows: rows.len(), capacity: self.capacity })
    }

    /// Writes a layer's keys and values of the tokens from `past` on, `[rows, N, key width]`, and
    /// returns those of all tokens, `[rows, capacity, key width]`, with room behind them.
    pub(super) fn extend(
        &self,
        layer: usize,
        keys: &Activation,
        values: &Activation,
        past: usize,
    ) -> Result<(&Activation, &Activation)> {
        let [all_keys, all_values] = &self.layers[layer];
        all_keys.slice_set(&keys.contiguous()?, 1, past)?;
        all_values.slice_set(&values.contiguous()?, 1, past)?;
        Ok((all_keys, all_values))
    }
}
