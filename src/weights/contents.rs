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
    /// a denoiser without text encoders, by its name
    Denoiser(&'static str),
    /// an `AutoencoderKL` alone
    Vae,
    /// an `AutoencoderTiny` alone, whose tensors do not show its configuration
    TinyVae,
    /// a denoiser of a family that is not supported
    Transformer,
    /// a text encoder alone
    TextEncoder,
    /// a T5 text encoder
    T5,
    /// a Qwen3 text encoder
    Qwen3,
    /// none of these
    Unknown,
}

impl fmt::Display for FileContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Denoiser(name) => {
                return write!(
                    f,
                    "a {name} without text encoders; use it as the {name} of a whole model"
                );
            }
            Self::Lora => "a LoRA, not a model; use it on top of a model",
            Self::ControlNet => "a ControlNet, not a model; use it beside a model",
            Self::Vae => "a VAE alone; use it as the VAE of a whole model",
            Self::TinyVae => {
                "an AutoencoderTiny alone; give its folder with config.json as the VAE of a whole model"
            }
            Self::Transformer => "a diffusion transformer of a family that is not supported",
            Self::TextEncoder => "a text encoder alone, not a model",
            Self::T5 => "a T5 text encoder alone, not a model",
            Self::Qwen3 => "a Qwen3 text encoder alone, not a model",
            Self::Unknown => {
                "no model of a family that is supported: it has no UNet and no transformer"
            }
        };
        f.write_str(what)
    }
}
