//! The levels of the UNet: encoder, middle and decoder blocks, and the skip connections between
//! them (`CrossAttnDownBlock2D`, `DownBlock2D`, `UNetMidBlock2DCrossAttn`, `CrossAttnUpBlock2D`,
//! `UpBlock2D`).

use candle_core::Result;

use super::{
    config::{LevelConfig, MidConfig, UNetConfig},
    resnet::{Downsample, ResnetBlock, Upsample},
    transformer::SpatialTransformer,
};
use crate::backend::{Activation, Params, ops::join};
use crate::model::denoiser::prior::PriorCursor;

/// A residual block and, at levels that attend, the transformer after it.
#[derive(Clone, Debug)]
struct UNetLayer {
    resnet: ResnetBlock,
    attention: Option<SpatialTransformer>,
}

impl UNetLayer {
    fn load(
        index: usize,
        input: usize,
        level: &LevelConfig,
        config: &UNetConfig,
        vb: &Params,
    ) -> Result<Self> {
        let resnet = ResnetBlock::load(input, level.channels, config, &vb.pp("resnets").pp(index))?;
        let attention = (level.transformers.get(index))
            .map(|transformer| {
                let vb = vb.pp("attentions").pp(index);
                SpatialTransformer::load(level.channels, transformer, config, &vb)
            })
            .transpose()?;
        Ok(Self { resnet, attention })
    }

    fn forward(
        &self,
        x: &Activation,
        emb: &Activation,
        context: &Activation,
        cursor: &mut PriorCursor,
    ) -> Result<Activation> {
        let x = self.resnet.forward(x, emb)?;
        match &self.attention {
            Some(attention) => attention.forward(&x, context, cursor),
            None => Ok(x),
        }
    }
}

/// One level of the encoder.
#[derive(Clone, Debug)]
pub(super) struct DownBlock {
    layers: Vec<UNetLayer>,
    downsample: Option<Downsample>,
}

impl DownBlock {
    /// Appends the channels of the skips that this block leaves to `skips`.
    pub(super) fn load(
        input: usize,
        level: &LevelConfig,
        last: bool,
        config: &UNetConfig,
        skips: &mut Vec<usize>,
        vb: &Params,
    ) -> Result<Self> {
        let mut layers = Vec::with_capacity(level.resnets);
        let mut channels = input;
        for index in 0..level.resnets {
            layers.push(UNetLayer::load(index, channels, level, config, vb)?);
            channels = level.channels;
            skips.push(channels);
        }
        let downsample = if last {
            None
        } else {
            skips.push(channels);
            let vb = vb.pp("downsamplers").pp(0);
            Some(Downsample::load(channels, config.downsample_padding, &vb)?)
        };
        Ok(Self { layers, downsample })
    }

    pub(super) fn forward(
        &self,
        x: &Activation,
        emb: &Activation,
        context: &Activation,
        skips: &mut Vec<Activation>,
        cursor: &mut PriorCursor,
    ) -> Result<Activation> {
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.forward(&x, emb, context, cursor)?;
            skips.push(x.clone());
        }
        if let Some(downsample) = &self.downsample {
            x = downsample.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// The coarsest level's residual block, and the transformer and residual block behind it where there are any.
#[derive(Clone, Debug)]
pub(super) struct MidBlock {
    before: ResnetBlock,
    attention: Option<(SpatialTransformer, ResnetBlock)>,
}

impl MidBlock {
    pub(super) fn load(mid: &MidConfig, config: &UNetConfig, vb: &Params) -> Result<Self> {
        let channels = mid.channels;
        let resnet = |index: usize| {
            ResnetBlock::load(channels, channels, config, &vb.pp("resnets").pp(index))
        };
        let attention = mid.transformer.as_ref().map(|transformer| {
            let vb = vb.pp("attentions").pp(0);
            let attention = SpatialTransformer::load(channels, transformer, config, &vb)?;
            Ok::<_, candle_core::Error>((attention, resnet(1)?))
        });
        Ok(Self { before: resnet(0)?, attention: attention.transpose()? })
    }

    pub(super) fn forward(
        &self,
        x: &Activation,
        emb: &Activation,
        context: &Activation,
        cursor: &mut PriorCursor,
    ) -> Result<Activation> {
        let x = self.before.forward(x, emb)?;
        match &self.attention {
            Some((attention, after)) => {
                after.forward(&attention.forward(&x, context, cursor)?, emb)
            }
            None => Ok(x),
        }
    }
}

/// One level of the decoder.
#[derive(Clone, Debug)]
pub(super) struct UpBlock {
    layers: Vec<UNetLayer>,
    upsample: Option<Upsample>,
}

impl UpBlock {
    /// Takes the channels of the skips that this block joins from the end of `skips`.
    pub(super) fn load(
        input: usize,
        level: &LevelConfig,
        last: bool,
        config: &UNetConfig,
        skips: &mut Vec<usize>,
        vb: &Params,
    ) -> Result<Self> {
        let mut layers = Vec::with_capacity(level.resnets);
        let mut channels = input;
        for index in 0..level.resnets {
            let Some(skip) = skips.pop() else {
                candle_core::bail!("unet: the decoder has more residual blocks than skips");
            };
            layers.push(UNetLayer::load(index, channels + skip, level, config, vb)?);
            channels = level.channels;
        }
        let upsample =
            (!last).then(|| Upsample::load(channels, &vb.pp("upsamplers").pp(0))).transpose()?;
        Ok(Self { layers, upsample })
    }

    pub(super) fn forward(
        &self,
        x: &Activation,
        emb: &Activation,
        context: &Activation,
        skips: &mut Vec<Activation>,
        cursor: &mut PriorCursor,
    ) -> Result<Activation> {
        let mut x = x.clone();
        for layer in &self.layers {
            let Some(skip) = skips.pop() else {
                candle_core::bail!("unet: the decoder has more residual blocks than skips");
            };
            x = layer.forward(&join(&x, &skip)?, emb, context, cursor)?;
        }
        match (&self.upsample, skips.last()) {
            (Some(upsample), Some(next)) => {
                let (_, height, width, _) = next.dims4()?;
                upsample.forward(&x, height, width)
            }
            _ => Ok(x),
        }
    }
}
