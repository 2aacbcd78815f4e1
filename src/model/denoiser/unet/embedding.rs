//! The embedding vector of a UNet, beside the picture and the tokens: the timestep, and for SDXL the
//! pooled text embedding and the micro-conditioning numbers, all summed into one vector per sample.

use candle_core::{D, DType, Device, Result, Tensor};

use super::config::{TextTimeConfig, TimeConfig};
use crate::backend::ops::{Linear, silu};
use crate::backend::{Activation, Params, Trace};
use crate::model::denoiser::conditioning::MicroConditioning;

/// Sinusoidal features of positions (`get_timestep_embedding`), always in f32: a half-precision
/// timestep would not even hold 999.5, let alone its phases.
#[derive(Clone, Debug)]
struct Sinusoids {
    /// `[features / 2]`, f32
    frequencies: Tensor,
    flip_sin_to_cos: bool,
}

impl Sinusoids {
    fn new(
        features: usize,
        flip_sin_to_cos: bool,
        freq_shift: f64,
        device: &Device,
    ) -> Result<Self> {
        if features == 0 || !features.is_multiple_of(2) {
            candle_core::bail!("unet: {features} sinusoidal features are not an even number");
        }
        let half = features / 2;
        // In f32 and in this order, as the reference computes them.
        let step = -(1e4_f64.ln()) as f32;
        let frequencies: Vec<f32> = (0..half)
            .map(|index| (step * index as f32 / (half as f64 - freq_shift) as f32).exp())
            .collect();
        Ok(Self { frequencies: Tensor::from_vec(frequencies, half, device)?, flip_sin_to_cos })
    }

    /// `[…]` → `[…, features]`, f32.
    fn forward(&self, positions: &Activation) -> Result<Activation> {
        let phases = positions
            .to_dtype(DType::F32)?
            .unsqueeze(D::Minus1)?
            .broadcast_mul(&(&self.frequencies).into())?;
        let (sine, cosine) = (phases.sin()?, phases.cos()?);
        let order = if self.flip_sin_to_cos { [&cosine, &sine] } else { [&sine, &cosine] };
        Activation::cat(&order, D::Minus1)
    }
}

/// Dense, SiLU, dense (`TimestepEmbedding`).
#[derive(Clone, Debug)]
struct Mlp {
    linear_1: Linear,
    linear_2: Linear,
}

impl Mlp {
    fn load(input: usize, width: usize, vb: &Params) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::load(input, width, &vb.pp("linear_1"))?,
            linear_2: Linear::load(width, width, &vb.pp("linear_2"))?,
        })
    }

    fn forward(&self, x: &Activation) -> Result<Activation> {
        self.linear_2.forward(&silu(&self.linear_1.forward(x)?)?)
    }
}

/// The embedding of the timestep, and of SDXL's added conditions where the model has them.
#[derive(Clone, Debug)]
pub(super) struct UNetEmbedding {
    time_proj: Sinusoids,
    time_embedding: Mlp,
    added: Option<AddedEmbedding>,
    dtype: DType,
}

#[derive(Clone, Debug)]
struct AddedEmbedding {
    time_proj: Sinusoids,
    embedding: Mlp,
    input_width: usize,
}

impl UNetEmbedding {
    pub(super) fn load(
        time: &TimeConfig,
        added: Option<&TextTimeConfig>,
        vb: &Params,
    ) -> Result<Self> {
        let sinusoids = |features: usize| {
            Sinusoids::new(features, time.flip_sin_to_cos, time.freq_shift, vb.device())
        };
        let added = added
            .map(|added| {
                Ok::<_, candle_core::Error>(AddedEmbedding {
                    time_proj: sinusoids(added.features)?,
                    embedding: Mlp::load(added.input_width, time.width, &vb.pp("add_embedding"))?,
                    input_width: added.input_width,
                })
            })
            .transpose()?;
        Ok(Self {
            time_proj: sinusoids(time.features)?,
            time_embedding: Mlp::load(time.features, time.width, &vb.pp("time_embedding"))?,
            added,
            dtype: vb.dtype(),
        })
    }

    /// The numbers of `micro` for so many samples, `[rows, 6]`, f32, for models that take them.
    pub(super) fn micro(
        &self,
        micro: MicroConditioning,
        rows: usize,
        trace: Option<&Trace>,
    ) -> Result<Option<Activation>> {
        let Some(added) = &self.added else { return Ok(None) };
        let numbers = micro.numbers();
        let shape = (rows, numbers.len());
        Activation::make(trace, shape, DType::F32, || {
            Tensor::from_vec(numbers.repeat(rows), shape, added.time_proj.frequencies.device())
        })
        .map(Some)
    }

    /// `[B, width]` in the model's dtype.
    pub(super) fn forward(
        &self,
        timestep: f64,
        batch: usize,
        pooled: Option<&Activation>,
        micro: Option<&Activation>,
        trace: Option<&Trace>,
    ) -> Result<Activation> {
        let device = self.time_proj.frequencies.device();
        let timesteps = Activation::make(trace, batch, DType::F32, || {
            Tensor::full(timestep as f32, batch, device)
        })?;
        let features = self.time_proj.forward(&timesteps)?.to_dtype(self.dtype)?;
        let embedded = self.time_embedding.forward(&features)?;
        let Some(added) = &self.added else { return Ok(embedded) };
        let (Some(pooled), Some(micro)) = (pooled, micro) else {
            candle_core::bail!(
                "unet: the model has text_time conditioning: it needs a pooled text embedding and time ids"
            );
        };
        let (rows, numbers) = micro.dims2()?;
        let (pooled_rows, pooled_width) = pooled.dims2()?;
        let features = added.time_proj.forward(micro)?;
        let width = numbers * features.dim(D::Minus1)?;
        if rows != batch || pooled_rows != batch || pooled_width + width != added.input_width {
            candle_core::bail!(
                "unet: pooled {:?} and time ids {:?} do not make [{batch}, {}]",
                pooled.shape(),
                micro.shape(),
                added.input_width
            );
        }
        let features = features.reshape((batch, width))?.to_dtype(self.dtype)?;
        let joined = Activation::cat(&[&pooled.to_dtype(self.dtype)?, &features], D::Minus1)?;
        embedded.add(&added.embedding.forward(&joined)?)
    }
}
