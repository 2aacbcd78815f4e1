//! Qwen3 as a text encoder in weights files: the names of its tensors in transformers, and its configuration by their
//! shapes. Several families may have one, so it has a file beside theirs.
//!
//! Source: ComfyUI `comfy/text_encoders/z_image.py` and `comfy/supported_models.py` (prefix in whole models).

use serde_json::{Value, json};

use crate::backend::ParamSource as _;
use crate::model::text::qwen3::Qwen3Config;
use crate::weights::WeightsError;
use crate::weights::part_file::{PartFile, Shapes, part_config};
use crate::weights::tensors::{Take, TensorMap};

/// Classes of the encoder in transformers.
const CLASSES: [&str; 2] = ["Qwen3ForCausalLM", "Qwen3Model"];

/// Prefixes of an encoder's tensors in whole models.
const PREFIXES: [&str; 2] = ["text_encoders.qwen3_4b.transformer.", "text_encoders.qwen3_4b."];

const TOKENS: &str = "model.embed_tokens.weight";

/// `true` if this is a class of Qwen3.
pub(in crate::weights) fn is_class(class: &str) -> bool {
    CLASSES.contains(&class)
}

/// Names of every tensor of an encoder in transformers, with the ones that it ends without.
pub(in crate::weights) fn names(config: &Qwen3Config) -> Vec<String> {
    let mut names = ["model.embed_tokens", "model.norm", "lm_head"].map(str::to_owned).to_vec();
    let modules = [
        "input_layernorm",
        "post_attention_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "self_attn.q_norm",
        "self_attn.k_norm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    for layer in 0..config.num_hidden_layers {
        names.extend(modules.map(|module| format!("model.layers.{layer}.{module}")));
    }
    names.into_iter().map(|name| format!("{name}.weight")).collect()
}

/// The encoder in a whole model, if it has one.
///
/// # Errors
/// An architecture that is not supported.
pub(super) fn part(file: &str, tensors: &TensorMap) -> Result<Option<PartFile>, WeightsError> {
    let has = |prefix: &&str| tensors.contains(&format!("{prefix}{TOKENS}"));
    let Some(prefix) = PREFIXES.into_iter().find(|prefix| has(prefix)) else { return Ok(None) };
    let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
    let config = config(&Shapes { tensors, prefix }).map_err(fail)?;
    let resolved = Qwen3Config::from_json(&config).map_err(|error| fail(error.to_string()))?;
    let stored = names(&resolved).into_iter();
    let names = stored.map(|name| (name.clone(), format!("{prefix}{name}"), Take::Whole)).collect();
    let config = part_config(CLASSES[0], config, file, "text_encoder");
    Ok(Some(PartFile::new(config, tensors, prefix, names)))
}

/// Configuration by the shapes of the tensors; what they do not show is the same in every Qwen3.
fn config(shapes: &Shapes) -> Result<Value, String> {
    let of_layer = |name: &str| format!("model.layers.0.{name}.weight");
    let head = shapes.size(&of_layer("self_attn.q_norm"), 0)?;
    let heads = |name: &str| Ok::<_, String>(shapes.size(&of_layer(name), 0)? / head.max(1));
    Ok(json!({
        "architectures": [CLASSES[0]],
        "vocab_size": shapes.size(TOKENS, 0)?,
        "hidden_size": shapes.size(TOKENS, 1)?,
        "intermediate_size": shapes.size(&of_layer("mlp.gate_proj"), 0)?,
        "num_hidden_layers":
            shapes.count(|layer| format!("model.layers.{layer}.input_layernorm.weight")),
        "num_attention_heads": heads("self_attn.q_proj")?,
        "num_key_value_heads": heads("self_attn.k_proj")?,
        "head_dim": head,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
    }))
}
