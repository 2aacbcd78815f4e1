//! Embedding of timesteps and other numbers, which every family's network begins with: sinusoidal features, and the
//! small network behind them.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::backend::ops::{Linear, silu};
use crate::backend::{Activation, Params, Trace};

/// Sinusoidal features of positions (`get_timestep_embedding`), always in f32: a half-precision
/// timestep would not even hold 999.5, let alone its phases.
#[derive(Clone, Debug)]
pub(super) struct Sinusoids {
    /// `[features / 2]`, f32
    frequencies: Tensor,
    flip_sin_to_cos: bool,
}

impl Sinusoids {
    pub(super) fn new(
        features: usize,
        flip_sin_to_cos: bool,
        freq_shift: f64,
        device: &Device,
    ) -> Result<Self> {
        if features == 0 || !features.is_multiple_of(2) {
            candle_core::bail!("denoiser: {features} sinusoidal features are not an even number");
        }
        let half = features / 2;
        // In f32 and in this order, as the reference computes them.
        let step = -(1e4_f64.ln()) as f32;
        let frequencies: Vec<f32> = (0..half)
            .map(|index| (step * index as f32 / (half as f64 - freq_shift) as f32).exp())
            .collect();
        Ok(Self { frequencies: Tensor::from_vec(frequencies, half, device)?, flip_sin_to_cos })
    }

    /// The features of one timestep for so many samples, `[batch, features]`, f32.
    pub(super) fn of_timestep(
        &self,
        timestep: f64,
        batch: usize,
        trace: Option<&Trace>,
    ) -> Result<Activation> {
        let timesteps = Activation::make(trace, batch, DType::F32, || {
            Tensor::full(timestep as f32, batch, self.device())
        })?;
        self.forward(&timesteps)
    }

    /// The device that it is on.
    pub(super) fn device(&self) -> &Device {
        self.frequencies.device()
    }

    /// `[…]` → `[…, features]`, f32.
    pub(super) fn forward(&self, positions: &Activation) -> Result<Activation> {
        let phases = positions
            .to_dtype(DType::F32)?
            .unsqueeze(D::Minus1)?
            .broadcast_mul(&(&self.frequencies).into())?;
        let (sine, cosine) = (phases.sin()?, phases.cos()?);
        let order = if self.flip_sin_to_cos { [&cosine, &sine] } else { [&sine, &cosine] };
        Activation::cat(&order, D::Minus1)
    }
}

/// Dense, SiLU, dense (`TimestepEmbedding`; `PixArtAlphaTextProjection` with `act_fn="silu"`).
#[derive(Clone, Debug)]
pub(super) struct EmbeddingMlp {
    linear_1: Linear,
    linear_2: Linear,
}

impl EmbeddingMlp {
    pub(super) fn load(input: usize, width: usize, vb: &Params) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::load(input, width, &vb.pp("linear_1"))?,
            linear_2: Linear::load(width, width, &vb.pp("linear_2"))?,
        })
    }

    /// The same of layers without a bias.
    pub(super) fn load_no_bias(input: usize, width: usize, vb: &Params) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::load_no_bias(input, width, &vb.pp("linear_1"))?,
            linear_2: Linear::load_no_bias(width, width, &vb.pp("linear_2"))?,
        })
    }

    pub(super) fn forward(&self, x: &Activation) -> Result<Activation> {
        self.linear_2.forward(&silu(&self.linear_1.forward(x)?)?)
    }
}
