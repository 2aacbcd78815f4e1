//! The spatial transformer: self-attention over the picture's tokens, cross-attention to the text,
//! and a gated feed-forward network (`Transformer2DModel`, `BasicTransformerBlock`).

use candle_core::{DType, Result};

use super::config::{TransformerConfig, UNetConfig};
use crate::backend::ops::{Conv2d, GroupNorm, LayerNorm, Linear, Mask, add, attention, geglu};
use crate::backend::{Activation, MatmulPrecision, Params};
use crate::model::denoiser::prior::PriorCursor;

/// `Transformer2DModel` fixes these, whatever the UNet's own settings.
const INPUT_NORM_EPS: f64 = 1e-6;
const BLOCK_NORM_EPS: f64 = 1e-5;

/// Multi-head attention with its four projections (`Attention`).
#[derive(Clone, Debug)]
struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
    upcast: bool,
    precision: MatmulPrecision,
}

impl Attention {
    fn load(
        channels: usize,
        context_width: usize,
        heads: usize,
        upcast: bool,
        vb: &Params,
    ) -> Result<Self> {
        Ok(Self {
            to_q: Linear::load_no_bias(channels, channels, &vb.pp("to_q"))?,
            to_k: Linear::load_no_bias(context_width, channels, &vb.pp("to_k"))?,
            to_v: Linear::load_no_bias(context_width, channels, &vb.pp("to_v"))?,
            to_out: Linear::load(channels, channels, &vb.pp("to_out").pp(0))?,
            heads,
            upcast,
            precision: if upcast { MatmulPrecision::F32 } else { vb.precision() },
        })
    }

    /// `x` `[B, N, channels]`, `context` `[B, M, context_width]`; after the output projection, to
    /// which `residual` is added.
    fn forward(
        &self,
        x: &Activation,
        context: &Activation,
        residual: Option<&Activation>,
    ) -> Result<Activation> {
        let mut qkv =
            [self.to_q.forward(x)?, self.to_k.forward(context)?, self.to_v.forward(context)?];
        if self.upcast {
            for tensor in &mut qkv {
                *tensor = tensor.to_dtype(DType::F32)?;
            }
        }
        let [q, k, v] = &qkv;
        let mixed =
            attention(q, k, v, self.heads, Mask::None, self.precision)?.to_dtype(x.dtype())?;
        match residual {
            Some(residual) => self.to_out.forward_add(&mixed, residual),
            None => self.to_out.forward(&mixed),
        }
    }
}

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
            Attention::load(channels, context_width, config.heads, upcast, &vb.pp(name))
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
        let x = self.attn1.forward(&normed, &normed, Some(x))?;
        let cross = self.attn2.forward(&self.norm2.forward(&x)?, context, None)?;
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
