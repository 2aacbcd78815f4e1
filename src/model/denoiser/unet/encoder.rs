//! The half of the UNet that a control has as well: the first convolution, the embeddings, the levels on the way down and
//! the middle.

use candle_core::{DType, Result};

use super::{
    blocks::{DownBlock, MidBlock},
    config::UNetConfig,
    embedding::UNetEmbedding,
};
use crate::backend::{Activation, MatmulPrecision, Params, Trace, ops::Conv2d};
use crate::model::denoiser::{conditioning::Conditioning, prior::PriorCursor};

/// First convolution, embeddings, encoder and middle.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    pub(super) embedding: UNetEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<MidBlock>,
    in_channels: usize,
    dtype: DType,
}

impl Encoder {
    /// Reads the tensors below `vb`; returns the channels of the skip connections as well.
    pub(super) fn load(config: &UNetConfig, vb: &Params) -> Result<(Self, Vec<usize>)> {
        let first = config.down.first().map_or(0, |level| level.channels);
        let kernel = config.conv_in_kernel;
        // The first layers take little time, but their rounding would affect every pixel.
        let exact = vb.with_precision(MatmulPrecision::F32);
        let conv_in =
            Conv2d::load(config.in_channels, first, kernel, 1, kernel / 2, &exact.pp("conv_in"))?;
        let embedding = UNetEmbedding::load(&config.time, config.added.as_ref(), &exact)?;
        let mut skips = vec![first];
        let mut channels = first;
        let mut down_blocks = Vec::with_capacity(config.down.len());
        for (index, level) in config.down.iter().enumerate() {
            let last = index + 1 == config.down.len();
            let vb = vb.pp("down_blocks").pp(index);
            down_blocks.push(DownBlock::load(channels, level, last, config, &mut skips, &vb)?);
            channels = level.channels;
        }
        let mid_block = config
            .mid
            .as_ref()
            .map(|mid| MidBlock::load(mid, config, &vb.pp("mid_block")))
            .transpose()?;
        let (in_channels, dtype) = (config.in_channels, vb.dtype());
        Ok((Self { conv_in, embedding, down_blocks, mid_block, in_channels, dtype }, skips))
    }

    /// The precision that it computes in.
    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// The embedding of the timestep and the added conditions, `[B, width]`, for samples of `[B, h, w, in_channels]`.
    pub(super) fn embed(
        &self,
        sample: &Activation,
        timestep: f64,
        cond: &Conditioning,
    ) -> Result<Activation> {
        let (batch, _, _, channels) = sample.dims4()?;
        let (context_batch, _, _) = cond.context.dims3()?;
        if channels != self.in_channels || context_batch != batch {
            candle_core::bail!(
                "unet: a sample of {:?} with a context of {:?}, for {} input channels",
                sample.shape(),
                cond.context.shape(),
                self.in_channels
            );
        }
        let trace: Option<&Trace> = sample.trace();
        self.embedding.forward(timestep, batch, cond.pooled.as_ref(), cond.micro.as_ref(), trace)
    }

    /// The first convolution.
    pub(super) fn begin(&self, sample: &Activation) -> Result<Activation> {
        self.conv_in.forward(&sample.to_dtype(self.dtype)?)
    }

    /// The output of the middle and the skip connections, for the output of the first convolution and an embedding with
    /// SiLU applied.
    pub(super) fn forward(
        &self,
        mut x: Activation,
        emb: &Activation,
        context: &Activation,
        cursor: &mut PriorCursor,
    ) -> Result<(Activation, Vec<Activation>)> {
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(&x, emb, context, &mut skips, cursor)?;
        }
        if let Some(block) = &self.mid_block {
            x = block.forward(&x, emb, context, cursor)?;
        }
        Ok((x, skips))
    }
}
