//! `AutoencoderTiny` (diffusers `models/autoencoders/autoencoder_tiny.py` and `vae.py`, after
//! TAESD): convolutions and ReLU alone, no norms and no attention, so that a tile with enough
//! padding equals the whole exactly.

use candle_core::{DType, Result};

use super::{LatentScaling, TinyConfig};
use crate::backend::ops::{Conv2d, upsample_nearest_2x};
use crate::backend::{Activation, Params};

/// The encoder and decoder of `AutoencoderTiny`, on unscaled latents.
#[derive(Clone, Debug)]
pub struct AutoencoderTiny {
    encoder: Vec<TinyLayer>,
    decoder: Vec<TinyLayer>,
    factor: usize,
    latent_channels: usize,
    context: usize,
    scaling: LatentScaling,
    dtype: DType,
    weight_bytes: usize,
}

impl AutoencoderTiny {
    /// Reads the tensors below `vb`, by diffusers' names.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(config: &TinyConfig, vb: &Params) -> Result<Self> {
        let bytes_before = vb.bytes_kept();
        Ok(Self {
            encoder: load_encoder(config, &vb.pp("encoder.layers"))?,
            decoder: load_decoder(config, &vb.pp("decoder.layers"))?,
            factor: config.factor(),
            latent_channels: config.latent_channels,
            context: config.context(),
            scaling: LatentScaling::Uniform {
                factor: config.scaling_factor,
                shift: config.shift_factor.unwrap_or(0.0),
            },
            dtype: vb.dtype(),
            weight_bytes: vb.bytes_kept() - bytes_before,
        })
    }

    /// `[B, H, W, 3]` in `-1..=1` → `[B, H/f, W/f, C]`.
    pub(super) fn encode(&self, image: &Activation) -> Result<Activation> {
        // TAESD was trained on 0..=1.
        let shifted = image.affine(1.0, 1.0)?;
        let unit = shifted.affine(0.5, 0.0)?;
        drop(shifted);
        run(&self.encoder, unit)
    }

    /// `[B, h, w, C]` → `[B, f·h, f·w, 3]`.
    pub(super) fn decode(&self, z: &Activation) -> Result<Activation> {
        let soft_clamped = z.affine(1.0 / 3.0, 0.0)?.tanh()?.affine(3.0, 0.0)?;
        let unit = run(&self.decoder, soft_clamped)?;
        let doubled = unit.affine(2.0, 0.0)?;
        // The largest values of all: never more than two at once.
        drop(unit);
        doubled.affine(1.0, -1.0)
    }

    pub(super) fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    pub(super) fn factor(&self) -> usize {
        self.factor
    }

    pub(super) fn latent_channels(&self) -> usize {
        self.latent_channels
    }

    pub(super) fn context(&self) -> usize {
        self.context
    }

    pub(super) fn scaling(&self) -> &LatentScaling {
        &self.scaling
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }
}

/// One element of diffusers' `nn.Sequential`s.
#[derive(Clone, Debug)]
enum TinyLayer {
    Conv(Conv2d),
    Relu,
    Block(Box<TinyBlock>),
    /// Nearest-neighbour enlargement by `2^n`.
    Enlarge(u32),
}

fn run(layers: &[TinyLayer], input: Activation) -> Result<Activation> {
    layers.iter().try_fold(input, |x, layer| match layer {
        TinyLayer::Conv(conv) => conv.forward(&x),
        TinyLayer::Relu => x.relu(),
        TinyLayer::Block(block) => block.forward(&x),
        TinyLayer::Enlarge(doublings) => {
            (0..*doublings).try_fold(x, |x, _| upsample_nearest_2x(&x))
        }
    })
}

/// diffusers' `AutoencoderTinyBlock` of equal widths (its skip is then the identity).
#[derive(Clone, Debug)]
struct TinyBlock {
    convs: [Conv2d; 3],
}

impl TinyBlock {
    fn load(width: usize, vb: &Params) -> Result<Self> {
        // The odd places of the sequence are activations.
        let conv = |index: usize| Conv2d::load(width, width, 3, 1, 1, &vb.pp("conv").pp(index));
        Ok(Self { convs: [conv(0)?, conv(2)?, conv(4)?] })
    }

    fn forward(&self, x: &Activation) -> Result<Activation> {
        let h = self.convs[0].forward(x)?.relu()?;
        let h = self.convs[1].forward(&h)?.relu()?;
        let sum = {
            let y = self.convs[2].forward(&h)?;
            y.add(x)?
        };
        sum.relu()
    }
}

fn load_encoder(config: &TinyConfig, vb: &Params) -> Result<Vec<TinyLayer>> {
    let mut layers = Vec::new();
    for (level, &blocks) in config.num_encoder_blocks.iter().enumerate() {
        let width = config.encoder_block_out_channels[level];
        let vb_here = vb.pp(layers.len());
        layers.push(TinyLayer::Conv(if level == 0 {
            Conv2d::load(config.in_channels, width, 3, 1, 1, &vb_here)?
        } else {
            Conv2d::load_no_bias(width, width, 3, 2, 1, &vb_here)?
        }));
        for _ in 0..blocks {
            layers.push(TinyLayer::Block(TinyBlock::load(width, &vb.pp(layers.len()))?.into()));
        }
    }
    let width = config.encoder_block_out_channels[config.encoder_block_out_channels.len() - 1];
    let vb_here = vb.pp(layers.len());
    layers.push(TinyLayer::Conv(Conv2d::load(width, config.latent_channels, 3, 1, 1, &vb_here)?));
    Ok(layers)
}

fn load_decoder(config: &TinyConfig, vb: &Params) -> Result<Vec<TinyLayer>> {
    let levels = config.num_decoder_blocks.len();
    let first = config.decoder_block_out_channels[0];
    let conv_in = Conv2d::load(config.latent_channels, first, 3, 1, 1, &vb.pp(0))?;
    let mut layers = vec![TinyLayer::Conv(conv_in), TinyLayer::Relu];
    for (level, &blocks) in config.num_decoder_blocks.iter().enumerate() {
        let width = config.decoder_block_out_channels[level];
        for _ in 0..blocks {
            layers.push(TinyLayer::Block(TinyBlock::load(width, &vb.pp(layers.len()))?.into()));
        }
        if level + 1 < levels {
            layers.push(TinyLayer::Enlarge(config.upsampling_scaling_factor.trailing_zeros()));
            let conv = Conv2d::load_no_bias(width, width, 3, 1, 1, &vb.pp(layers.len()))?;
            layers.push(TinyLayer::Conv(conv));
        } else {
            let conv = Conv2d::load(width, config.out_channels, 3, 1, 1, &vb.pp(layers.len()))?;
            layers.push(TinyLayer::Conv(conv));
        }
    }
    Ok(layers)
}
