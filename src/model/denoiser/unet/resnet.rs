//! The convolutional parts: residual blocks, and the changes of resolution between levels.

use candle_core::Result;

use super::config::UNetConfig;
use crate::backend::ops::{Conv2d, GroupNorm, Linear, silu};
use crate::backend::{Activation, MatmulPrecision, Params};

/// `ResnetBlock2D` with the timestep added between its convolutions.
#[derive(Clone, Debug)]
pub(super) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    pub(super) fn load(
        input: usize,
        output: usize,
        config: &UNetConfig,
        vb: &Params,
    ) -> Result<Self> {
        let (groups, eps) = (config.norm_groups, config.norm_eps);
        let exact = vb.with_precision(MatmulPrecision::F32);
        let shortcut = || Conv2d::load(input, output, 1, 1, 0, &vb.pp("conv_shortcut"));
        Ok(Self {
            norm1: GroupNorm::load(groups, input, eps, &vb.pp("norm1"))?,
            conv1: Conv2d::load(input, output, 3, 1, 1, &vb.pp("conv1"))?,
            time_emb_proj: Linear::load(config.time.width, output, &exact.pp("time_emb_proj"))?,
            norm2: GroupNorm::load(groups, output, eps, &vb.pp("norm2"))?,
            conv2: Conv2d::load(output, output, 3, 1, 1, &vb.pp("conv2"))?,
            conv_shortcut: (input != output).then(shortcut).transpose()?,
        })
    }

    /// `x` is `[B, h, w, input]`, `emb` `[B, width]` with SiLU already applied (it is the same for
    /// every block of a call).
    pub(super) fn forward(&self, x: &Activation, emb: &Activation) -> Result<Activation> {
        let time = self.time_emb_proj.forward(emb)?;
        let hidden = self.conv1.forward_shift(&self.norm1.forward_silu(x)?, &time)?;
        let hidden = self.norm2.forward_silu(&hidden)?;
        match &self.conv_shortcut {
            Some(shortcut) => self.conv2.forward_add(&hidden, &shortcut.forward(x)?),
            None => self.conv2.forward_add(&hidden, x),
        }
    }
}

/// Halves the resolution (`Downsample2D` with a convolution).
#[derive(Clone, Debug)]
pub(super) struct Downsample {
    conv: Conv2d,
    /// zero padding on the far sides only (`downsample_padding` 0)
    far_sides_only: bool,
}

impl Downsample {
    pub(super) fn load(channels: usize, padding: usize, vb: &Params) -> Result<Self> {
        let conv = Conv2d::load(channels, channels, 3, 2, padding, &vb.pp("conv"))?;
        Ok(Self { conv, far_sides_only: padding == 0 })
    }

    pub(super) fn forward(&self, x: &Activation) -> Result<Activation> {
        if !self.far_sides_only {
            return self.conv.forward(x);
        }
        let (_, height, width, _) = x.dims4()?;
        if height % 2 != 0 || width % 2 != 0 {
            // This would round down, and the decoder could not come back by cropping.
            candle_core::bail!("unet: {height}×{width} is odd, and downsample_padding is 0");
        }
        self.conv.forward(&x.pad_with_zeros(1, 0, 1)?.pad_with_zeros(2, 0, 1)?)
    }
}

/// Doubles the resolution (`Upsample2D`), then convolves.
#[derive(Clone, Debug)]
pub(super) struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    pub(super) fn load(channels: usize, vb: &Params) -> Result<Self> {
        Ok(Self { conv: Conv2d::load(channels, channels, 3, 1, 1, &vb.pp("conv"))? })
    }

    /// Enlarges to exactly `height × width`, which is twice the input, or one less where the encoder halved
    /// an odd size. Nearest-neighbour interpolation from n to 2n − 1 (diffusers' `upsample_size`)
    /// takes pixel ⌊i·n/(2n−1)⌋ = ⌊i/2⌋, so it is the doubled picture without its last line.
    pub(super) fn forward(
        &self,
        x: &Activation,
        height: usize,
        width: usize,
    ) -> Result<Activation> {
        self.conv.forward_doubled(x, height, width)
    }
}

/// The time embedding as the residual blocks take it.
pub(super) fn activate(emb: &Activation) -> Result<Activation> {
    silu(emb)
}
