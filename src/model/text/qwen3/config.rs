//! The configuration of a Qwen3, checked: every value that is not supported is refused by name. Defaults are those of
//! transformers' `Qwen3Config`.

use serde::Deserialize;
use serde_json::Value;

use crate::model::decoder_layer::DecoderShape;
use crate::model::text::TextError;
use crate::ranges;

/// A checked `Qwen3Config`.
#[derive(Clone, Debug)]
pub struct Qwen3Config {
    pub vocab_size: usize,
    pub num_hidden_layers: usize,
    pub rope_theta: f64,
    pub(super) layer: DecoderShape,
}

#[derive(Deserialize)]
struct RawQwen3Config {
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
}

/// Rotary positions as transformers writes them since version 5, and their scaling before that.
#[derive(Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
}

impl Qwen3Config {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that this program does not support.
    pub fn from_json(config: &Value) -> Result<Self, TextError> {
        ranges::check(config)?;
        let raw = RawQwen3Config::deserialize(config).map_err(TextError::Config)?;
        let fail = |field, value: String, supported| {
            Err(TextError::Unsupported { field, value, supported })
        };
        if let Some(act) = raw.hidden_act.filter(|act| act != "silu") {
            return fail("hidden_act", act, "silu");
        }
        if raw.attention_bias {
            return fail("attention_bias", "true".to_owned(), "false");
        }
        if raw.use_sliding_window {
            return fail("use_sliding_window", "true".to_owned(), "false");
        }
        for rope in [&raw.rope_scaling, &raw.rope_parameters].into_iter().flatten() {
            if let Some(kind) = rope.rope_type.as_ref().filter(|kind| *kind != "default") {
                return fail("rope_type", kind.clone(), "default");
            }
        }
        let heads = raw.num_attention_heads.unwrap_or(32);
        let layer = DecoderShape {
            width: raw.hidden_size.unwrap_or(4096),
            inner: raw.intermediate_size.unwrap_or(22_016),
            heads,
            key_heads: raw.num_key_value_heads.unwrap_or(heads),
            head_dim: raw.head_dim.unwrap_or(128),
            eps: raw.rms_norm_eps.unwrap_or(1e-6),
            normed_heads: true,
        };
        if layer.width == 0 {
            return fail("hidden_size", "0".to_owned(), "1 or more");
        }
        if heads == 0 || layer.key_heads == 0 || !heads.is_multiple_of(layer.key_heads) {
            let supported = "a divisor of num_attention_heads";
            return fail("num_key_value_heads", layer.key_heads.to_string(), supported);
        }
        if layer.head_dim == 0 || !layer.head_dim.is_multiple_of(2) {
            return fail("head_dim", layer.head_dim.to_string(), "an even number");
        }
        let num_hidden_layers = raw.num_hidden_layers.unwrap_or(32);
        if num_hidden_layers < 2 {
            return fail("num_hidden_layers", num_hidden_layers.to_string(), "2 or more");
        }
        let given = raw.rope_parameters.and_then(|rope| rope.rope_theta).or(raw.rope_theta);
        Ok(Self {
            vocab_size: raw.vocab_size.unwrap_or(151_936),
            num_hidden_layers,
            rope_theta: given.unwrap_or(10_000.0),
            layer,
        })
    }

    /// The layers behind which states are taken, counted from 1: these, or without any the last but one.
    ///
    /// # Errors
    /// Layers that are out of order, or behind which there are no states without the last norm.
    pub(in crate::model::text) fn taken_layers(
        &self,
        layers: &[usize],
    ) -> Result<Vec<usize>, TextError> {
        let last = self.num_hidden_layers - 1;
        let taken = if layers.is_empty() { vec![last] } else { layers.to_vec() };
        let are_there = taken.iter().all(|layer| (1..=last).contains(layer));
        if are_there && taken.is_sorted_by(|a, b| a < b) {
            return Ok(taken);
        }
        Err(TextError::Mismatch(format!(
            "the model takes the states behind layers {taken:?}, of {} in all",
            self.num_hidden_layers
        )))
    }

    /// Width of the states of a layer.
    #[must_use]
    pub fn hidden_size(&self) -> usize {
        self.layer.width
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unsupported_field_is_named_with_its_value() {
        for (field, value) in [
            ("hidden_act", json!("gelu")),
            ("attention_bias", json!(true)),
            ("use_sliding_window", json!(true)),
            ("num_key_value_heads", json!(5)),
            ("head_dim", json!(7)),
            ("num_hidden_layers", json!(1)),
            ("hidden_size", json!(0)),
        ] {
            let error = Qwen3Config::from_json(&json!({ field: value })).unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}` = ")), "{error}");
        }
        for field in ["rope_scaling", "rope_parameters"] {
            let config = json!({ field: {"rope_type": "yarn", "factor": 4.0} });
            let error = Qwen3Config::from_json(&config).unwrap_err().to_string();
            assert!(error.contains("`rope_type` = yarn"), "{error}");
        }
    }

    #[test]
    fn layers_that_are_not_there_are_refused_with_the_number_of_those_that_are() {
        let config = Qwen3Config::from_json(&json!({"num_hidden_layers": 28})).unwrap();
        assert_eq!(config.taken_layers(&[]).unwrap(), [27]);
        assert_eq!(config.taken_layers(&[9, 18, 27]).unwrap(), [9, 18, 27]);
        for layers in [&[9, 18, 28][..], &[0, 1], &[3, 3], &[4, 2]] {
            let error = config.taken_layers(layers).unwrap_err().to_string();
            assert!(error.contains("of 28 in all"), "{error}");
        }
    }

    #[test]
    fn both_places_of_the_rotary_base_are_read() {
        let theta = |config| Qwen3Config::from_json(&config).unwrap().rope_theta;
        assert_eq!(theta(json!({"rope_theta": 1e6})), 1e6);
        let new = json!({"rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}});
        assert_eq!(theta(new), 5e6);
        assert_eq!(theta(json!({"rope_scaling": null})), 1e4);
        let lying = json!({"num_hidden_layers": 1_u64 << 40});
        assert!(Qwen3Config::from_json(&lying).is_err());
    }
}
