//! `AutoencoderKL` (diffusers `models/autoencoders/autoencoder_kl.py` and `vae.py`): the VAE of
//! Stable Diffusion and SDXL, residual blocks with group norms and one attention in the middle; and
//! `AutoencoderKLFlux2`, the same network with packed latents.

mod layerwise;

use candle_core::{DType, Result};

use super::{KlConfig, LatentScaling, globals::GlobalPass, packed::PackedLatents};
use crate::backend::ops::{Conv2d, GroupNorm, Linear, Mask, attention};
use crate::backend::{Activation, MatmulPrecision, Params};

/// The epsilon of every norm here (a constant in diffusers, not in the config).
const EPS: f64 = 1e-6;

/// The encoder and decoder of `AutoencoderKL`, on unscaled latents.
#[derive(Clone, Debug)]
pub struct AutoencoderKl {
    encoder: KlEncoder,
    decoder: KlDecoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    factor: usize,
    /// of the network's own latents
    own_channels: usize,
    latent_channels: usize,
    groups: usize,
    context: usize,
    scaling: LatentScaling,
    dtype: DType,
    weight_bytes: usize,
}

impl AutoencoderKl {
    /// Reads the tensors below `vb`, by diffusers' names.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(config: &KlConfig, vb: &Params) -> Result<Self> {
        let bytes_before = vb.bytes_kept();
        let latent = config.latent_channels;
        let pointwise = |wanted: bool, channels: usize, name: &str| {
            wanted.then(|| Conv2d::load(channels, channels, 1, 1, 0, &vb.pp(name))).transpose()
        };
        Ok(Self {
            encoder: KlEncoder::load(config, &vb.pp("encoder"))?,
            decoder: KlDecoder::load(config, &vb.pp("decoder"))?,
            quant_conv: pointwise(config.use_quant_conv, 2 * latent, "quant_conv")?,
            post_quant_conv: pointwise(config.use_post_quant_conv, latent, "post_quant_conv")?,
            factor: config.factor(),
            own_channels: latent,
            latent_channels: config.channels(),
            groups: config.norm_num_groups,
            context: config.context(),
            scaling: match config.packing {
                Some(packing) => {
                    LatentScaling::Packed(PackedLatents::load(packing, latent, &vb.pp("bn"))?)
                }
                None => LatentScaling::Uniform {
                    factor: config.scaling_factor,
                    shift: config.shift_factor.unwrap_or(0.0),
                },
            },
            dtype: vb.dtype(),
            weight_bytes: vb.bytes_kept() - bytes_before,
        })
    }

    /// `[B, H, W, 3]` → the posterior's mean, the network's own latents.
    pub(super) fn encode(
        &self,
        image: &Activation,
        globals: &mut GlobalPass,
    ) -> Result<Activation> {
        self.posterior_mean(self.encoder.forward(image, globals)?)
    }

    /// The mean, of what the encoder's last convolution gives.
    fn posterior_mean(&self, moments: Activation) -> Result<Activation> {
        let moments = match &self.quant_conv {
            Some(conv) => conv.forward(&moments)?,
            None => moments,
        };
        // Mean and log-variance lie side by side on the channel axis.
        moments.narrow(3, 0, self.own_channels)?.contiguous()
    }

    /// The network's own latents → `[B, H, W, 3]`.
    pub(super) fn decode(&self, z: &Activation, globals: &mut GlobalPass) -> Result<Activation> {
        match &self.post_quant_conv {
            Some(conv) => self.decoder.forward(&conv.forward(z)?, globals),
            None => self.decoder.forward(z, globals),
        }
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

/// `DownEncoderBlock2D`s, the middle, and the projection to mean and log-variance.
#[derive(Clone, Debug)]
struct KlEncoder {
    conv_in: Conv2d,
    levels: Vec<(Vec<KlResnetBlock>, Option<Conv2d>)>,
    mid: KlMidBlock,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl KlEncoder {
    fn load(config: &KlConfig, vb: &Params) -> Result<Self> {
        let widths = &config.block_out_channels;
        let groups = config.norm_num_groups;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let mut levels = Vec::with_capacity(widths.len());
        let mut input = first;
        for (level, &width) in widths.iter().enumerate() {
            let vb = vb.pp("down_blocks").pp(level);
            let resnets = load_resnets(config.layers_per_block, input, width, groups, &vb)?;
            let down = (level + 1 < widths.len())
                .then(|| Conv2d::load(width, width, 3, 2, 0, &vb.pp("downsamplers.0.conv")))
                .transpose()?;
            levels.push((resnets, down));
            input = width;
        }
        Ok(Self {
            conv_in: Conv2d::load(config.in_channels, first, 3, 1, 1, &vb.pp("conv_in"))?,
            levels,
            mid: KlMidBlock::load(config, last, &vb.pp("mid_block"))?,
            norm_out: GroupNorm::load(groups, last, EPS, &vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::load(last, 2 * config.latent_channels, 3, 1, 1, &vb.pp("conv_out"))?,
        })
    }

    fn forward(&self, image: &Activation, globals: &mut GlobalPass) -> Result<Activation> {
        let mut h = self.conv_in.forward(image)?;
        for (resnets, down) in &self.levels {
            for resnet in resnets {
                h = resnet.forward(&h, globals)?;
            }
            if let Some(conv) = down {
                // Only the far sides are padded: `F.pad(x, (0, 1, 0, 1))` in diffusers'
                // Downsample2D, where `torch.nn.Conv2d` would pad both.
                h = conv.forward(&h.pad_with_zeros(1, 0, 1)?.pad_with_zeros(2, 0, 1)?)?;
            }
        }
        let h = self.mid.forward(&h, globals)?;
        self.conv_out.forward(&globals.norm_silu(&self.norm_out, &h)?)
    }
}

/// The middle, `UpDecoderBlock2D`s from the coarsest level to the finest, and the projection to
/// colours.
#[derive(Clone, Debug)]
struct KlDecoder {
    conv_in: Conv2d,
    mid: KlMidBlock,
    levels: Vec<(Vec<KlResnetBlock>, Option<Conv2d>)>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl KlDecoder {
    fn load(config: &KlConfig, vb: &Params) -> Result<Self> {
        let widths = config.decoder_widths();
        let groups = config.norm_num_groups;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let mut levels = Vec::with_capacity(widths.len());
        let mut input = last;
        for (level, &width) in widths.iter().rev().enumerate() {
            let vb = vb.pp("up_blocks").pp(level);
            // One block more than in the encoder (diffusers: `layers_per_block + 1`).
            let resnets = load_resnets(config.layers_per_block + 1, input, width, groups, &vb)?;
            let up = (level + 1 < widths.len())
                .then(|| Conv2d::load(width, width, 3, 1, 1, &vb.pp("upsamplers.0.conv")))
                .transpose()?;
            levels.push((resnets, up));
            input = width;
        }
        Ok(Self {
            conv_in: Conv2d::load(config.latent_channels, last, 3, 1, 1, &vb.pp("conv_in"))?,
            mid: KlMidBlock::load(config, last, &vb.pp("mid_block"))?,
            levels,
            norm_out: GroupNorm::load(groups, first, EPS, &vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::load(first, config.out_channels, 3, 1, 1, &vb.pp("conv_out"))?,
        })
    }

    fn forward(&self, z: &Activation, globals: &mut GlobalPass) -> Result<Activation> {
        let mut h = self.mid.forward(&self.conv_in.forward(z)?, globals)?;
        for (resnets, up) in &self.levels {
            for resnet in resnets {
                h = resnet.forward(&h, globals)?;
            }
            if let Some(conv) = up {
                let (_, height, width, _) = h.dims4()?;
                h = conv.forward_doubled(&h, 2 * height, 2 * width)?;
            }
        }
        self.conv_out.forward(&globals.norm_silu(&self.norm_out, &h)?)
    }
}

/// `ResnetBlock2D` without a timestep: norm, SiLU, convolution, twice, around a shortcut.
#[derive(Clone, Debug)]
struct KlResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl KlResnetBlock {
    fn load(input: usize, output: usize, groups: usize, vb: &Params) -> Result<Self> {
        Ok(Self {
            norm1: GroupNorm::load(groups, input, EPS, &vb.pp("norm1"))?,
            conv1: Conv2d::load(input, output, 3, 1, 1, &vb.pp("conv1"))?,
            norm2: GroupNorm::load(groups, output, EPS, &vb.pp("norm2"))?,
            conv2: Conv2d::load(output, output, 3, 1, 1, &vb.pp("conv2"))?,
            shortcut: (input != output)
                .then(|| Conv2d::load(input, output, 1, 1, 0, &vb.pp("conv_shortcut")))
                .transpose()?,
        })
    }

    fn forward(&self, x: &Activation, globals: &mut GlobalPass) -> Result<Activation> {
        let h = self.conv1.forward(&globals.norm_silu(&self.norm1, x)?)?;
        let h = globals.norm_silu(&self.norm2, &h)?;
        match &self.shortcut {
            Some(conv) => self.conv2.forward_add(&h, &conv.forward(x)?),
            None => self.conv2.forward_add(&h, x),
        }
    }
}

fn load_resnets(
    count: usize,
    input: usize,
    output: usize,
    groups: usize,
    vb: &Params,
) -> Result<Vec<KlResnetBlock>> {
    (0..count)
        .map(|index| {
            let input = if index == 0 { input } else { output };
            KlResnetBlock::load(input, output, groups, &vb.pp("resnets").pp(index))
        })
        .collect()
}

/// `UNetMidBlock2D`: a residual block on each side of an optional attention.
#[derive(Clone, Debug)]
struct KlMidBlock {
    before: KlResnetBlock,
    attention: Option<MidAttention>,
    after: KlResnetBlock,
}

impl KlMidBlock {
    fn load(config: &KlConfig, width: usize, vb: &Params) -> Result<Self> {
        let groups = config.norm_num_groups;
        Ok(Self {
            before: KlResnetBlock::load(width, width, groups, &vb.pp("resnets.0"))?,
            attention: config
                .mid_block_add_attention
                .then(|| MidAttention::load(groups, width, &vb.pp("attentions.0")))
                .transpose()?,
            after: KlResnetBlock::load(width, width, groups, &vb.pp("resnets.1"))?,
        })
    }

    fn forward(&self, x: &Activation, globals: &mut GlobalPass) -> Result<Activation> {
        let h = self.before.forward(x, globals)?;
        let h = match &self.attention {
            Some(attention) => attention.forward(&h, globals)?,
            None => h,
        };
        self.after.forward(&h, globals)
    }
}

/// Single-headed self-attention over all pixels, with its own norm and residual.
#[derive(Clone, Debug)]
struct MidAttention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    precision: MatmulPrecision,
}

impl MidAttention {
    fn load(groups: usize, width: usize, vb: &Params) -> Result<Self> {
        // Checkpoints from before diffusers 0.12 (SD 1.5's and the first SDXL VAEs among them)
        // carry the names of its old AttentionBlock.
        let names = if vb.contains_tensor("query.weight") {
            ["query", "key", "value", "proj_attn"]
        } else {
            ["to_q", "to_k", "to_v", "to_out.0"]
        };
        let linear = |name: &str| Linear::load(width, width, &vb.pp(name));
        Ok(Self {
            norm: GroupNorm::load(groups, width, EPS, &vb.pp("group_norm"))?,
            q: linear(names[0])?,
            k: linear(names[1])?,
            v: linear(names[2])?,
            out: linear(names[3])?,
            precision: vb.precision(),
        })
    }

    fn forward(&self, x: &Activation, globals: &mut GlobalPass) -> Result<Activation> {
        let (batch, height, width, channels) = x.dims4()?;
        let tokens = (batch, height * width, channels);
        let h = globals.norm(&self.norm, x)?.reshape(tokens)?;
        let (q, k, v) = (self.q.forward(&h)?, self.k.forward(&h)?, self.v.forward(&h)?);
        drop(h);
        let places = (batch, height, width, channels);
        let (q, k, v) = match globals.attended(&k.reshape(places)?, &v.reshape(places)?)? {
            // Every query sees the same keys, whichever input it comes from.
            Some((keys, values)) => {
                (q.reshape((1, batch * height * width, channels))?, keys, values)
            }
            None => (q, k, v),
        };
        let h = attention(&q, &k, &v, 1, Mask::None, self.precision)?.reshape(tokens)?;
        self.out.forward_add(&h, &x.reshape(tokens)?)?.reshape(places)
    }
}
