//! The configuration of a CLIP text encoder, checked: every value that is not supported is refused by
//! name. Defaults are those of transformers' `CLIPTextConfig`.

use serde::Deserialize;
use serde_json::Value;

use crate::model::text::TextError;
use crate::ranges;

/// The activation of the encoder's MLPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiddenAct {
    QuickGelu,
    Gelu,
}

/// Position in a sequence that the pooled state is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolAt {
    /// The first token with this id.
    Token(u32),
    /// The first token with the largest id: configs from before transformers 4.31 say
    /// `eos_token_id = 2`, which no tokenizer of theirs ever produced.
    LargestId,
}

/// A checked `CLIPTextConfig`.
#[derive(Clone, Debug)]
pub struct ClipTextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub projection_dim: usize,
    pub layer_norm_eps: f64,
    pub hidden_act: HiddenAct,
    pub pool_at: PoolAt,
}

#[derive(Deserialize)]
#[serde(default)]
struct RawClipConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    projection_dim: usize,
    layer_norm_eps: f64,
    hidden_act: String,
    eos_token_id: u32,
}

impl Default for RawClipConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            projection_dim: 512,
            layer_norm_eps: 1e-5,
            hidden_act: "quick_gelu".to_owned(),
            eos_token_id: 49407,
        }
    }
}

impl ClipTextConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that this program does not support.
    pub fn from_json(config: &Value) -> Result<Self, TextError> {
        ranges::check(config)?;
        // The file of a whole CLIP model holds that of its text encoder, which is all that transformers reads here.
        let config = match config.get("text_config") {
            Some(text) if config["model_type"] == "clip" => text,
            _ => config,
        };
        let raw: RawClipConfig =
            serde_json::from_value(config.clone()).map_err(TextError::Config)?;
        let fail = |field, value: String, supported| {
            Err(TextError::Unsupported { field, value, supported })
        };
        let hidden_act = match raw.hidden_act.as_str() {
            "quick_gelu" => HiddenAct::QuickGelu,
            "gelu" => HiddenAct::Gelu,
            _ => return fail("hidden_act", raw.hidden_act, "quick_gelu, gelu"),
        };
        let heads = raw.num_attention_heads;
        if heads == 0 || !raw.hidden_size.is_multiple_of(heads) {
            return fail("num_attention_heads", heads.to_string(), "a divisor of hidden_size");
        }
        if raw.num_hidden_layers == 0 {
            return fail("num_hidden_layers", "0".to_owned(), "1 or more");
        }
        if raw.max_position_embeddings < 2 {
            let value = raw.max_position_embeddings.to_string();
            return fail("max_position_embeddings", value, "2 or more");
        }
        Ok(Self {
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: heads,
            max_position_embeddings: raw.max_position_embeddings,
            projection_dim: raw.projection_dim,
            layer_norm_eps: raw.layer_norm_eps,
            hidden_act,
            pool_at: match raw.eos_token_id {
                2 => PoolAt::LargestId,
                id => PoolAt::Token(id),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_unsupported_field_is_named_with_its_value() {
        for (field, value) in [
            ("hidden_act", json!("gelu_new")),
            ("num_attention_heads", json!(7)),
            ("num_hidden_layers", json!(0)),
            ("max_position_embeddings", json!(1)),
        ] {
            let error = ClipTextConfig::from_json(&json!({ field: value })).unwrap_err();
            assert!(error.to_string().contains(&format!("`{field}` = ")), "{error}");
        }
    }

    #[test]
    fn the_file_of_a_whole_clip_model_is_that_of_its_text_encoder() {
        let whole =
            json!({"model_type": "clip", "projection_dim": 64, "text_config": {"hidden_size": 40}});
        let config = ClipTextConfig::from_json(&whole).unwrap();
        assert_eq!((config.hidden_size, config.projection_dim), (40, 512));
        let error =
            ClipTextConfig::from_json(&json!({"num_hidden_layers": 1_u64 << 31})).unwrap_err();
        let expected = "text encoder: `num_hidden_layers` is 2147483648, not from 0 to 512";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn an_empty_config_is_transformers_default() {
        let config = ClipTextConfig::from_json(&json!({})).unwrap();
        assert_eq!(config.hidden_act, HiddenAct::QuickGelu);
        assert_eq!(config.pool_at, PoolAt::Token(49407));
    }
}
