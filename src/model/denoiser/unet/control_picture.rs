//! The picture of a ControlNet on its way to the first features (`ControlNetConditioningEmbedding`), and what a
//! `ControlNetUnionModel` adds for the picture's kind.

use candle_core::{DType, Result, Tensor};

use super::control_config::{ControlNetConfig, PICTURE_CHANNELS, UnionConfig};
use crate::backend::ops::{Conv2d, LayerNorm, Linear, add, quick_gelu, silu};
use crate::backend::{Activation, MatmulPrecision, Params, Trace};
use crate::model::denoiser::timestep::{EmbeddingMlp, Sinusoids};

/// `torch.nn.LayerNorm`'s.
const NORM_EPS: f64 = 1e-5;

/// Convolutions that halve the picture until it has the sample's size.
#[derive(Clone, Debug)]
pub(super) struct PictureEmbedding {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
    blue_first: bool,
}

impl PictureEmbedding {
    pub(super) fn load(config: &ControlNetConfig, output: usize, vb: &Params) -> Result<Self> {
        let vb = vb.pp("controlnet_cond_embedding").with_precision(MatmulPrecision::F32);
        let channels = &config.embedding_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let mut blocks = Vec::with_capacity(2 * channels.len());
        for pair in channels.windows(2) {
            for (output, stride) in [(pair[0], 1), (pair[1], 2)] {
                let vb = vb.pp("blocks").pp(blocks.len());
                blocks.push(Conv2d::load(pair[0], output, 3, stride, 1, &vb)?);
            }
        }
        Ok(Self {
            conv_in: Conv2d::load(PICTURE_CHANNELS, first, 3, 1, 1, &vb.pp("conv_in"))?,
            blocks,
            conv_out: Conv2d::load(last, output, 3, 1, 1, &vb.pp("conv_out"))?,
            blue_first: config.blue_first,
        })
    }

    /// `[B, f·h, f·w, 3]` → `[B, h, w, C]`.
    pub(super) fn forward(&self, pixels: &Activation) -> Result<Activation> {
        let flipped;
        let pixels = if self.blue_first {
            flipped = pixels.index_select(&[2, 1, 0], 3)?;
            &flipped
        } else {
            pixels
        };
        let mut x = silu(&self.conv_in.forward(pixels)?)?;
        for block in &self.blocks {
            x = silu(&block.forward(&x)?)?;
        }
        self.conv_out.forward(&x)
    }
}

/// `ResidualAttentionBlock` of a union. It attends among the pictures of a batch, and not within one: diffusers gives
/// `[B, N, C]` to a `MultiheadAttention` that takes the batch second. A picture by itself attends to itself alone, so
/// that its attention is its values; every sample is such a picture here, whatever lies beside it in a batch.
#[derive(Clone, Debug)]
struct UnionLayer {
    norm_1: LayerNorm,
    /// the third part of the projections to queries, keys and values
    values: Linear,
    out: Linear,
    norm_2: LayerNorm,
    mlp_in: Linear,
    mlp_out: Linear,
}

impl UnionLayer {
    fn load(width: usize, vb: &Params) -> Result<Self> {
        let attention = vb.pp("attn");
        let values = attention.get((3 * width, width), "in_proj_weight")?;
        let bias = attention.get(3 * width, "in_proj_bias")?;
        Ok(Self {
            norm_1: LayerNorm::load(width, NORM_EPS, &vb.pp("ln_1"))?,
            values: Linear::new(
                &values.narrow(0, 2 * width, width)?,
                Some(bias.narrow(0, 2 * width, width)?),
            )?,
            out: Linear::load(width, width, &attention.pp("out_proj"))?,
            norm_2: LayerNorm::load(width, NORM_EPS, &vb.pp("ln_2"))?,
            mlp_in: Linear::load(width, 4 * width, &vb.pp("mlp.c_fc"))?,
            mlp_out: Linear::load(4 * width, width, &vb.pp("mlp.c_proj"))?,
        })
    }

    /// `[B, C]` → the same shape.
    fn forward(&self, x: &Activation) -> Result<Activation> {
        let x = self.out.forward_add(&self.values.forward(&self.norm_1.forward(x)?)?, x)?;
        let hidden = quick_gelu(&self.mlp_in.forward(&self.norm_2.forward(&x)?)?)?;
        self.mlp_out.forward_add(&hidden, &x)
    }
}

/// What a `ControlNetUnionModel` has besides: an embedding of the kinds, and a transformer over the pictures' means.
#[derive(Clone, Debug)]
pub(super) struct Union {
    switches: Sinusoids,
    switch_embedding: EmbeddingMlp,
    /// `[types, C]`
    task_embedding: Tensor,
    layers: Vec<UnionLayer>,
    projection: Linear,
    types: usize,
    dtype: DType,
}

impl Union {
    pub(super) fn load(
        config: &ControlNetConfig,
        union: &UnionConfig,
        width: usize,
        vb: &Params,
    ) -> Result<Self> {
        let UnionConfig { types, features, layers } = *union;
        let time = &config.unet.time;
        let exact = vb.with_precision(MatmulPrecision::F32);
        let layer =
            |index: usize| UnionLayer::load(width, &exact.pp("transformer_layes").pp(index));
        Ok(Self {
            switches: Sinusoids::new(features, time.flip_sin_to_cos, time.freq_shift, vb.device())?,
            switch_embedding: EmbeddingMlp::load(
                features * types,
                time.width,
                &exact.pp("control_add_embedding"),
            )?,
            task_embedding: vb.get((types, width), "task_embedding")?,
            layers: (0..layers).map(layer).collect::<Result<_>>()?,
            projection: Linear::load(width, width, &exact.pp("spatial_ch_projs"))?,
            types,
            dtype: vb.dtype(),
        })
    }

    /// The kinds of pictures that there are.
    pub(super) fn types(&self) -> usize {
        self.types
    }

    /// The embedding of the kind `index`, `[batch, width]`: a switch for each kind, of which this one is on.
    pub(super) fn embed(
        &self,
        index: usize,
        batch: usize,
        trace: Option<&Trace>,
    ) -> Result<Activation> {
        let mut row = vec![0f32; self.types];
        if let Some(switch) = row.get_mut(index) {
            *switch = 1.0;
        }
        let shape = (batch, self.types);
        let switches = Activation::make(trace, shape, DType::F32, || {
            Tensor::from_vec(row.repeat(batch), shape, self.switches.device())
        })?;
        let features = self.switches.forward(&switches)?;
        let width = features.elem_count() / batch;
        self.switch_embedding.forward(&features.reshape((batch, width))?.to_dtype(self.dtype)?)
    }

    /// The features of a picture of the kind `index`, `[B, h, w, C]`, with what the transformer makes of their mean.
    pub(super) fn fuse(&self, features: &Activation, index: usize) -> Result<Activation> {
        let (batch, height, width, channels) = features.dims4()?;
        // A sum of so many would leave 16 bits.
        let mean = features
            .to_dtype(DType::F32)?
            .reshape((batch, height * width, channels))?
            .mean_keepdim(1)?
            .reshape((batch, channels))?
            .to_dtype(self.dtype)?;
        let task = self.task_embedding.narrow(0, index, 1)?;
        let mut x = mean.broadcast_add(&Activation::from(&task))?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        let alpha = self.projection.forward(&x)?.reshape((batch, 1, 1, channels))?;
        features.broadcast_add(&alpha)
    }
}

/// The sum of a sample's features and those of its picture, which are of as many samples, or half as many for a pair.
pub(super) fn add_picture(x: &Activation, picture: Activation) -> Result<Activation> {
    let (samples, pictures) = (x.dim(0)?, picture.dim(0)?);
    let picture =
        if samples == 2 * pictures { Activation::cat(&[&picture, &picture], 0)? } else { picture };
    if picture.dims() != x.dims() {
        candle_core::bail!(
            "control: features of {:?} for those of {:?}",
            picture.shape(),
            x.shape()
        );
    }
    add(x, &picture)
}
