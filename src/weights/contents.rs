//! Contents of a weights file that is not what was asked for. Users pass a LoRA, a ControlNet or an autoencoder
//! as a model often enough that a message should name what they have.

use std::fmt;

/// Contents of a weights file that is not what was asked for, as its tensors tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileContents {
    /// changes to a model's weights
    Lora,
    /// a ControlNet
    ControlNet,
    /// a denoiser without text encoders
    Denoiser,
    /// an `AutoencoderKL` alone
    Vae,
    /// an `AutoencoderTiny` alone, whose tensors do not show its configuration
    TinyVae,
    /// a denoiser of a family that is not supported
    Transformer,
    /// a text encoder alone
    TextEncoder,
    /// none of these
    Unknown,
}

impl fmt::Display for FileContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lora => "a LoRA, not a model; use it on top of a model",
            Self::ControlNet => "a ControlNet, not a model: not supported",
            Self::Denoiser => {
                "a UNet without text encoders; use it as the UNet of a whole model"
            }
            Self::Vae => "a VAE alone; use it as the VAE of a whole model",
            Self::TinyVae => {
                "an AutoencoderTiny alone; give its folder with config.json as the VAE of a whole model"
            }
            Self::Transformer => {
                "a diffusion transformer, not a model of the Stable Diffusion family with a UNet: not \
                 supported"
            }
            Self::TextEncoder => "a text encoder alone, not a model",
            Self::Unknown => "no model of the Stable Diffusion family: it has no UNet",
        })
    }
}
