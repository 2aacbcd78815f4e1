//! `PixArtTransformer2DModel` of PixArt-α and PixArt-Σ, also under its older class name, built from diffusers'
//! `config.json` and reading diffusers' tensor names. Reference: `diffusers/models/transformers/pixart_transformer_2d.py`.

mod block;
mod config;
mod embedding;
mod error;
mod position;

use std::sync::Arc;

use candle_core::{D, DType, Result as TensorResult, Tensor};
use serde_json::Value;

use super::{
    conditioning::{Conditioning, MicroConditioning},
    error::DenoiserError,
    network::{DenoiserClass, DenoisingNetwork},
    prior::{Prior, PriorCursor},
    shape::DenoiserShape,
};
use crate::backend::ops::{Conv2d, Linear, add, gelu_tanh, modulated_norm};
use crate::backend::{Activation, MatmulPrecision, Params};
use crate::model::text::{TextConditioner, TextConditioning};
use block::{PixArtBlock, Text};
pub use config::{PixArtClass, PixArtConfig};
use embedding::AdaLayerNormSingle;
pub use error::PixArtError;
use position::PositionEmbedding;

/// The class in diffusers' configurations.
pub(super) const CLASS: DenoiserClass = DenoiserClass {
    name: "PixArtTransformer2DModel",
    load: |config, file, params| load(PixArtClass::PixArt, config, file, params),
};

/// The class of configurations that are older than [`CLASS`].
pub(super) const OLD_CLASS: DenoiserClass = DenoiserClass {
    name: "Transformer2DModel",
    load: |config, file, params| load(PixArtClass::Transformer2D, config, file, params),
};

fn load(
    class: PixArtClass,
    config: &Value,
    file: &str,
    params: &Params,
) -> Result<Arc<dyn DenoisingNetwork>, DenoiserError> {
    let network = PixArtConfig::from_value(class, config)
        .and_then(|config| PixArtTransformer2DModel::load(config, params));
    match network {
        Ok(network) => Ok(Arc::new(network)),
        Err(error) => Err(error.of_file(file.to_owned())),
    }
}

/// The last norm's, whatever the configuration says of the blocks' norms.
const OUTPUT_NORM_EPS: f64 = 1e-6;

/// The denoiser. It computes in the dtype of the `Params` it was loaded from; norms, softmax and embeddings of numbers
/// are f32.
#[derive(Clone, Debug)]
pub struct PixArtTransformer2DModel {
    config: PixArtConfig,
    patch: Conv2d,
    positions: PositionEmbedding,
    adaln_single: AdaLayerNormSingle,
    caption_projection: Option<[Linear; 2]>,
    blocks: Vec<PixArtBlock>,
    /// `[2, C]`: shift and scale of the last norm
    scale_shift_table: Tensor,
    proj_out: Linear,
    dtype: DType,
    weight_bytes: usize,
}

impl PixArtTransformer2DModel {
    /// Reads every tensor of the architecture below `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape than `config` says.
    pub fn load(config: PixArtConfig, vb: &Params) -> Result<Self, PixArtError> {
        let bytes_before = vb.bytes_kept();
        let width = config.width();
        let patch_size = config.patch_size;
        // The first and the last layers take little time, but their rounding would affect every pixel.
        let exact = vb.with_precision(MatmulPrecision::F32);
        let patch = Conv2d::load(
            config.in_channels,
            width,
            patch_size,
            patch_size,
            0,
            &exact.pp("pos_embed").pp("proj"),
        )?;
        let caption_projection = if config.projects_text {
            let vb = vb.pp("caption_projection");
            let linear = |input: usize, name: &str| Linear::load(input, width, &vb.pp(name));
            Some([linear(config.text_width, "linear_1")?, linear(width, "linear_2")?])
        } else {
            None
        };
        let blocks = vb.pp("transformer_blocks");
        let blocks = (0..config.num_layers)
            .map(|index| PixArtBlock::load(&config, &blocks.pp(index)))
            .collect::<TensorResult<_>>()?;
        let outputs = patch_size * patch_size * config.out_channels;
        Ok(Self {
            patch,
            positions: PositionEmbedding::new(&config),
            adaln_single: AdaLayerNormSingle::load(&config, &exact.pp("adaln_single"))?,
            caption_projection,
            blocks,
            scale_shift_table: vb.get((2, width), "scale_shift_table")?,
            proj_out: Linear::load(width, outputs, &exact.pp("proj_out"))?,
            dtype: vb.dtype(),
            weight_bytes: vb.bytes_kept() - bytes_before,
            config,
        })
    }

    /// The architecture it was built from.
    #[must_use]
    pub fn config(&self) -> &PixArtConfig {
        &self.config
    }

    /// Patches down and across of a picture of so many latent pixels.
    fn patches(&self, height: usize, width: usize) -> (usize, usize) {
        (height / self.config.patch_size, width / self.config.patch_size)
    }

    /// The text states as the blocks take them.
    fn text(&self, context: &Activation) -> TensorResult<Activation> {
        let context = context.to_dtype(self.dtype)?;
        match &self.caption_projection {
            Some([first, second]) => second.forward(&gelu_tanh(&first.forward(&context)?)?),
            None => Ok(context),
        }
    }

    /// Tokens `[B, rows·columns, C]` → `[B, h, w, channels of a latent]`: last norm, projection, and each patch's pixels
    /// put in their places. A learned sigma is dropped.
    fn picture(
        &self,
        x: &Activation,
        embedded: &Activation,
        (rows, columns): (usize, usize),
    ) -> TensorResult<Activation> {
        let PixArtConfig { in_channels, out_channels, patch_size: patch, .. } = self.config;
        let batch = x.dim(0)?;
        let vectors = embedded.unsqueeze(1)?.broadcast_add(&(&self.scale_shift_table).into())?;
        let vector = |index: usize| vectors.narrow(1, index, 1)?.squeeze(1)?.contiguous();
        let normed = modulated_norm(x, &vector(1)?, &vector(0)?, OUTPUT_NORM_EPS)?;
        let pixels = self.proj_out.forward(&normed)?;
        let pixels = pixels.reshape((batch * rows, columns, patch, patch * out_channels))?;
        let pixels = pixels.transpose(1, 2)?.contiguous()?;
        let pixels = pixels.reshape((batch, rows * patch, columns * patch, out_channels))?;
        pixels.narrow(D::Minus1, 0, in_channels)?.contiguous()
    }
}

impl DenoisingNetwork for PixArtTransformer2DModel {
    fn shape(&self) -> Result<DenoiserShape, DenoiserError> {
        let PixArtConfig { in_channels, sample_size, patch_size, .. } = self.config;
        let native = Some((sample_size, sample_size));
        DenoiserShape::new((in_channels, in_channels), native, patch_size)
            .map_err(|reason| DenoiserError::Unsuited(format!("the transformer {reason}")))
    }

    fn check_text(&self, text: &TextConditioner) -> Result<(), DenoiserError> {
        let (width, _) = text.widths();
        if width == self.config.text_width {
            return Ok(());
        }
        Err(DenoiserError::Text(format!(
            "the transformer takes text of width {}, the text encoder makes {width}",
            self.config.text_width
        )))
    }

    /// Of the micro-conditioning it takes the target's size.
    fn condition(
        &self,
        text: &TextConditioning,
        micro: MicroConditioning,
    ) -> TensorResult<Conditioning> {
        let rows = text.context.dim(0)?;
        Ok(Conditioning {
            context: text.context.clone(),
            lengths: text.lengths.clone(),
            pooled: None,
            micro: self.adaln_single.micro(micro, rows, text.context.trace())?,
        })
    }

    fn prior_sizes(&self, height: usize, width: usize) -> Vec<(usize, usize)> {
        vec![self.patches(height, width); self.config.num_layers]
    }

    /// `sample` is `[B, h, w, channels]`, of which the patch size divides height and width.
    fn forward(
        &self,
        sample: &Activation,
        timestep: f64,
        cond: &Conditioning,
        prior: Prior<'_>,
    ) -> TensorResult<Activation> {
        let (batch, height, width, channels) = sample.dims4()?;
        let (rows, columns) = self.patches(height, width);
        let patch = self.config.patch_size;
        let (context_batch, _, _) = cond.context.dims3()?;
        if channels != self.config.in_channels
            || context_batch != batch
            || (rows * patch, columns * patch) != (height, width)
        {
            candle_core::bail!(
                "pixart: a sample of {:?} with a context of {:?}, for {} channels and patches of {patch}",
                sample.shape(),
                cond.context.shape(),
                self.config.in_channels
            );
        }
        let mut cursor = PriorCursor::new(prior);
        let (vectors, embedded) =
            self.adaln_single.forward(timestep, batch, cond.micro.as_ref(), sample.trace())?;
        let context = self.text(&cond.context)?;
        let text = Text { context: &context, lengths: cond.lengths.as_deref() };

        let x = self.patch.forward(&sample.to_dtype(self.dtype)?)?;
        let x = x.reshape((batch, rows * columns, self.config.width()))?;
        let places = self.positions.table(rows, columns, &x)?;
        let mut x =
            add(&x.to_dtype(DType::F32)?, &places.repeat((batch, 1, 1))?)?.to_dtype(self.dtype)?;
        drop(places);
        for block in &self.blocks {
            x = block.forward(&x, text, &vectors, (rows, columns), &mut cursor)?;
        }
        cursor.finish()?;
        self.picture(&x, &embedded, (rows, columns))
    }

    fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }
}
