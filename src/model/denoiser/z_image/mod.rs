//! `ZImageTransformer2DModel` of Z-Image and Z-Image-Turbo: a diffusion transformer in which the tokens of picture and text
//! are one stream. Built from diffusers' `config.json`, reading diffusers' tensor names. Reference:
//! `diffusers/models/transformers/transformer_z_image.py`, and the loop of `pipelines/z_image/pipeline_z_image.py` for what
//! the timestep and the output mean.

mod block;
mod config;
mod error;
mod position;
mod rows;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::{
    conditioning::{Conditioning, MicroConditioning},
    error::DenoiserError,
    network::{DenoiserClass, DenoisingNetwork},
    prior::{Prior, PriorCursor},
    rotary::Angles,
    shape::DenoiserShape,
    timestep::Sinusoids,
};
use crate::backend::ops::{Linear, RmsNorm, modulated_norm, silu};
use crate::backend::{Activation, MatmulPrecision, Params, Trace};
use crate::model::text::{TextConditioner, TextConditioning};
use block::{Block, Picture};
use config::PATCH;
pub use config::ZImageConfig;
pub use error::ZImageError;
use position::{axes, of_picture, of_text};
use rows::{UNIT, by_tokens};

/// The class in diffusers' configurations.
pub(super) const CLASS: DenoiserClass = DenoiserClass {
    name: "ZImageTransformer2DModel",
    load: |config, file, params| {
        let network = ZImageConfig::from_value(config)
            .and_then(|config| ZImageTransformer::load(config, params));
        match network {
            Ok(network) => Ok(Arc::new(network)),
            Err(error) => Err(error.of_file(file.to_owned())),
        }
    },
};

/// Native size in latent pixels: that of the pipelines, 1024 pixels. The configuration has none.
const NATIVE: usize = 128;

/// Timesteps of the schedules that the model is trained with: this one is pure noise.
const TIMESTEPS: f32 = 1000.0;

/// Features of a timestep, and the width of the layer behind them.
const TIMESTEP_FEATURES: usize = 256;
const TIMESTEP_INNER: usize = 1024;

/// ε of the last norm.
const FINAL_EPS: f64 = 1e-6;

/// Name of the first and the last layer for the patches that there are: 2 × 2 pixels of one picture.
const PATCH_NAME: &str = "2-1";

/// The denoiser. It computes in the dtype of the `Params` it was loaded from; norms, softmax, rotation and sinusoidal
/// embeddings are f32.
#[derive(Clone, Debug)]
pub struct ZImageTransformer {
    config: ZImageConfig,
    sinusoids: Sinusoids,
    timestep: [Linear; 2],
    text_norm: RmsNorm,
    text_embedder: Linear,
    x_embedder: Linear,
    /// what texts and pictures are filled up with, `[1, dim]`
    text_pad: Tensor,
    x_pad: Tensor,
    noise_refiner: Vec<Block>,
    context_refiner: Vec<Block>,
    layers: Vec<Block>,
    final_modulation: Linear,
    final_linear: Linear,
    dtype: DType,
    device: Device,
    weight_bytes: usize,
}

impl ZImageTransformer {
    /// Reads every tensor of the architecture below `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape than `config` says.
    pub fn load(config: ZImageConfig, vb: &Params) -> Result<Self, ZImageError> {
        let bytes_before = vb.bytes_kept();
        let ZImageConfig { dim, in_channels, text_width, .. } = config;
        let values = PATCH * PATCH * in_channels;
        // The first and the last layers take little time, but their rounding would affect every pixel.
        let exact = vb.with_precision(MatmulPrecision::F32);
        let (timestep, text) = (exact.pp("t_embedder.mlp"), exact.pp("cap_embedder"));
        let last = exact.pp("all_final_layer").pp(PATCH_NAME);
        let width = config.adaln_width();
        let blocks = |name: &str, count: usize, modulated: bool| {
            let vb = vb.pp(name);
            (0..count)
                .map(|index| Block::load(&config, modulated, &vb.pp(index)))
                .collect::<candle_core::Result<Vec<_>>>()
        };
        Ok(Self {
            sinusoids: Sinusoids::new(TIMESTEP_FEATURES, true, 0.0, vb.device())?,
            timestep: [
                Linear::load(TIMESTEP_FEATURES, TIMESTEP_INNER, &timestep.pp(0))?,
                Linear::load(TIMESTEP_INNER, width, &timestep.pp(2))?,
            ],
            text_norm: RmsNorm::load(text_width, config.norm_eps, &text.pp(0))?,
            text_embedder: Linear::load(text_width, dim, &text.pp(1))?,
            x_embedder: Linear::load(values, dim, &exact.pp("all_x_embedder").pp(PATCH_NAME))?,
            text_pad: vb.get((1, dim), "cap_pad_token")?,
            x_pad: vb.get((1, dim), "x_pad_token")?,
            noise_refiner: blocks("noise_refiner", config.refiner_layers, true)?,
            context_refiner: blocks("context_refiner", config.refiner_layers, false)?,
            layers: blocks("layers", config.layers, true)?,
            final_modulation: Linear::load(width, dim, &last.pp("adaLN_modulation.1"))?,
            final_linear: Linear::load(dim, values, &last.pp("linear"))?,
            dtype: vb.dtype(),
            device: vb.device().clone(),
            weight_bytes: vb.bytes_kept() - bytes_before,
            config,
        })
    }

    /// Embedding of a timestep for so many samples, `[batch, width]`. The model counts from the picture: its time is
    /// `1 − σ`.
    fn embedding(
        &self,
        timestep: f64,
        batch: usize,
        trace: Option<&Trace>,
    ) -> candle_core::Result<Activation> {
        let time = (TIMESTEPS - timestep as f32) / TIMESTEPS * self.config.t_scale as f32;
        let features = self.sinusoids.of_timestep(time.into(), batch, trace)?;
        let features = features.to_dtype(self.dtype)?;
        self.timestep[1].forward(&silu(&self.timestep[0].forward(&features)?)?)
    }

    /// Texts `[B, N, width]`, of which so many tokens count in each, filled up to `tokens`, refined: `[B, tokens, dim]`.
    fn text(
        &self,
        context: &Activation,
        lengths: &[usize],
        tokens: usize,
        emb: &Activation,
    ) -> candle_core::Result<Activation> {
        let known = context.narrow(1, 0, tokens.min(context.dim(1)?))?.contiguous()?;
        let embedded = self.text_embedder.forward(&self.text_norm.forward(&known)?)?;
        drop(known);
        let filled = |(row, &length): (usize, &usize)| {
            let own = embedded.narrow(0, row, 1)?.narrow(1, 0, length)?;
            padded(&own, &self.text_pad, tokens)
        };
        let rows: Vec<_> =
            lengths.iter().enumerate().map(filled).collect::<candle_core::Result<_>>()?;
        drop(embedded);
        let mut text = Activation::cat(&rows, 0)?;
        drop(rows);
        let angles =
            Angles::new(axes(&self.config), &of_text(tokens), &self.device, context.trace())?;
        for block in &self.context_refiner {
            text = block.forward(&text, &angles, emb, None)?;
        }
        Ok(text)
    }

    /// One prediction for samples whose texts have the same number of tokens.
    fn predict(
        &self,
        z: &Activation,
        timestep: f64,
        (context, lengths): (&Activation, &[usize]),
        prior: Prior<'_>,
    ) -> candle_core::Result<Activation> {
        let (batch, height, width, channels) = z.dims4()?;
        let mut cursor = PriorCursor::new(prior);
        let emb = self.embedding(timestep, batch, z.trace())?;
        let tokens = lengths.first().map_or(0, |length| length.next_multiple_of(UNIT));
        let text = self.text(context, lengths, tokens, &emb)?;

        let size = (height / PATCH, width / PATCH);
        let patches = size.0 * size.1;
        let x =
            z.to_dtype(self.dtype)?.reshape((batch, size.0, PATCH, size.1, PATCH * channels))?;
        let x = x.transpose(2, 3)?.contiguous()?;
        let x =
            self.x_embedder.forward(&x.reshape((batch, patches, PATCH * PATCH * channels))?)?;
        let picture = Picture { size, tokens: patches.next_multiple_of(UNIT) };
        let mut x = padded(&x, &self.x_pad, picture.tokens)?;
        let mut places = of_picture(tokens, size, picture.tokens - patches);
        let angles = Angles::new(axes(&self.config), &places, &self.device, z.trace())?;
        for block in &self.noise_refiner {
            x = block.forward(&x, &angles, &emb, None)?;
        }
        drop(angles);

        places.extend(of_text(tokens));
        let angles = Angles::new(axes(&self.config), &places, &self.device, z.trace())?;
        let mut x = Activation::cat(&[&x, &text], 1)?;
        drop(text);
        for block in &self.layers {
            x = block.forward(&x, &angles, &emb, Some((picture, &mut cursor)))?;
        }
        cursor.finish()?;

        let x = x.narrow(1, 0, patches)?.contiguous()?;
        let scale = self.final_modulation.forward(&silu(&emb)?)?;
        let x = modulated_norm(&x, &scale, &scale.zeros_like()?, FINAL_EPS)?;
        let y = self.final_linear.forward(&x)?;
        drop(x);
        let y = y.reshape((batch, size.0, size.1, PATCH, PATCH * channels))?;
        let y = y.transpose(2, 3)?.contiguous()?.reshape((batch, height, width, channels))?;
        // It walks from the noise to the picture.
        y.affine(-1.0, 0.0)
    }
}

/// Tokens `[B, N, dim]` filled up to `tokens` with one `[1, dim]`.
fn padded(x: &Activation, pad: &Tensor, tokens: usize) -> candle_core::Result<Activation> {
    let (batch, count, _) = x.dims3()?;
    if count == tokens {
        return Ok(x.clone());
    }
    let pad = Activation::from(pad).unsqueeze(0)?.repeat((batch, tokens - count, 1))?;
    Activation::cat(&[x, &pad], 1)
}

impl DenoisingNetwork for ZImageTransformer {
    fn shape(&self) -> Result<DenoiserShape, DenoiserError> {
        let channels = self.config.in_channels;
        let largest = self.config.largest();
        let native = NATIVE.min(largest);
        DenoiserShape::new((channels, channels), Some((native, native)), PATCH)
            .and_then(|shape| shape.with_largest(largest))
            .map_err(|reason| DenoiserError::Unsuited(format!("the transformer {reason}")))
    }

    fn check_text(&self, text: &TextConditioner) -> Result<(), DenoiserError> {
        let (taken, (width, _)) = (self.config.text_width, text.widths());
        if width != taken || !text.has_lengths() {
            return Err(DenoiserError::Text(format!(
                "the transformer takes text of width {taken}, the text encoders make {width}"
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
        if text.lengths.is_none() {
            candle_core::bail!("z-image: texts without lengths");
        }
        Ok(Conditioning {
            context: text.context.clone(),
            lengths: text.lengths.clone(),
            pooled: None,
            micro: None,
        })
    }

    /// A layer is the text part of the joint attention of a block behind the refiners.
    fn prior_sizes(&self, height: usize, width: usize) -> Vec<(usize, usize)> {
        vec![(height / PATCH, width / PATCH); self.config.layers]
    }

    /// `z` is `[B, h, w, in_channels]`, and so is the result: whole patches, no more a side than diffusers' table of positions
    /// has. `timestep` is σ·1000.
    fn forward(
        &self,
        z: &Activation,
        timestep: f64,
        cond: &Conditioning,
        prior: Prior<'_>,
    ) -> candle_core::Result<Activation> {
        let (batch, height, width, channels) = z.dims4()?;
        let (rows, known, _) = cond.context.dims3()?;
        let Some(lengths) = &cond.lengths else {
            candle_core::bail!("z-image: conditions without lengths");
        };
        let largest = self.config.largest();
        let is_whole = |side: usize| side > 0 && side.is_multiple_of(PATCH) && side <= largest;
        if channels != self.config.in_channels || !is_whole(height) || !is_whole(width) {
            candle_core::bail!(
                "z-image: a sample of {:?}, for {} channels and sides of up to {largest}",
                z.shape(),
                self.config.in_channels
            );
        }
        let longest = known.min(self.config.axes_lens[0].saturating_sub(UNIT));
        if rows != batch
            || lengths.len() != batch
            || lengths.iter().any(|length| !(1..=longest).contains(length))
        {
            candle_core::bail!(
                "z-image: {batch} samples with texts of {:?} tokens, of which {lengths:?} count",
                cond.context.shape()
            );
        }
        let context = cond.context.to_dtype(self.dtype)?;
        let tokens: Vec<_> = lengths.iter().map(|length| length.next_multiple_of(UNIT)).collect();
        by_tokens(&tokens, prior, |rows, prior| {
            if rows.len() == batch {
                return self.predict(z, timestep, (&context, lengths), prior);
            }
            let own: Vec<_> = rows.iter().map(|&row| lengths[row as usize]).collect();
            let (z, context) = (z.index_select(rows, 0)?, context.index_select(rows, 0)?);
            self.predict(&z, timestep, (&context, &own), prior)
        })
    }

    fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }
}
