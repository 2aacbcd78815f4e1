//! Contents of a weights file that is not what was asked for. Users pass a LoRA, a ControlNet or an autoencoder
//! as a model often enough that a message should name what they have.

use std::fmt;

use super::autoencoder_kl;
use crate::weights::tensors::TensorMap;

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

impl FileContents {
    /// Contents of a file with these tensors; `has_denoiser` tells whether a family finds a denoiser among them.
    pub(super) fn of(tensors: &TensorMap, has_denoiser: bool) -> Self {
        let any = |part: &str| tensors.names().any(|name| name.contains(part));
        if any("lora_") || any(".lora.") || any("hada_w") || any("lokr_w") {
            Self::Lora
        } else if any("control_model.") || any("controlnet_cond_embedding.") {
            Self::ControlNet
        } else if has_denoiser {
            Self::Denoiser
        } else if autoencoder_kl::find_in(tensors).is_some() {
            Self::Vae
        } else if any("encoder.layers.0.weight") && any("decoder.layers.0.weight") {
            Self::TinyVae
        } else if any("double_blocks.") || any("joint_blocks.") || any("transformer_blocks.") {
            Self::Transformer
        } else if any("text_model.") || any("resblocks.") {
            Self::TextEncoder
        } else {
            Self::Unknown
        }
    }
}
