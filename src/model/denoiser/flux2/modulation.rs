//! Shifts, scales and gates that follow from the timestep (`Flux2Modulation`). Blocks of one kind share them, so a call makes
//! them once.

use candle_core::{DType, Result};

use super::config::Flux2Config;
use crate::backend::ops::{Linear, add_gated, modulated_norm};
use crate::backend::{Activation, MatmulPrecision, Params};

/// What makes `N` rows of numbers for each sample.
#[derive(Clone, Debug)]
pub(super) struct Modulation<const N: usize>(Linear);

impl<const N: usize> Modulation<N> {
    /// Reads the dense layer `linear` below `vb`.
    pub(super) fn load(config: &Flux2Config, vb: &Params) -> Result<Self> {
        let width = config.width();
        // It acts on one vector for the whole picture: no rounding of it averages out.
        let exact = vb.with_precision(MatmulPrecision::F32);
        Ok(Self(Linear::load_no_bias(width, N * width, &exact.pp("linear"))?))
    }

    /// The rows, `[B, width]` each, for the embedding `[B, width]` after SiLU.
    pub(super) fn rows(&self, emb: &Activation) -> Result<Vec<Activation>> {
        let all = self.0.forward(emb)?;
        let width = all.dim(1)? / N;
        (0..N).map(|row| all.narrow(1, row * width, width)?.contiguous()).collect()
    }
}

/// Shift, scale and gate of one half of a block, `[B, width]` each.
#[derive(Debug)]
pub(super) struct Rows {
    shift: Activation,
    scale: Activation,
    gate: Activation,
    eps: f64,
}

impl Rows {
    /// Those of each half of a block, of rows in the order of [`Modulation::rows`].
    pub(super) fn of_halves(rows: &[Activation], eps: f64) -> Vec<Self> {
        let half = |rows: &[Activation; 3]| {
            let [shift, scale, gate] = rows.clone();
            Self { shift, scale, gate, eps }
        };
        rows.as_chunks().0.iter().map(half).collect()
    }

    /// `x` `[B, N, width]` normed, scaled and shifted.
    pub(super) fn normed(&self, x: &Activation) -> Result<Activation> {
        modulated_norm(x, &self.scale, &self.shift, self.eps)
    }

    /// `x + gate·y`
    pub(super) fn added(&self, x: &Activation, y: &Activation) -> Result<Activation> {
        add_gated(x, y, &self.gate)
    }
}

/// The largest number of f16, which sums of it do not leave, as in the reference.
pub(super) fn in_range(x: Activation) -> Result<Activation> {
    match x.dtype() {
        DType::F16 => x.limited(65_504.0),
        _ => Ok(x),
    }
}
