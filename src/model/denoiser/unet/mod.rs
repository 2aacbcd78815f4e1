//! `UNet2DConditionModel` of the Stable Diffusion family (SDXL, SD 1.5, SD 2, and our embedded
//! model), built from diffusers' `config.json` and reading diffusers' tensor names. Reference:
//! `diffusers/models/unets/unet_2d_condition.py`.

mod blocks;
mod config;
mod control;
mod control_config;
mod control_picture;
mod embedding;
mod encoder;
mod error;
mod fields;
mod resnet;
mod transformer;

use std::sync::Arc;

use serde_json::Value;

use super::{
    conditioning::{Conditioning, MicroConditioning},
    control::{ControlShape, ControlSignal},
    error::DenoiserError,
    network::{DenoiserClass, DenoisingNetwork},
    prior::{Prior, PriorCursor},
    shape::DenoiserShape,
};
use crate::backend::ops::{Conv2d, GroupNorm, add};
use crate::backend::{Activation, MatmulPrecision, Params};
use crate::model::text::{TextConditioner, TextConditioning};
use blocks::UpBlock;
pub use config::{
    LevelConfig, MidConfig, TextTimeConfig, TimeConfig, TransformerConfig, UNetConfig,
};
pub use control::ControlNetModel;
pub(super) use control::{CLASS as CONTROL_CLASS, UNION_CLASS as CONTROL_UNION_CLASS};
pub use control_config::{ControlNetConfig, UnionConfig};
use encoder::Encoder;
pub use error::UNetError;

/// The class in diffusers' configurations.
pub(super) const CLASS: DenoiserClass = DenoiserClass {
    name: "UNet2DConditionModel",
    load: |config, file, params| match UNet2DConditionModel::from_config(config, params) {
        Ok(unet) => Ok(Arc::new(unet)),
        Err(error) => Err(error.of_file(file.to_owned())),
    },
};

/// Numbers of SDXL's micro-conditioning: two sizes and a corner.
const MICRO_NUMBERS: usize = 6;

/// The denoiser. It computes in the dtype of the `Params` it was loaded from; norms, softmax
/// and sinusoidal embeddings are f32.
#[derive(Clone, Debug)]
pub struct UNet2DConditionModel {
    config: UNetConfig,
    encoder: Encoder,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    weight_bytes: usize,
}

impl UNet2DConditionModel {
    /// Builds the UNet that a `config.json` describes.
    ///
    /// # Errors
    /// Those of [`UNetConfig::from_value`] and [`load`](Self::load).
    fn from_config(config: &Value, vb: &Params) -> Result<Self, UNetError> {
        Self::load(UNetConfig::from_value(config)?, vb)
    }

    /// Reads every tensor of the architecture below `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape than `config` says.
    pub fn load(config: UNetConfig, vb: &Params) -> Result<Self, UNetError> {
        let (Some(finest), Some(coarsest)) = (config.down.first(), config.down.last()) else {
            return Err(UNetError::Invalid {
                field: "block_out_channels".to_owned(),
                reason: "has no level".to_owned(),
            });
        };
        let bytes_before = vb.bytes_kept();
        let first = finest.channels;
        let (encoder, mut skips) = Encoder::load(&config, vb)?;
        let mut channels = coarsest.channels;
        let mut up_blocks = Vec::with_capacity(config.up.len());
        for (index, level) in config.up.iter().enumerate() {
            let last = index + 1 == config.up.len();
            let vb = vb.pp("up_blocks").pp(index);
            up_blocks.push(UpBlock::load(channels, level, last, &config, &mut skips, &vb)?);
            channels = level.channels;
        }

        let conv_norm_out =
            GroupNorm::load(config.norm_groups, first, config.norm_eps, &vb.pp("conv_norm_out"))?;
        let kernel = config.conv_out_kernel;
        // The last layer takes little time, but its rounding would affect every pixel.
        let exact = vb.with_precision(MatmulPrecision::F32);
        let conv_out =
            Conv2d::load(first, config.out_channels, kernel, 1, kernel / 2, &exact.pp("conv_out"))?;
        Ok(Self {
            encoder,
            up_blocks,
            conv_norm_out,
            conv_out,
            weight_bytes: vb.bytes_kept() - bytes_before,
            config,
        })
    }

    /// The architecture it was built from.
    #[must_use]
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// `sample` is `[B, h, w, in_channels]`, the result `[B, h, w, out_channels]`. Sizes that the strides do not
    /// divide work as in diffusers: the decoder follows the sizes of the encoder. What a control adds goes to the skip
    /// connections and to the output of the middle, which are not seen by the encoder and the middle themselves.
    fn compute(
        &self,
        sample: &Activation,
        timestep: f64,
        cond: &Conditioning,
        prior: Prior<'_>,
        control: Option<ControlSignal>,
    ) -> candle_core::Result<Activation> {
        let mut cursor = PriorCursor::new(prior);
        let emb = resnet::activate(&self.encoder.embed(sample, timestep, cond)?)?;
        let context = cond.context.to_dtype(self.encoder.dtype())?;
        let x = self.encoder.begin(sample)?;
        let (mut x, mut skips) = self.encoder.forward(x, &emb, &context, &mut cursor)?;
        if let Some(ControlSignal { skips: added, middle }) = control {
            if added.len() != skips.len() {
                candle_core::bail!(
                    "unet: a control for {} skip connections, of {}",
                    added.len(),
                    skips.len()
                );
            }
            for (skip, added) in skips.iter_mut().zip(added) {
                *skip = add(skip, &added)?;
            }
            x = add(&x, &middle)?;
        }
        for block in &self.up_blocks {
            x = block.forward(&x, &emb, &context, &mut skips, &mut cursor)?;
        }
        cursor.finish()?;
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)
    }
}

impl DenoisingNetwork for UNet2DConditionModel {
    fn shape(&self) -> Result<DenoiserShape, DenoiserError> {
        let config = &self.config;
        let channels = (config.in_channels, config.out_channels);
        DenoiserShape::new(channels, config.sample_size, config.total_stride())
            .map_err(|reason| DenoiserError::Unsuited(format!("the UNet {reason}")))
    }

    fn check_text(&self, text: &TextConditioner) -> Result<(), DenoiserError> {
        let config = &self.config;
        let (width, pooled) = text.widths();
        let mut taken = (config.down.iter().chain(&config.up))
            .flat_map(|level| &level.transformers)
            .chain(config.mid.as_ref().and_then(|mid| mid.transformer.as_ref()));
        if let Some(other) = taken.find(|transformer| transformer.context_width != width) {
            return Err(DenoiserError::Text(format!(
                "the UNet takes text of width {}, the text encoders make {width}",
                other.context_width
            )));
        }
        // Beside the pooled embedding stand numbers of so many features each.
        let added = config.added.as_ref();
        match added.map(|added| added.input_width.saturating_sub(MICRO_NUMBERS * added.features)) {
            Some(taken) if pooled != Some(taken) => Err(DenoiserError::Text(format!(
                "the UNet takes a pooled text embedding of width {taken}, the text encoders make {}",
                pooled.map_or_else(|| "none".to_owned(), |width| width.to_string()),
            ))),
            _ => Ok(()),
        }
    }

    /// A model without text_time conditioning takes the context alone.
    fn condition(
        &self,
        text: &TextConditioning,
        micro: MicroConditioning,
    ) -> candle_core::Result<Conditioning> {
        let rows = text.context.dim(0)?;
        let micro = self.encoder.embedding.micro(micro, rows, text.context.trace())?;
        let pooled = match (self.encoder.embedding.has_added(), &text.pooled) {
            (false, _) => None,
            (true, Some(pooled)) => Some(pooled.clone()),
            (true, None) => candle_core::bail!("unet: a text without a pooled embedding"),
        };
        Ok(Conditioning { context: text.context.clone(), lengths: None, pooled, micro })
    }

    fn embeds_guidance(&self) -> bool {
        self.encoder.embedding.has_guidance()
    }

    fn with_guidance(&self, cond: &Conditioning, scale: f64) -> candle_core::Result<Conditioning> {
        let micro = match &cond.micro {
            Some(micro) if self.embeds_guidance() => {
                Some(self.encoder.embedding.with_guidance(micro, scale)?)
            }
            other => other.clone(),
        };
        Ok(Conditioning { micro, ..cond.clone() })
    }

    fn prior_sizes(&self, height: usize, width: usize) -> Vec<(usize, usize)> {
        self.config.cross_attention_sizes(height, width)
    }

    fn forward(
        &self,
        sample: &Activation,
        timestep: f64,
        cond: &Conditioning,
        prior: Prior<'_>,
    ) -> candle_core::Result<Activation> {
        self.compute(sample, timestep, cond, prior, None)
    }

    fn check_control(&self, control: &ControlShape) -> Result<(), DenoiserError> {
        let unsuited = |reason: String| Err(DenoiserError::Unsuited(reason));
        let own = self.config.control_shape(control.factor);
        if control.inputs != own.inputs {
            return unsuited(format!(
                "it takes {} channels, the model's UNet {}",
                control.inputs, own.inputs
            ));
        }
        if control.context.is_some() && control.context != own.context {
            return unsuited(format!(
                "it takes text of width {}, the model's UNet of {}",
                control.context.unwrap_or(0),
                own.context.map_or_else(|| "none".to_owned(), |width| width.to_string())
            ));
        }
        if control.added.is_some() && control.added != own.added {
            return unsuited(
                "it takes added conditions (a pooled text and sizes) that the model does not have"
                    .to_owned(),
            );
        }
        if self.config.mid.is_none() || (&control.skips, control.middle) != (&own.skips, own.middle)
        {
            return unsuited(format!(
                "its features have the channels {:?} and {}, those of the model's UNet {:?} and {}",
                control.skips, control.middle, own.skips, own.middle
            ));
        }
        Ok(())
    }

    fn forward_controlled(
        &self,
        sample: &Activation,
        timestep: f64,
        cond: &Conditioning,
        prior: Prior<'_>,
        control: ControlSignal,
    ) -> candle_core::Result<Activation> {
        self.compute(sample, timestep, cond, prior, Some(control))
    }

    fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }
}
