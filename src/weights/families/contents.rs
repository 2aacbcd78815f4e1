//! Recognition of a weights file that is not what was asked for, by the names of its tensors.

use super::{autoencoder_kl, qwen3, t5};
use crate::weights::contents::FileContents;
use crate::weights::tensors::TensorMap;

impl FileContents {
    /// Contents of a file with these tensors; `denoiser` is the name of the one that a family finds among them.
    pub(super) fn of(tensors: &TensorMap, denoiser: Option<&'static str>) -> Self {
        let any = |part: &str| tensors.names().any(|name| name.contains(part));
        if any("lora_") || any(".lora.") || any("hada_w") || any("lokr_w") {
            Self::Lora
        } else if any("control_model.")
            || any("controlnet_cond_embedding.")
            || any("input_hint_block.")
        {
            Self::ControlNet
        } else if let Some(name) = denoiser {
            Self::Denoiser(name)
        } else if autoencoder_kl::find_in(tensors).is_some() {
            Self::Vae
        } else if any("encoder.layers.0.weight") && any("decoder.layers.0.weight") {
            Self::TinyVae
        } else if t5::is_in(tensors) {
            Self::T5
        } else if qwen3::is_in(tensors) {
            Self::Qwen3
        } else if any("double_blocks.") || any("joint_blocks.") || any("transformer_blocks.") {
            Self::Transformer
        } else if any("text_model.") || any("resblocks.") {
            Self::TextEncoder
        } else {
            Self::Unknown
        }
    }
}
