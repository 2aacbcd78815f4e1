//! What goes into the transformer: patches of the sample with their positions, and the vector of timestep and pooled text
//! that modulates every block.

use candle_core::{DType, Result};

use super::config::Sd3Config;
use crate::backend::ops::{Conv2d, Embedding};
use crate::backend::{Activation, Params, Trace};
use crate::model::denoiser::timestep::{EmbeddingMlp, Sinusoids};

/// Sinusoidal features of a timestep, in every model.
const TIME_FEATURES: usize = 256;

/// `PatchEmbed` with a table of positions, of which a sample sees the middle.
#[derive(Clone, Debug)]
pub(super) struct PatchEmbedding {
    proj: Conv2d,
    /// a row for each place, rows of places from the top
    positions: Embedding,
    patch: usize,
    side: usize,
    width: usize,
    dtype: DType,
}

impl PatchEmbedding {
    pub(super) fn load(config: &Sd3Config, vb: &Params) -> Result<Self> {
        let (patch, side, width) = (config.patch_size, config.table_side, config.width());
        Ok(Self {
            proj: Conv2d::load(config.in_channels, width, patch, patch, 0, &vb.pp("proj"))?,
            positions: Embedding::load_named(side * side, width, "pos_embed", vb)?,
            patch,
            side,
            width,
            dtype: vb.dtype(),
        })
    }

    /// `[B, h, w, C]` → `[B, h/p·w/p, width]`.
    pub(super) fn forward(&self, sample: &Activation) -> Result<Activation> {
        let (batch, height, width, _) = sample.dims4()?;
        let (rows, columns) = (height / self.patch, width / self.patch);
        let is_whole = height.is_multiple_of(self.patch) && width.is_multiple_of(self.patch);
        if !is_whole || rows > self.side || columns > self.side {
            candle_core::bail!(
                "sd3: {height}×{width} latent pixels are no whole patches of {}, or more than {} of them a side",
                self.patch,
                self.side
            );
        }
        let (top, left) = ((self.side - rows) / 2, (self.side - columns) / 2);
        let places: Vec<u32> = (top..top + rows)
            .flat_map(|row| (left..left + columns).map(move |column| row * self.side + column))
            .map(|place| place as u32)
            .collect();
        let positions = self.positions.forward(&places, sample.trace())?.to_dtype(self.dtype)?;
        let patches = self.proj.forward(sample)?.reshape((batch, rows * columns, self.width))?;
        patches.broadcast_add(&positions.unsqueeze(0)?)
    }
}

/// `CombinedTimestepTextProjEmbeddings`.
#[derive(Clone, Debug)]
pub(super) struct TimeTextEmbedding {
    time_proj: Sinusoids,
    timestep_embedder: EmbeddingMlp,
    text_embedder: EmbeddingMlp,
    dtype: DType,
}

impl TimeTextEmbedding {
    pub(super) fn load(config: &Sd3Config, vb: &Params) -> Result<Self> {
        let width = config.width();
        let mlp = |input: usize, name: &str| EmbeddingMlp::load(input, width, &vb.pp(name));
        Ok(Self {
            time_proj: Sinusoids::new(TIME_FEATURES, true, 0.0, vb.device())?,
            timestep_embedder: mlp(TIME_FEATURES, "timestep_embedder")?,
            text_embedder: mlp(config.pooled_width, "text_embedder")?,
            dtype: vb.dtype(),
        })
    }

    /// `[B, width]` for a timestep and the pooled texts, `[B, P]`.
    pub(super) fn forward(
        &self,
        timestep: f64,
        pooled: &Activation,
        trace: Option<&Trace>,
    ) -> Result<Activation> {
        let batch = pooled.dim(0)?;
        let features = self.time_proj.of_timestep(timestep, batch, trace)?.to_dtype(self.dtype)?;
        let time = self.timestep_embedder.forward(&features)?;
        time.add(&self.text_embedder.forward(&pooled.to_dtype(self.dtype)?)?)
    }
}
