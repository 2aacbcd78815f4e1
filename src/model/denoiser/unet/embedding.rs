//! The embedding vector of a UNet, beside the picture and the tokens: the timestep, and for SDXL the
//! pooled text embedding and the micro-conditioning numbers, all summed into one vector per sample.

use candle_core::{D, DType, Result, Tensor};

use super::config::{TextTimeConfig, TimeConfig};
use crate::backend::{Activation, Params, Trace};
use crate::model::denoiser::conditioning::MicroConditioning;
use crate::model::denoiser::timestep::{EmbeddingMlp, Sinusoids};

/// The embedding of the timestep, and of SDXL's added conditions where the model has them.
#[derive(Clone, Debug)]
pub(super) struct UNetEmbedding {
    time_proj: Sinusoids,
    time_embedding: EmbeddingMlp,
    added: Option<AddedEmbedding>,
    dtype: DType,
}

#[derive(Clone, Debug)]
struct AddedEmbedding {
    time_proj: Sinusoids,
    embedding: EmbeddingMlp,
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
                    embedding: EmbeddingMlp::load(
                        added.input_width,
                        time.width,
                        &vb.pp("add_embedding"),
                    )?,
                    input_width: added.input_width,
                })
            })
            .transpose()?;
        Ok(Self {
            time_proj: sinusoids(time.features)?,
            time_embedding: EmbeddingMlp::load(
                time.features,
                time.width,
                &vb.pp("time_embedding"),
            )?,
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
            Tensor::from_vec(numbers.repeat(rows), shape, added.time_proj.device())
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
        let features = self.time_proj.of_timestep(timestep, batch, trace)?.to_dtype(self.dtype)?;
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
