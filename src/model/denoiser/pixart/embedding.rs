//! What a PixArt transformer knows beside picture and text: the timestep and, for some, the picture's size, in six
//! vectors that scale, shift and gate every block (diffusers' `AdaLayerNormSingle`).

use candle_core::{DType, Result, Tensor};

use super::config::PixArtConfig;
use crate::backend::ops::{Linear, silu};
use crate::backend::{Activation, Params, Trace};
use crate::model::denoiser::{
    conditioning::MicroConditioning,
    timestep::{EmbeddingMlp, Sinusoids},
};

/// Sinusoidal features of each number.
const FEATURES: usize = 256;
/// Numbers of the size micro-conditioning: height, width and their ratio.
const SIZE_NUMBERS: usize = 3;

/// Embedding of the timestep, and of the picture's size where the model has it.
#[derive(Clone, Debug)]
pub(super) struct AdaLayerNormSingle {
    sinusoids: Sinusoids,
    timestep: EmbeddingMlp,
    size: Option<SizeEmbedding>,
    linear: Linear,
    width: usize,
    dtype: DType,
}

#[derive(Clone, Debug)]
struct SizeEmbedding {
    resolution: EmbeddingMlp,
    aspect_ratio: EmbeddingMlp,
}

impl AdaLayerNormSingle {
    pub(super) fn load(config: &PixArtConfig, vb: &Params) -> Result<Self> {
        let width = config.width();
        let emb = vb.pp("emb");
        let of_number =
            |width: usize, name: &str| EmbeddingMlp::load(FEATURES, width, &emb.pp(name));
        let size = config.size_conditioned.then(|| {
            Ok::<_, candle_core::Error>(SizeEmbedding {
                resolution: of_number(width / SIZE_NUMBERS, "resolution_embedder")?,
                aspect_ratio: of_number(width / SIZE_NUMBERS, "aspect_ratio_embedder")?,
            })
        });
        Ok(Self {
            sinusoids: Sinusoids::new(FEATURES, true, 0.0, vb.device())?,
            timestep: of_number(width, "timestep_embedder")?,
            size: size.transpose()?,
            linear: Linear::load(width, 6 * width, &vb.pp("linear"))?,
            width,
            dtype: vb.dtype(),
        })
    }

    /// The numbers of `micro` for so many samples, `[rows, 3]`, f32, for models that take them.
    pub(super) fn micro(
        &self,
        micro: MicroConditioning,
        rows: usize,
        trace: Option<&Trace>,
    ) -> Result<Option<Activation>> {
        if self.size.is_none() {
            return Ok(None);
        }
        let (height, width) = micro.target;
        let numbers = [height as f32, width as f32, (height as f64 / width.max(1) as f64) as f32];
        let shape = (rows, SIZE_NUMBERS);
        Activation::make(trace, shape, DType::F32, || {
            Tensor::from_vec(numbers.repeat(rows), shape, self.sinusoids.device())
        })
        .map(Some)
    }

    /// The six vectors of every sample, `[B, 6, width]`, and the embedding that they are made of, `[B, width]`, in the
    /// model's dtype.
    pub(super) fn forward(
        &self,
        timestep: f64,
        batch: usize,
        micro: Option<&Activation>,
        trace: Option<&Trace>,
    ) -> Result<(Activation, Activation)> {
        let features = self.sinusoids.of_timestep(timestep, batch, trace)?.to_dtype(self.dtype)?;
        let mut embedded = self.timestep.forward(&features)?;
        if let Some(size) = &self.size {
            let Some(micro) = micro.filter(|it| it.dims() == [batch, SIZE_NUMBERS]) else {
                candle_core::bail!("pixart: the model takes the picture's size for each sample");
            };
            let features = self.sinusoids.forward(micro)?.to_dtype(self.dtype)?;
            let sides = size.resolution.forward(&features.narrow(1, 0, 2)?.contiguous()?)?;
            let ratio = size.aspect_ratio.forward(&features.narrow(1, 2, 1)?.contiguous()?)?;
            let sizes = Activation::cat(&[&sides, &ratio], 1)?.reshape((batch, self.width))?;
            embedded = embedded.add(&sizes)?;
        }
        let vectors = self.linear.forward(&silu(&embedded)?)?.reshape((batch, 6, self.width))?;
        Ok((vectors, embedded))
    }
}
