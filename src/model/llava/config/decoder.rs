//! The decoder's part of a LLaVA model's `config.json` (transformers `models/llama/configuration_llama.py`,
//! `models/mistral/configuration_mistral.py`).

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{end_tokens, parse, unsupported};
use crate::model::llava::LlavaError;
use crate::ranges;

/// A LLaMA or Mistral decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    pub family: DecoderFamily,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    /// `true` if the two numbers that are rotated together are neighbours (llama.cpp's files), not half
    /// a head apart
    pub rope_interleaved: bool,
    /// keys that a token sees, itself included
    pub sliding_window: Option<usize>,
    /// `true` if the output projection is the embeddings' table
    pub tie_word_embeddings: bool,
    /// tokens that end a text
    pub end_tokens: Vec<u32>,
}

/// Whose decoder it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderFamily {
    Llama,
    Mistral,
}

/// Scaling of rotary frequencies for contexts longer than in training (transformers
/// `modeling_rope_utils.py`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    Linear { factor: f64 },
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
}

/// The fields that LLaMA and Mistral share, with LLaMA's defaults.
#[derive(Deserialize)]
#[serde(default)]
struct RawDecoder {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    rope_parameters: Option<Map<String, Value>>,
    tie_word_embeddings: bool,
    eos_token_id: Value,
    hidden_act: String,
    attention_bias: bool,
    mlp_bias: bool,
}

impl Default for RawDecoder {
    fn default() -> Self {
        Self {
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
            tie_word_embeddings: false,
            eos_token_id: Value::Null,
            hidden_act: "silu".to_owned(),
            attention_bias: false,
            mlp_bias: false,
        }
    }
}

const ROPE_THETA: f64 = 10_000.0;
const END_TOKEN: u32 = 2;

impl DecoderConfig {
    /// Reads and checks a decoder's `config.json`.
    ///
    /// # Errors
    /// As [`LlavaConfig::from_json`](super::LlavaConfig::from_json).
    pub fn from_json(config: &Value) -> Result<Self, LlavaError> {
        ranges::check(config)?;
        let given = |field: &str| config.get(field);
        let family = match given("model_type").and_then(Value::as_str).unwrap_or("llama") {
            "llama" => DecoderFamily::Llama,
            "mistral" => DecoderFamily::Mistral,
            other => return Err(unsupported("text_config.model_type", other, "llama, mistral")),
        };
        let mut raw: RawDecoder = parse(config)?;
        let mut sliding_window = None;
        if family == DecoderFamily::Mistral {
            // A null here is a decision, not a default.
            sliding_window = given("sliding_window").map_or(Ok(Some(4096)), parse)?;
            let absent = |field: &str| given(field).is_none();
            if absent("intermediate_size") {
                raw.intermediate_size = 14336;
            }
            if absent("num_key_value_heads") {
                raw.num_key_value_heads = Some(8);
            }
            if absent("max_position_embeddings") {
                raw.max_position_embeddings = 4096 * 32;
            }
        }
        let heads = raw.num_attention_heads;
        if heads == 0 || raw.hidden_size == 0 || raw.num_hidden_layers == 0 {
            let supported = "1 or more, as hidden_size and num_hidden_layers";
            return Err(unsupported("text_config.num_attention_heads", heads, supported));
        }
        let head_dim = raw.head_dim.unwrap_or(raw.hidden_size / heads);
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(unsupported("text_config.head_dim", head_dim, "an even number"));
        }
        let key_heads = raw.num_key_value_heads.unwrap_or(heads);
        if key_heads == 0 || !heads.is_multiple_of(key_heads) {
            let supported = "a divisor of num_attention_heads";
            return Err(unsupported("text_config.num_key_value_heads", key_heads, supported));
        }
        if raw.hidden_act != "silu" {
            return Err(unsupported("text_config.hidden_act", raw.hidden_act, "silu"));
        }
        if raw.attention_bias || raw.mlp_bias {
            return Err(unsupported("text_config.attention_bias or mlp_bias", "true", "false"));
        }
        if sliding_window == Some(0) {
            return Err(unsupported("text_config.sliding_window", 0, "1 or more, or null"));
        }
        let (rope_theta, rope_scaling) = rope(&raw)?;
        Ok(Self {
            family,
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: key_heads,
            head_dim,
            max_position_embeddings: raw.max_position_embeddings,
            rms_norm_eps: raw.rms_norm_eps,
            rope_theta,
            rope_scaling,
            rope_interleaved: false,
            sliding_window,
            tie_word_embeddings: raw.tie_word_embeddings,
            end_tokens: match &raw.eos_token_id {
                Value::Null => vec![END_TOKEN],
                given => end_tokens(given)?,
            },
        })
    }
}

/// Base and scaling: transformers 4 has `rope_theta` and `rope_scaling`, 5 has both in
/// `rope_parameters`.
fn rope(raw: &RawDecoder) -> Result<(f64, RopeScaling), LlavaError> {
    let (theta, scaling) = match (&raw.rope_parameters, &raw.rope_scaling) {
        (Some(parameters), _) => (parameters.get("rope_theta").and_then(Value::as_f64), parameters),
        (None, Some(scaling)) => (None, scaling),
        (None, None) => return Ok((raw.rope_theta.unwrap_or(ROPE_THETA), RopeScaling::None)),
    };
    let theta = theta.or(raw.rope_theta).unwrap_or(ROPE_THETA);
    if let Some(share) =
        scaling.get("partial_rotary_factor").filter(|share| share.as_f64() != Some(1.0))
        && !share.is_null()
    {
        return Err(unsupported("text_config.rope_parameters.partial_rotary_factor", share, "1"));
    }
    let kind = scaling.get("rope_type").or_else(|| scaling.get("type"));
    let kind = kind.and_then(Value::as_str).unwrap_or("default");
    let number =
        |field: &'static str| {
            scaling.get(field).and_then(Value::as_f64).filter(|number| *number > 0.0).ok_or_else(
                || unsupported("text_config.rope_scaling", kind, "with all of its numbers"),
            )
        };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: number("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: number("factor")?,
            low: number("low_freq_factor")?,
            high: number("high_freq_factor")?,
            original: number("original_max_position_embeddings")?,
        },
        other => {
            return Err(unsupported("text_config.rope_scaling", other, "default, linear, llama3"));
        }
    };
    Ok((theta, scaling))
}
