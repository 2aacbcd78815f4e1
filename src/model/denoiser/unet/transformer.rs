//! The spatial transformer: self-attention over the picture's tokens, cross-attention to the text,
//! and a gated feed-forward network (`Transformer2DModel`, `BasicTransformerBlock`).

use candle_core::Result;

use super::config::{TransformerConfig, UNetConfig};
use crate::backend::ops::{Conv2d, GroupNorm, LayerNorm, Linear, add, geglu};
use crate::backend::{Activation, Params};
use crate::model::denoiser::{
    attention::{Attention, AttentionShape},
    prior::PriorCursor,
};

/// `Transformer2DModel` fixes these, whatever the UNet's own settings.
const INPUT_NORM_EPS: f64 = 1e-6;
const BLOCK_NORM_EPS: f64 = 1e-5;

/// `BasicTransformerBlock` with GEGLU.
#[derive(Clone, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl TransformerBlock {
    fn load(
        channels: usize,
        config: &TransformerConfig,
        upcast: bool,
        vb: &Params,
    ) -> Result<Self> {
        let norm = |name: &str| LayerNorm::load(channels, BLOCK_NORM_EPS, &vb.pp(name));
        let attention = |name: &str, context_width: usize| {
            let shape = AttentionShape {
                channels,
                context_width,
                heads: config.heads,
                bias: false,
                upcast,
            };
            Attention::load(shape, &vb.pp(name))
        };
        let ff = vb.pp("ff").pp("net");
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: attention("attn1", channels)?,
            norm2: norm("norm2")?,
            attn2: attention("attn2", config.context_width)?,
            norm3: norm("norm3")?,
            // Four times the width, twice: value and gate.
            ff_in: Linear::load(channels, 8 * channels, &ff.pp(0).pp("proj"))?,
            ff_out: Linear::load(4 * channels, channels, &ff.pp(2))?,
        })
    }

    fn forward(
        &self,
        x: &Activation,
        context: &Activation,
        (height, width): (usize, usize),
        cursor: &mut PriorCursor,
    ) -> Result<Activation> {
        let normed = self.norm1.forward(x)?;
        let x = self.attn1.forward(&normed, &normed, None, Some(x))?;
        let cross = self.attn2.forward(&self.norm2.forward(&x)?, context, None, None)?;
        let x = add(&x, &cursor.visit(cross, height, width)?)?;
        let hidden = geglu(&self.ff_in.forward(&self.norm3.forward(&x)?)?)?;
        self.ff_out.forward_add(&hidden, &x)
    }
}

/// The projections around the blocks: dense (SDXL) or 1×1 convolutions (SD 1.5). The mathematics
/// is the same; the checkpoint's shapes are not.
#[derive(Clone, Debug)]
enum Projection {
    Dense(Linear),
    Conv(Conv2d),
}

impl Projection {
    fn load(channels: usize, dense: bool, vb: &Params) -> Result<Self> {
        if dense {
            Ok(Self::Dense(Linear::load(channels, channels, vb)?))
        } else {
            Ok(Self::Conv(Conv2d::load(channels, channels, 1, 1, 0, vb)?))
        }
    }

    fn forward(&self, x: &Activation) -> Result<Activation> {
        match self {
            Self::Dense(linear) => linear.forward(x),
            Self::Conv(conv) => conv.forward(x),
        }
    }

    fn forward_add(&self, x: &Activation, other: &Activation) -> Result<Activation> {
        match self {
            Self::Dense(linear) => linear.forward_add(x, other),
            Self::Conv(conv) => conv.forward_add(x, other),
        }
    }
}

/// `Transformer2DModel`: norm, projection in, blocks, projection out, residual.
#[derive(Clone, Debug)]
pub(super) struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Projection,
    blocks: Vec<TransformerBlock>,
    proj_out: Projection,
}

impl SpatialTransformer {
    pub(super) fn load(
        channels: usize,
        transformer: &TransformerConfig,
        config: &UNetConfig,
        vb: &Params,
    ) -> Result<Self> {
        let projection =
            |name: &str| Projection::load(channels, config.use_linear_projection, &vb.pp(name));
        let blocks = vb.pp("transformer_blocks");
        Ok(Self {
            norm: GroupNorm::load(config.norm_groups, channels, INPUT_NORM_EPS, &vb.pp("norm"))?,
            proj_in: projection("proj_in")?,
            blocks: (0..transformer.depth)
                .map(|i| {
                    TransformerBlock::load(
                        channels,
                        transformer,
                        config.upcast_attention,
                        &blocks.pp(i),
                    )
                })
                .collect::<Result<_>>()?,
            proj_out: projection("proj_out")?,
        })
    }

    /// `x` `[B, h, w, C]`, `context` `[B, M, D]` → `[B, h, w, C]`.
    pub(super) fn forward(
        &self,
        x: &Activation,
        context: &Activation,
        cursor: &mut PriorCursor,
    ) -> Result<Activation> {
        let (batch, height, width, channels) = x.dims4()?;
        let mut hidden = self.proj_in.forward(&self.norm.forward(x)?)?.reshape((
            batch,
            height * width,
            channels,
        ))?;
        for block in &self.blocks {
            hidden = block.forward(&hidden, context, (height, width), cursor)?;
        }
        self.proj_out.forward_add(&hidden.reshape((batch, height, width, channels))?, x)
    }
}
