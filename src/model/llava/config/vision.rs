//! The vision tower's part of a LLaVA model's `config.json` (transformers `models/clip/configuration_clip.py`).

use serde::Deserialize;
use serde_json::Value;

use super::{parse, unsupported};
use crate::model::llava::LlavaError;
use crate::model::text::HiddenAct;

/// CLIP's vision tower.
#[derive(Clone, Debug)]
pub struct VisionConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// side of a picture
    pub image_size: usize,
    /// side of a patch
    pub patch_size: usize,
    pub layer_norm_eps: f64,
    pub hidden_act: HiddenAct,
}

impl VisionConfig {
    /// Patches in a row and in a column.
    #[must_use]
    pub fn side(&self) -> usize {
        self.image_size / self.patch_size
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct RawVision {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    layer_norm_eps: f64,
    hidden_act: String,
}

impl Default for RawVision {
    /// `CLIPVisionConfig`.
    fn default() -> Self {
        Self {
            model_type: "clip_vision_model".to_owned(),
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            layer_norm_eps: 1e-5,
            hidden_act: "quick_gelu".to_owned(),
        }
    }
}

impl RawVision {
    /// `LlavaConfig`'s own, ViT-L/14 at 336 pixels, where it says nothing of the tower.
    fn of_llava() -> Self {
        Self {
            hidden_size: 1024,
            intermediate_size: 4096,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            image_size: 336,
            patch_size: 14,
            ..Self::default()
        }
    }
}

impl VisionConfig {
    pub(super) fn from_json(config: &Value) -> Result<Self, LlavaError> {
        let raw = if config.is_null() { RawVision::of_llava() } else { parse(config)? };
        if raw.model_type != "clip_vision_model" {
            return Err(unsupported(
                "vision_config.model_type",
                raw.model_type,
                "clip_vision_model",
            ));
        }
        if raw.num_channels != 3 {
            return Err(unsupported("vision_config.num_channels", raw.num_channels, "3"));
        }
        let heads = raw.num_attention_heads;
        if heads == 0 || raw.hidden_size == 0 || !raw.hidden_size.is_multiple_of(heads) {
            let supported = "a divisor of hidden_size";
            return Err(unsupported("vision_config.num_attention_heads", heads, supported));
        }
        if raw.patch_size == 0 || raw.image_size < raw.patch_size {
            let supported = "1 to image_size";
            return Err(unsupported("vision_config.patch_size", raw.patch_size, supported));
        }
        Ok(Self {
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: heads,
            image_size: raw.image_size,
            patch_size: raw.patch_size,
            layer_norm_eps: raw.layer_norm_eps,
            hidden_act: match raw.hidden_act.as_str() {
                "quick_gelu" => HiddenAct::QuickGelu,
                "gelu" => HiddenAct::Gelu,
                other => {
                    let supported = "quick_gelu, gelu";
                    return Err(unsupported("vision_config.hidden_act", other, supported));
                }
            },
        })
    }
}
