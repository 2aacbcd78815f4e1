//! `Flux2Transformer2DModel` of FLUX.2-klein: a diffusion transformer whose first blocks have picture and text as two streams
//! that attend to each other, and whose other blocks have both as one. Built from diffusers' `config.json`, reading diffusers'
//! tensor names. Reference: `diffusers/models/transformers/transformer_flux2.py`, and `pipelines/flux2/pipeline_flux2_klein.py`
//! for places of tokens and what the timestep means.

mod attention;
mod config;
mod double;
mod error;
mod modulation;
mod position;
mod single;

use std::sync::Arc;

use candle_core::{DType, Device};

use super::{
    conditioning::{Conditioning, MicroConditioning},
    error::DenoiserError,
    network::{DenoiserClass, DenoisingNetwork},
    prior::{Prior, PriorCursor},
    rotary::Angles,
    shape::DenoiserShape,
    timestep::{EmbeddingMlp, Sinusoids},
};
use crate::backend::ops::{Linear, modulated_norm, silu};
use crate::backend::{Activation, MatmulPrecision, Params, Trace};
use crate::model::text::{TextConditioner, TextConditioning};
pub use config::Flux2Config;
use double::{DoubleBlock, Streams};
pub use error::Flux2Error;
use modulation::{Modulation, Rows};
use position::{axes, of_tokens};
use single::SingleBlock;

/// The class in diffusers' configurations.
pub(super) const CLASS: DenoiserClass = DenoiserClass {
    name: "Flux2Transformer2DModel",
    load: |config, file, params| {
        let network = Flux2Config::from_value(config)
            .and_then(|config| Flux2Transformer::load(config, params));
        match network {
            Ok(network) => Ok(Arc::new(network)),
            Err(error) => Err(error.of_file(file.to_owned())),
        }
    },
};

/// Native size in latent pixels: that of the pipelines, 1024 pixels, of which the autoencoder makes one of sixteen a side. The
/// configuration has none.
const NATIVE: usize = 64;

/// The denoiser. It computes in the dtype of the `Params` it was loaded from; norms, softmax, rotation and sinusoidal
/// embeddings are f32.
#[derive(Clone, Debug)]
pub struct Flux2Transformer {
    config: Flux2Config,
    sinusoids: Sinusoids,
    timestep: EmbeddingMlp,
    picture_modulation: Modulation<6>,
    text_modulation: Modulation<6>,
    single_modulation: Modulation<3>,
    x_embedder: Linear,
    context_embedder: Linear,
    double_blocks: Vec<DoubleBlock>,
    single_blocks: Vec<SingleBlock>,
    norm_out: Modulation<2>,
    proj_out: Linear,
    dtype: DType,
    device: Device,
    weight_bytes: usize,
}

impl Flux2Transformer {
    /// Reads every tensor of the architecture below `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape than `config` says.
    pub fn load(config: Flux2Config, vb: &Params) -> Result<Self, Flux2Error> {
        let bytes_before = vb.bytes_kept();
        let width = config.width();
        // The first and the last layers take little time, but their rounding would affect every pixel.
        let exact = vb.with_precision(MatmulPrecision::F32);
        let linear = |input: usize, output: usize, name: &str| {
            Linear::load_no_bias(input, output, &exact.pp(name))
        };
        let time = exact.pp("time_guidance_embed").pp("timestep_embedder");
        let (double, single) = (vb.pp("transformer_blocks"), vb.pp("single_transformer_blocks"));
        Ok(Self {
            sinusoids: Sinusoids::new(config.time_features, true, 0.0, vb.device())?,
            timestep: EmbeddingMlp::load_no_bias(config.time_features, width, &time)?,
            picture_modulation: Modulation::load(&config, &vb.pp("double_stream_modulation_img"))?,
            text_modulation: Modulation::load(&config, &vb.pp("double_stream_modulation_txt"))?,
            single_modulation: Modulation::load(&config, &vb.pp("single_stream_modulation"))?,
            x_embedder: linear(config.in_channels, width, "x_embedder")?,
            context_embedder: linear(config.text_width, width, "context_embedder")?,
            double_blocks: (0..config.double_layers)
                .map(|layer| DoubleBlock::load(&config, &double.pp(layer)))
                .collect::<candle_core::Result<_>>()?,
            single_blocks: (0..config.single_layers)
                .map(|layer| SingleBlock::load(&config, &single.pp(layer)))
                .collect::<candle_core::Result<_>>()?,
            norm_out: Modulation::load(&config, &vb.pp("norm_out"))?,
            proj_out: linear(width, config.out_channels, "proj_out")?,
            dtype: vb.dtype(),
            device: vb.device().clone(),
            weight_bytes: vb.bytes_kept() - bytes_before,
            config,
        })
    }

    /// Embedding of a timestep for so many samples after SiLU, `[batch, width]`.
    fn embedding(
        &self,
        timestep: f64,
        batch: usize,
        trace: Option<&Trace>,
    ) -> candle_core::Result<Activation> {
        let features = self.sinusoids.of_timestep(timestep, batch, trace)?;
        silu(&self.timestep.forward(&features.to_dtype(self.dtype)?)?)
    }
}

impl DenoisingNetwork for Flux2Transformer {
    fn shape(&self) -> Result<DenoiserShape, DenoiserError> {
        let Flux2Config { in_channels, out_channels, .. } = self.config;
        DenoiserShape::new((in_channels, out_channels), Some((NATIVE, NATIVE)), 1)
            .map_err(|reason| DenoiserError::Unsuited(format!("the transformer {reason}")))
    }

    fn check_text(&self, text: &TextConditioner) -> Result<(), DenoiserError> {
        let (taken, (width, _)) = (self.config.text_width, text.widths());
        if width != taken {
            return Err(DenoiserError::Text(format!(
                "the transformer takes text of width {taken}, the text encoders make {width}"
            )));
        }
        Ok(())
    }

    /// The sizes of pictures play no part. Every token of a text counts, those that fill it up included.
    fn condition(
        &self,
        text: &TextConditioning,
        _: MicroConditioning,
    ) -> candle_core::Result<Conditioning> {
        let tokens = text.context.dim(1)?;
        let counted = text.lengths.iter().flatten();
        if counted.into_iter().any(|&length| length != tokens) {
            candle_core::bail!("flux.2: texts of {tokens} tokens, of which some do not count");
        }
        let context = text.context.clone();
        Ok(Conditioning { context, lengths: None, pooled: None, micro: None })
    }

    /// A layer is the text part of a block's attention, of those of two streams and then of those of one.
    fn prior_sizes(&self, height: usize, width: usize) -> Vec<(usize, usize)> {
        vec![(height, width); self.config.double_layers + self.config.single_layers]
    }

    /// `z` is `[B, h, w, in_channels]`, the result `[B, h, w, out_channels]`, of any size: a token is a latent pixel, of which
    /// the autoencoder has put a patch into its channels. `timestep` is σ·1000.
    fn forward(
        &self,
        z: &Activation,
        timestep: f64,
        cond: &Conditioning,
        prior: Prior<'_>,
    ) -> candle_core::Result<Activation> {
        let (batch, height, width, channels) = z.dims4()?;
        let (rows, tokens, _) = cond.context.dims3()?;
        let patches = height * width;
        if channels != self.config.in_channels || rows != batch || tokens == 0 || patches == 0 {
            candle_core::bail!(
                "flux.2: a sample of {:?} with a context of {:?}, for {} input channels",
                z.shape(),
                cond.context.shape(),
                self.config.in_channels
            );
        }
        let (size, eps) = ((height, width), self.config.eps);
        let mut cursor = PriorCursor::new(prior);
        let emb = self.embedding(timestep, batch, z.trace())?;
        let places = of_tokens(tokens, size);
        let angles = Angles::new(axes(&self.config), &places, &self.device, z.trace())?;

        let tokens_of_picture = z.to_dtype(self.dtype)?.reshape((batch, patches, channels))?;
        let mut picture = self.x_embedder.forward(&tokens_of_picture)?;
        drop(tokens_of_picture);
        let mut text = self.context_embedder.forward(&cond.context.to_dtype(self.dtype)?)?;
        let rows_of_text = Rows::of_halves(&self.text_modulation.rows(&emb)?, eps);
        let rows_of_picture = Rows::of_halves(&self.picture_modulation.rows(&emb)?, eps);
        let (of_text, of_picture) = (angles.part(0, tokens)?, angles.part(tokens, patches)?);
        let streams = Streams {
            rows: [&rows_of_text, &rows_of_picture],
            angles: [&of_text, &of_picture],
            size,
        };
        for block in &self.double_blocks {
            [text, picture] = block.forward([&text, &picture], &streams, &mut cursor)?;
        }

        let mut x = Activation::cat(&[&text, &picture], 1)?;
        drop((text, picture));
        let rows = Rows::of_halves(&self.single_modulation.rows(&emb)?, eps);
        let [rows] = &rows[..] else { candle_core::bail!("flux.2: {} halves", rows.len()) };
        for block in &self.single_blocks {
            x = block.forward(&x, rows, &angles, size, &mut cursor)?;
        }
        cursor.finish()?;

        let picture = x.narrow(1, tokens, patches)?.contiguous()?;
        drop(x);
        let rows = self.norm_out.rows(&emb)?;
        let y = self.proj_out.forward(&modulated_norm(&picture, &rows[0], &rows[1], eps)?)?;
        y.reshape((batch, height, width, self.config.out_channels))
    }

    fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }
}
