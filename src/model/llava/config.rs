//! A LLaVA model's `config.json`: its fields, and the values that are supported. Defaults are those of
//! transformers (`models/llava/configuration_llava.py`, `models/llava_next/…`, `models/clip/…`,
//! `models/llama/…`, `models/mistral/…`), on which published files rely: LLaVA-1.5's says nothing
//! of the decoder's width.

mod decoder;
mod vision;

use serde::Deserialize;
use serde_json::Value;

use super::LlavaError;
use crate::model::text::HiddenAct;
use crate::ranges;

pub use decoder::{DecoderConfig, DecoderFamily, RopeScaling};
pub use vision::VisionConfig;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct LlavaConfig {
    pub vision: VisionConfig,
    pub decoder: DecoderConfig,
    /// States of the vision tower that are features, side by side: 0 is before its first layer, n behind
    /// its n-th.
    pub feature_states: Vec<usize>,
    /// `true` if the state of CLIP's class token is a feature too (`full`), before those of the patches.
    pub class_token: bool,
    pub projector_act: HiddenAct,
    pub projector_bias: bool,
    /// the token that stands for a picture in a prompt
    pub image_token: u32,
    /// LLaVA-1.6: the sizes, height and width, that a picture may be tiled at
    pub pinpoints: Option<Vec<(usize, usize)>>,
}

#[derive(Deserialize)]
struct RawLlavaConfig {
    model_type: String,
    text_config: Option<Value>,
    #[serde(default)]
    vision_config: Value,
    image_token_index: Option<u32>,
    image_token_id: Option<u32>,
    #[serde(default = "gelu")]
    projector_hidden_act: String,
    #[serde(default = "yes")]
    multimodal_projector_bias: bool,
    #[serde(default = "default_strategy")]
    vision_feature_select_strategy: String,
    #[serde(default = "default_layer")]
    vision_feature_layer: FeatureLayer,
    image_grid_pinpoints: Option<Vec<(usize, usize)>>,
    #[serde(default)]
    tie_word_embeddings: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FeatureLayer {
    One(i64),
    Several(Vec<i64>),
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn yes() -> bool {
    true
}

fn default_strategy() -> String {
    "default".to_owned()
}

fn default_layer() -> FeatureLayer {
    FeatureLayer::One(-2)
}

const IMAGE_TOKEN: u32 = 32000;
/// LLaVA-1.6's sizes where its configuration names none.
const PINPOINTS: [(usize, usize); 5] =
    [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)];
/// More tiles than this are nobody's configuration.
const MOST_TILES: usize = 64;

fn unsupported(field: &'static str, value: impl ToString, supported: &'static str) -> LlavaError {
    LlavaError::Unsupported { field, value: value.to_string(), supported }
}

fn parse<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, LlavaError> {
    serde_json::from_value(value.clone()).map_err(LlavaError::Config)
}

impl LlavaConfig {
    /// Reads and checks a `config.json`; `generation` is `generation_config.json`, or null.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that this program does not support.
    pub fn from_json(config: &Value, generation: &Value) -> Result<Self, LlavaError> {
        ranges::check(config)?;
        ranges::check(generation)?;
        let raw: RawLlavaConfig = parse(config)?;
        let is_next = match raw.model_type.as_str() {
            "llava" => false,
            "llava_next" => true,
            _ => return Err(unsupported("model_type", raw.model_type, "llava, llava_next")),
        };
        let Some(text) = raw.text_config else {
            return Err(unsupported(
                "text_config",
                "nothing",
                "the layout of transformers; llava-hf has such conversions of the original files",
            ));
        };
        let vision = VisionConfig::from_json(&raw.vision_config)?;
        let mut decoder = DecoderConfig::from_json(&text)?;
        decoder.tie_word_embeddings |= raw.tie_word_embeddings;
        if let Some(end) = generation.get("eos_token_id").filter(|end| !end.is_null()) {
            decoder.end_tokens = end_tokens(end)?;
        }
        let states = match raw.vision_feature_layer {
            FeatureLayer::One(layer) => vec![layer],
            FeatureLayer::Several(layers) => layers,
        };
        let class_token = match raw.vision_feature_select_strategy.as_str() {
            "default" => false,
            // Tiles are put together by rows of patches, among which a class token has no place.
            "full" if !is_next => true,
            other => {
                let supported = if is_next { "default" } else { "default, full" };
                return Err(unsupported("vision_feature_select_strategy", other, supported));
            }
        };
        let pinpoints =
            is_next.then(|| pinpoints(raw.image_grid_pinpoints, vision.image_size)).transpose()?;
        Ok(Self {
            feature_states: feature_states(&states, vision.num_hidden_layers)?,
            class_token,
            projector_act: match raw.projector_hidden_act.as_str() {
                "gelu" => HiddenAct::Gelu,
                "quick_gelu" => HiddenAct::QuickGelu,
                other => {
                    return Err(unsupported("projector_hidden_act", other, "gelu, quick_gelu"));
                }
            },
            projector_bias: raw.multimodal_projector_bias,
            image_token: raw.image_token_index.or(raw.image_token_id).unwrap_or(IMAGE_TOKEN),
            pinpoints,
            vision,
            decoder,
        })
    }

    /// Features of one picture that is not tiled.
    #[must_use]
    pub fn features_per_tile(&self) -> usize {
        self.vision.side().pow(2) + usize::from(self.class_token)
    }
}

fn pinpoints(
    given: Option<Vec<(usize, usize)>>,
    tile: usize,
) -> Result<Vec<(usize, usize)>, LlavaError> {
    let sizes = given.unwrap_or_else(|| PINPOINTS.to_vec());
    let fits = |&(height, width): &(usize, usize)| {
        height > 0
            && width > 0
            && height.is_multiple_of(tile)
            && width.is_multiple_of(tile)
            && (height / tile).saturating_mul(width / tile) <= MOST_TILES
    };
    if sizes.is_empty() || !sizes.iter().all(fits) {
        return Err(unsupported(
            "image_grid_pinpoints",
            format!("{sizes:?}"),
            "heights and widths that are multiples of the vision tower's image_size",
        ));
    }
    Ok(sizes)
}

/// The indices of states that layers numbered from either end stand for.
fn feature_states(layers: &[i64], depth: usize) -> Result<Vec<usize>, LlavaError> {
    let states = depth as i64 + 1;
    let index = |&layer: &i64| {
        let index = if layer < 0 { layer + states } else { layer };
        (0..states).contains(&index).then_some(index as usize)
    };
    layers
        .iter()
        .map(index)
        .collect::<Option<Vec<_>>>()
        .filter(|indices| !indices.is_empty())
        .ok_or_else(|| {
            let supported = "states of the vision tower";
            unsupported("vision_feature_layer", format!("{layers:?}"), supported)
        })
}

fn end_tokens(value: &Value) -> Result<Vec<u32>, LlavaError> {
    if value.is_array() { parse(value) } else { Ok(vec![parse(value)?]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn published(model_type: &str, text: Value) -> Value {
        json!({
            "model_type": model_type,
            "image_token_index": 32000,
            "text_config": text,
            "vision_config": {
                "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
                "model_type": "clip_vision_model", "num_attention_heads": 16,
                "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768,
            },
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
        })
    }

    #[test]
    fn what_published_configs_leave_out_is_transformers_default() {
        let text = json!({"model_type": "llama", "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "vocab_size": 32064});
        let config = LlavaConfig::from_json(&published("llava", text), &Value::Null).unwrap();
        assert_eq!((config.features_per_tile(), &config.feature_states[..]), (576, &[23][..]));
        let decoder = &config.decoder;
        assert_eq!((decoder.hidden_size, decoder.intermediate_size), (4096, 11008));
        assert_eq!((decoder.num_key_value_heads, decoder.head_dim), (32, 128));
        assert_eq!((decoder.rope_theta, decoder.sliding_window), (10_000.0, None));
        assert_eq!((&decoder.end_tokens[..], config.pinpoints), (&[2][..], None));
    }

    #[test]
    fn a_null_window_is_none_and_an_absent_one_mistrals() {
        let text = json!({"model_type": "mistral", "num_key_value_heads": 8, "rope_theta": 1e6,
            "sliding_window": null});
        let config = LlavaConfig::from_json(
            &published("llava_next", text),
            &json!({
                "eos_token_id": [2, 7],
            }),
        );
        let config = config.unwrap();
        let decoder = &config.decoder;
        assert_eq!((decoder.sliding_window, decoder.rope_theta), (None, 1e6));
        assert_eq!((decoder.intermediate_size, &decoder.end_tokens[..]), (14336, &[2, 7][..]));
        assert_eq!(config.pinpoints.unwrap(), PINPOINTS);
        let decoder = DecoderConfig::from_json(&json!({"model_type": "mistral"})).unwrap();
        assert_eq!((decoder.sliding_window, decoder.num_key_value_heads), (Some(4096), 8));
    }

    #[test]
    fn an_unsupported_field_is_named_with_its_value() {
        let llama = || json!({"model_type": "llama"});
        let with = |field: &str, value: Value| {
            let mut config = published("llava", llama());
            config[field] = value;
            config
        };
        for (config, field) in [
            (with("model_type", json!("qwen2_vl")), "model_type"),
            (with("text_config", Value::Null), "text_config"),
            (with("text_config", json!({"model_type": "qwen2"})), "text_config.model_type"),
            (with("text_config", json!({"attention_bias": true})), "text_config.attention_bias"),
            (with("text_config", json!({"rope_scaling": {"type": "yarn"}})), "rope_scaling"),
            (with("text_config", json!({"num_key_value_heads": 5})), "num_key_value_heads"),
            (
                with("text_config", json!({"num_hidden_layers": 1e9})),
                "text_config.num_hidden_layers",
            ),
            (with("vision_config", json!({"image_size": 1_u64 << 40})), "vision_config.image_size"),
            (
                with("text_config", json!({"rope_parameters": {"partial_rotary_factor": 0.5}})),
                "partial_rotary_factor",
            ),
            (with("vision_config", json!({"model_type": "siglip"})), "vision_config.model_type"),
            (with("vision_feature_layer", json!(-26)), "vision_feature_layer"),
            (with("projector_hidden_act", json!("relu")), "projector_hidden_act"),
            (with("vision_feature_select_strategy", json!("cls")), "select_strategy"),
        ] {
            let error = LlavaConfig::from_json(&config, &Value::Null).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        let mut full = published("llava_next", llama());
        full["vision_feature_select_strategy"] = json!("full");
        assert!(LlavaConfig::from_json(&full, &Value::Null).is_err());
        full["vision_feature_select_strategy"] = json!("default");
        full["image_grid_pinpoints"] = json!([[336, 700]]);
        assert!(LlavaConfig::from_json(&full, &Value::Null).is_err());
    }
}
