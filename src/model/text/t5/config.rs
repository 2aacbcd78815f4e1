//! The configuration of a T5 encoder, checked: every value that is not supported is refused by name. Defaults are those
//! of transformers' `T5Config` and `UMT5Config`.

use serde::Deserialize;
use serde_json::Value;

use crate::model::text::TextError;
use crate::ranges;

/// The classes in transformers' configurations: one bias of positions for all layers, or one for each.
pub(in crate::model::text) const CLASSES: [&str; 2] = ["T5EncoderModel", "UMT5EncoderModel"];

/// The feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// `gelu(x·W₀)·(x·W₁)·W`, GELU in its tanh form (version 1.1).
    GatedGelu,
    /// `relu(x·W₀)·W` (version 1.0).
    Relu,
}

/// A checked `T5Config` or `UMT5Config`, of which the encoder's fields are kept.
#[derive(Clone, Debug)]
pub struct T5Config {
    pub vocab_size: usize,
    pub d_model: usize,
    /// width of a head; all heads together may be wider or narrower than the model
    pub d_kv: usize,
    pub d_ff: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub relative_attention_num_buckets: usize,
    pub relative_attention_max_distance: usize,
    pub layer_norm_epsilon: f64,
    pub feed_forward: FeedForward,
    /// every layer has its own bias of positions (UMT5), not the first one's
    pub position_in_every_layer: bool,
}

#[derive(Deserialize)]
struct RawT5Config {
    vocab_size: Option<usize>,
    #[serde(alias = "hidden_size")]
    d_model: Option<usize>,
    #[serde(alias = "head_dim")]
    d_kv: Option<usize>,
    d_ff: Option<usize>,
    #[serde(alias = "num_hidden_layers")]
    num_layers: Option<usize>,
    #[serde(alias = "num_attention_heads")]
    num_heads: Option<usize>,
    relative_attention_num_buckets: Option<usize>,
    relative_attention_max_distance: Option<usize>,
    layer_norm_epsilon: Option<f64>,
    feed_forward_proj: Option<String>,
    #[serde(default)]
    is_decoder: bool,
}

impl T5Config {
    /// Reads and checks the `config.json` of an encoder of transformers' `class`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that this program does not support.
    pub fn from_json(class: &str, config: &Value) -> Result<Self, TextError> {
        ranges::check(config)?;
        let raw = RawT5Config::deserialize(config).map_err(TextError::Config)?;
        let is_umt5 = class == CLASSES[1];
        let of_class = |t5: usize, umt5: usize| if is_umt5 { umt5 } else { t5 };
        let fail = |field, value: String, supported| {
            Err(TextError::Unsupported { field, value, supported })
        };
        if raw.is_decoder {
            return fail("is_decoder", "true".to_owned(), "an encoder");
        }
        let default = if is_umt5 { "gated-gelu" } else { "relu" };
        let feed_forward = match raw.feed_forward_proj.as_deref().unwrap_or(default) {
            "gated-gelu" | "gated-gelu_new" => FeedForward::GatedGelu,
            "relu" => FeedForward::Relu,
            other => return fail("feed_forward_proj", other.to_owned(), "gated-gelu, relu"),
        };
        let checked = Self {
            vocab_size: raw.vocab_size.unwrap_or(of_class(32_128, 250_112)),
            d_model: raw.d_model.unwrap_or(512),
            d_kv: raw.d_kv.unwrap_or(64),
            d_ff: raw.d_ff.unwrap_or(of_class(2048, 1024)),
            num_layers: raw.num_layers.unwrap_or(of_class(6, 8)),
            num_heads: raw.num_heads.unwrap_or(of_class(8, 6)),
            relative_attention_num_buckets: raw.relative_attention_num_buckets.unwrap_or(32),
            relative_attention_max_distance: raw.relative_attention_max_distance.unwrap_or(128),
            layer_norm_epsilon: raw.layer_norm_epsilon.unwrap_or(1e-6),
            feed_forward,
            position_in_every_layer: is_umt5,
        };
        for (field, value) in [
            ("num_layers", checked.num_layers),
            ("num_heads", checked.num_heads),
            ("d_model", checked.d_model),
        ] {
            if value == 0 {
                return fail(field, "0".to_owned(), "1 or more");
            }
        }
        let buckets = checked.relative_attention_num_buckets;
        if buckets < 4 || !buckets.is_multiple_of(4) {
            return fail("relative_attention_num_buckets", buckets.to_string(), "a multiple of 4");
        }
        let distance = checked.relative_attention_max_distance;
        if distance <= buckets / 4 {
            let supported = "more than a quarter of the buckets";
            return fail("relative_attention_max_distance", distance.to_string(), supported);
        }
        Ok(checked)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unsupported_field_is_named_with_its_value() {
        for (field, value) in [
            ("feed_forward_proj", json!("gated-silu")),
            ("is_decoder", json!(true)),
            ("num_heads", json!(0)),
            ("num_layers", json!(0)),
            ("relative_attention_num_buckets", json!(6)),
            ("relative_attention_max_distance", json!(8)),
        ] {
            let error = T5Config::from_json(CLASSES[0], &json!({ field: value })).unwrap_err();
            assert!(error.to_string().contains(&format!("`{field}` = ")), "{error}");
        }
    }

    #[test]
    fn an_empty_config_is_the_default_of_its_class() {
        let [t5, umt5] = CLASSES.map(|class| T5Config::from_json(class, &json!({})).unwrap());
        assert_eq!((t5.feed_forward, t5.num_layers), (FeedForward::Relu, 6));
        assert_eq!((umt5.feed_forward, umt5.vocab_size), (FeedForward::GatedGelu, 250_112));
        assert!(umt5.position_in_every_layer && !t5.position_in_every_layer);
        let lying = json!({"num_layers": 1_u64 << 40});
        let error = T5Config::from_json(CLASSES[0], &lying).unwrap_err().to_string();
        assert!(error.contains("`num_layers` is 1099511627776, not from"), "{error}");
    }
}
