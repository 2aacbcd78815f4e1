//! The embedding vector of a UNet, beside the picture and the tokens: the timestep, for SDXL the
//! pooled text embedding and the micro-conditioning numbers, and for a latent consistency model the strength of the
//! guidance that it was distilled with, all summed into one vector per sample.

use candle_core::{D, DType, Result, Tensor};

use super::config::{TextTimeConfig, TimeConfig};
use crate::backend::ops::Linear;
use crate::backend::{Activation, Params, Trace};
use crate::model::denoiser::conditioning::MicroConditioning;
use crate::model::denoiser::timestep::{EmbeddingMlp, Sinusoids};

/// The embedding of the timestep, and of SDXL's added conditions where the model has them.
#[derive(Clone, Debug)]
pub(super) struct UNetEmbedding {
    time_proj: Sinusoids,
    time_embedding: EmbeddingMlp,
    guidance: Option<GuidanceEmbedding>,
    added: Option<AddedEmbedding>,
    dtype: DType,
}

/// What is added to the features of the timestep (`TimestepEmbedding` with `cond_proj_dim`).
#[derive(Clone, Debug)]
struct GuidanceEmbedding {
    features: Sinusoids,
    projection: Linear,
}

/// Numbers of sizes and places, which come before that of the guidance.
const PICTURE_NUMBERS: usize = 6;

/// Factor of the guidance in its features (diffusers `get_guidance_scale_embedding`).
const GUIDANCE_FACTOR: f32 = 1000.0;

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
            guidance: time
                .guidance_features
                .map(|features| {
                    let vb = vb.pp("time_embedding").pp("cond_proj");
                    Ok::<_, candle_core::Error>(GuidanceEmbedding {
                        // Sines first, whatever the timestep has.
                        features: Sinusoids::new(features, false, 1.0, vb.device())?,
                        projection: Linear::load_no_bias(features, time.features, &vb)?,
                    })
                })
                .transpose()?,
            added,
            dtype: vb.dtype(),
        })
    }

    /// `true` for a model that takes a pooled text embedding and the numbers of sizes and places.
    pub(super) fn has_added(&self) -> bool {
        self.added.is_some()
    }

    /// `true` for a model that is given the strength of guidance.
    pub(super) fn has_guidance(&self) -> bool {
        self.guidance.is_some()
    }

    /// The numbers for so many samples, `[rows, numbers]`, f32: the six of `micro` for models that take them, then
    /// that of the guidance, which is none until [`with_guidance`](Self::with_guidance) says so.
    pub(super) fn micro(
        &self,
        micro: MicroConditioning,
        rows: usize,
        trace: Option<&Trace>,
    ) -> Result<Option<Activation>> {
        let of_picture = self.added.iter().flat_map(|_| micro.numbers());
        let of_guidance = self.guidance.iter().map(|_| 0.0);
        let numbers: Vec<f32> = of_picture.chain(of_guidance).collect();
        if numbers.is_empty() {
            return Ok(None);
        }
        let shape = (rows, numbers.len());
        Activation::make(trace, shape, DType::F32, || {
            Tensor::from_vec(numbers.repeat(rows), shape, self.time_proj.device())
        })
        .map(Some)
    }

    /// The same numbers with this strength of guidance.
    pub(super) fn with_guidance(&self, micro: &Activation, scale: f64) -> Result<Activation> {
        let (rows, numbers) = micro.dims2()?;
        let own = Activation::make(micro.trace(), (rows, 1), DType::F32, || {
            // As a pipeline has it: 1 is none.
            let guidance = (scale - 1.0) as f32 * GUIDANCE_FACTOR;
            Tensor::full(guidance, (rows, 1), self.time_proj.device())
        })?;
        match numbers {
            1 => Ok(own),
            _ => Activation::cat(&[&micro.narrow(1, 0, numbers - 1)?, &own], 1),
        }
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
        let mut features =
            self.time_proj.of_timestep(timestep, batch, trace)?.to_dtype(self.dtype)?;
        let count = micro.map(|numbers| numbers.dim(1)).transpose()?.unwrap_or(0);
        if let Some(GuidanceEmbedding { features: sinusoids, projection }) = &self.guidance {
            let Some(numbers) = micro else {
                candle_core::bail!("unet: the model is given the strength of guidance");
            };
            let guidance = numbers.narrow(1, count - 1, 1)?.reshape(batch)?;
            let guidance = sinusoids.forward(&guidance)?.to_dtype(self.dtype)?;
            features = features.add(&projection.forward(&guidance)?)?;
        }
        // A control beside a model that is given its guidance is not given it.
        let micro = match micro {
            Some(numbers) if count > PICTURE_NUMBERS => {
                Some(numbers.narrow(1, 0, PICTURE_NUMBERS)?)
            }
            other => other.cloned(),
        };
        let embedded = self.time_embedding.forward(&features)?;
        let Some(added) = &self.added else { return Ok(embedded) };
        let (Some(pooled), Some(micro)) = (pooled, &micro) else {
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
