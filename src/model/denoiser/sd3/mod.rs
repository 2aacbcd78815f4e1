//! `SD3Transformer2DModel` of Stable Diffusion 3 and 3.5 (medium, large, large-turbo): a diffusion transformer whose blocks
//! join the tokens of picture and text in one attention. Built from diffusers' `config.json`, reading diffusers' tensor
//! names. Reference: `diffusers/models/transformers/transformer_sd3.py`.

mod attention;
mod block;
mod config;
mod embedding;
mod error;

use std::sync::Arc;

use candle_core::DType;

use super::{
    conditioning::{Conditioning, MicroConditioning},
    error::DenoiserError,
    network::{DenoiserClass, DenoisingNetwork},
    prior::{Prior, PriorCursor},
    shape::DenoiserShape,
};
use crate::backend::ops::{Linear, modulated_norm, silu};
use crate::backend::{Activation, MatmulPrecision, Params};
use crate::model::text::{TextConditioner, TextConditioning};
use block::{JointBlock, Modulation, NORM_EPS};
pub use config::Sd3Config;
use embedding::{PatchEmbedding, TimeTextEmbedding};
pub use error::Sd3Error;

/// The class in diffusers' configurations.
pub(super) const CLASS: DenoiserClass = DenoiserClass {
    name: "SD3Transformer2DModel",
    load: |config, file, params| {
        let network =
            Sd3Config::from_value(config).and_then(|config| Sd3Transformer::load(config, params));
        match network {
            Ok(network) => Ok(Arc::new(network)),
            Err(error) => Err(error.of_file(file.to_owned())),
        }
    },
};

/// The denoiser. It computes in the dtype of the `Params` it was loaded from; norms, softmax and sinusoidal embeddings are
/// f32.
#[derive(Clone, Debug)]
pub struct Sd3Transformer {
    config: Sd3Config,
    pos_embed: PatchEmbedding,
    time_text_embed: TimeTextEmbedding,
    context_embedder: Linear,
    blocks: Vec<JointBlock>,
    norm_out: Modulation,
    proj_out: Linear,
    dtype: DType,
    weight_bytes: usize,
}

impl Sd3Transformer {
    /// Reads every tensor of the architecture below `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape than `config` says.
    pub fn load(config: Sd3Config, vb: &Params) -> Result<Self, Sd3Error> {
        let bytes_before = vb.bytes_kept();
        let (width, patch) = (config.width(), config.patch_size);
        // The first and the last layers take little time, but their rounding would affect every pixel.
        let exact = vb.with_precision(MatmulPrecision::F32);
        let pos_embed = PatchEmbedding::load(&config, &exact.pp("pos_embed"))?;
        let time_text_embed = TimeTextEmbedding::load(&config, &exact.pp("time_text_embed"))?;
        let context_embedder =
            Linear::load(config.context_width, width, &exact.pp("context_embedder"))?;
        let blocks = vb.pp("transformer_blocks");
        let blocks = (0..config.layers)
            .map(|layer| JointBlock::load(&config, layer, &blocks.pp(layer)))
            .collect::<candle_core::Result<_>>()?;
        let outputs = patch * patch * config.out_channels;
        Ok(Self {
            pos_embed,
            time_text_embed,
            context_embedder,
            blocks,
            norm_out: Modulation::load(width, 2, &exact.pp("norm_out"))?,
            proj_out: Linear::load(width, outputs, &exact.pp("proj_out"))?,
            dtype: vb.dtype(),
            weight_bytes: vb.bytes_kept() - bytes_before,
            config,
        })
    }

    /// Tokens `[B, rows·columns, p·p·C]` of whole patches → `[B, rows·p, columns·p, C]`.
    fn unpatchify(
        &self,
        tokens: &Activation,
        (rows, columns): (usize, usize),
    ) -> candle_core::Result<Activation> {
        let (batch, ..) = tokens.dims3()?;
        let (patch, channels) = (self.config.patch_size, self.config.out_channels);
        // Lines of patches: one patch beside the other, then the rows within a patch, and then of what is within one the
        // columns and channels, which stay together.
        let lines = tokens.reshape((batch * rows, columns, patch, patch * channels))?;
        let lines = lines.transpose(1, 2)?.contiguous()?;
        lines.reshape((batch, rows * patch, columns * patch, channels))
    }
}

impl DenoisingNetwork for Sd3Transformer {
    fn shape(&self) -> Result<DenoiserShape, DenoiserError> {
        let Sd3Config { in_channels, out_channels, sample_size, patch_size, .. } = self.config;
        let native = Some((sample_size, sample_size));
        DenoiserShape::new((in_channels, out_channels), native, patch_size)
            .and_then(|shape| shape.with_largest(self.config.largest()))
            .map_err(|reason| DenoiserError::Unsuited(format!("the transformer {reason}")))
    }

    fn check_text(&self, text: &TextConditioner) -> Result<(), DenoiserError> {
        let Sd3Config { context_width, pooled_width, .. } = self.config;
        let (width, pooled) = text.widths();
        if width != context_width {
            return Err(DenoiserError::Text(format!(
                "the transformer takes text of width {context_width}, the text encoders make {width}"
            )));
        }
        if pooled != Some(pooled_width) {
            return Err(DenoiserError::Text(format!(
                "the transformer takes a pooled text embedding of width {pooled_width}, the text encoders make {}",
                pooled.map_or_else(|| "none".to_owned(), |width| width.to_string()),
            )));
        }
        Ok(())
    }

    /// The sizes of pictures play no part.
    fn condition(
        &self,
        text: &TextConditioning,
        _: MicroConditioning,
    ) -> candle_core::Result<Conditioning> {
        if text.pooled.is_none() {
            candle_core::bail!("sd3: a text without a pooled embedding");
        }
        Ok(Conditioning {
            context: text.context.clone(),
            lengths: None,
            pooled: text.pooled.clone(),
            micro: None,
        })
    }

    /// A layer is the text part of a block's joint attention.
    fn prior_sizes(&self, height: usize, width: usize) -> Vec<(usize, usize)> {
        let patch = self.config.patch_size;
        vec![(height / patch, width / patch); self.config.layers]
    }

    /// `sample` is `[B, h, w, in_channels]`, the result `[B, h, w, out_channels]`: whole patches, no more a side than the table
    /// of positions has. `timestep` is σ·1000.
    fn forward(
        &self,
        sample: &Activation,
        timestep: f64,
        cond: &Conditioning,
        prior: Prior<'_>,
    ) -> candle_core::Result<Activation> {
        let (batch, height, width, channels) = sample.dims4()?;
        let (context_batch, _, _) = cond.context.dims3()?;
        let Some(pooled) = &cond.pooled else {
            candle_core::bail!("sd3: conditions without a pooled text embedding");
        };
        if channels != self.config.in_channels || context_batch != batch {
            candle_core::bail!(
                "sd3: a sample of {:?} with a context of {:?}, for {} input channels",
                sample.shape(),
                cond.context.shape(),
                self.config.in_channels
            );
        }
        let mut cursor = PriorCursor::new(prior);
        let emb = self.time_text_embed.forward(timestep, pooled, sample.trace())?;
        let emb = silu(&emb)?;
        let mut x = self.pos_embed.forward(&sample.to_dtype(self.dtype)?)?;
        let context = self.context_embedder.forward(&cond.context.to_dtype(self.dtype)?)?;
        let mut context = Some(context);
        let patch = self.config.patch_size;
        let size = (height / patch, width / patch);
        for block in &self.blocks {
            let Some(text) = context else { candle_core::bail!("sd3: the text ends too early") };
            (x, context) = block.forward(&x, &text, &emb, size, &mut cursor)?;
        }
        cursor.finish()?;
        let rows = self.norm_out.rows(&emb)?;
        let y = self.proj_out.forward(&modulated_norm(&x, &rows[0], &rows[1], NORM_EPS)?)?;
        self.unpatchify(&y, size)
    }

    fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }
}
