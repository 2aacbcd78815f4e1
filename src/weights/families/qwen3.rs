//! Qwen3 as a text encoder in weights files: the names of its tensors in transformers and in llama.cpp, and its
//! configuration by their shapes. Several families may have one, so it has a file beside theirs.
//!
//! Sources: ComfyUI `comfy/text_encoders/z_image.py` and `comfy/supported_models.py` (prefix in whole models); llama.cpp
//! `gguf-py/gguf/tensor_mapping.py` (names in GGUF files; it leaves queries and keys of Qwen3 as they are).

use serde_json::{Value, json};

use crate::backend::ParamSource as _;
use crate::model::text::qwen3::Qwen3Config;
use crate::weights::WeightsError;
use crate::weights::part_file::{PartFile, Shapes, part_config};
use crate::weights::tensors::{Take, TensorMap};

/// Classes of the encoder in transformers.
const CLASSES: [&str; 2] = ["Qwen3ForCausalLM", "Qwen3Model"];

/// Prefixes of an encoder's tensors: in whole models, and in a file of its own.
const PREFIXES: [&str; 3] = ["text_encoders.qwen3_4b.transformer.", "text_encoders.qwen3_4b.", ""];

const TOKENS: &str = "model.embed_tokens.weight";
/// A tensor that decoders of no other kind have beside [`TOKENS`].
const HEAD_NORM: &str = "model.layers.0.self_attn.q_norm.weight";

/// Widths of the published models whose states diffusion models read, with the number of their layers.
const LAYERS: [(usize, usize); 3] = [(1024, 28), (2560, 36), (4096, 36)];

/// `true` if this is a class of Qwen3.
pub(in crate::weights) fn is_class(class: &str) -> bool {
    CLASSES.contains(&class)
}

/// Class of an encoder that this `config.json` in a folder of its own describes, if it is one.
pub(in crate::weights) fn class_of(config: &Value) -> Option<&'static str> {
    let named = config["architectures"][0].as_str().unwrap_or(CLASSES[0]);
    let is_qwen3 = config["model_type"] == "qwen3";
    CLASSES.into_iter().find(|class| is_qwen3 && *class == named)
}

/// Number of layers of the published model with states of this width.
pub(in crate::weights) fn published_layers(width: usize) -> Option<usize> {
    LAYERS.into_iter().find_map(|(known, layers)| (known == width).then_some(layers))
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

/// Name in llama.cpp of a tensor that transformers calls `name`.
fn llama_cpp_name(name: &str) -> String {
    match name {
        TOKENS => return "token_embd.weight".to_owned(),
        "model.norm.weight" => return "output_norm.weight".to_owned(),
        "lm_head.weight" => return "output.weight".to_owned(),
        _ => {}
    }
    [
        ("model.layers.", "blk."),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ]
    .into_iter()
    .fold(name.to_owned(), |name, (theirs, ours)| name.replace(theirs, ours))
}

/// How a file names the tensors of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    Transformers,
    /// of the class without an output projection, which leaves out `model.`
    Bare,
    LlamaCpp,
}

impl Naming {
    fn of(self, name: &str) -> String {
        match self {
            Self::Transformers => name.to_owned(),
            Self::Bare => name.strip_prefix("model.").unwrap_or(name).to_owned(),
            Self::LlamaCpp => llama_cpp_name(name),
        }
    }
}

/// Place of an encoder's tensors in a file: their prefix, and how they are named.
fn find(tensors: &TensorMap) -> Option<(&'static str, Naming)> {
    PREFIXES.into_iter().find_map(|prefix| {
        let all = [Naming::Transformers, Naming::Bare, Naming::LlamaCpp];
        let has = |naming: Naming, name| tensors.contains(&format!("{prefix}{}", naming.of(name)));
        let naming = all.into_iter().find(|&it| has(it, TOKENS) && has(it, HEAD_NORM))?;
        Some((prefix, naming))
    })
}

/// `true` if a file holds an encoder.
pub(in crate::weights) fn is_in(tensors: &TensorMap) -> bool {
    find(tensors).is_some()
}

/// The encoder in a file of any contents, if there is one.
///
/// # Errors
/// One that lacks tensors, or that is not supported.
pub(in crate::weights) fn part(
    file: &str,
    tensors: &TensorMap,
) -> Result<Option<PartFile>, WeightsError> {
    let Some((prefix, naming)) = find(tensors) else { return Ok(None) };
    let stored = |name: &str| format!("{prefix}{}", naming.of(name));
    let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
    let config = config(&Shapes { tensors, prefix: "" }, &stored).map_err(fail)?;
    let resolved = Qwen3Config::from_json(&config).map_err(|error| fail(error.to_string()))?;
    let names = names(&resolved).into_iter();
    let names = names.map(|name| (name.clone(), stored(&name), Take::Whole)).collect();
    let config = part_config(CLASSES[0], config, file, "Qwen3");
    Ok(Some(PartFile::new(config, tensors, prefix, names)))
}

/// Configuration by the shapes of the tensors that `stored` names; what they do not show is the same in every Qwen3.
fn config(shapes: &Shapes, stored: &dyn Fn(&str) -> String) -> Result<Value, String> {
    let size = |name: &str, axis| shapes.size(&stored(name), axis);
    let of_layer = |name: &str| format!("model.layers.0.{name}.weight");
    let head = size(HEAD_NORM, 0)?;
    let heads = |name: &str| Ok::<_, String>(size(&of_layer(name), 0)? / head.max(1));
    Ok(json!({
        "architectures": [CLASSES[0]],
        "vocab_size": size(TOKENS, 0)?,
        "hidden_size": size(TOKENS, 1)?,
        "intermediate_size": size(&of_layer("mlp.gate_proj"), 0)?,
        "num_hidden_layers": shapes
            .count(|layer| stored(&format!("model.layers.{layer}.input_layernorm.weight"))),
        "num_attention_heads": heads("self_attn.q_proj")?,
        "num_key_value_heads": heads("self_attn.k_proj")?,
        "head_dim": head,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_cpp() {
        for (ours, theirs) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.7.input_layernorm.weight", "blk.7.attn_norm.weight"),
            ("model.layers.7.post_attention_layernorm.weight", "blk.7.ffn_norm.weight"),
            ("model.layers.35.self_attn.q_norm.weight", "blk.35.attn_q_norm.weight"),
            ("model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight"),
            ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ] {
            assert_eq!(llama_cpp_name(ours), theirs);
        }
    }

    #[test]
    fn the_class_of_a_folder_is_that_of_its_configuration() {
        let of = |text: &str| class_of(&serde_json::from_str(text).unwrap());
        let whole = r#"{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}"#;
        assert_eq!(of(whole), Some("Qwen3ForCausalLM"));
        assert_eq!(
            of(r#"{"model_type": "qwen3", "architectures": ["Qwen3Model"]}"#),
            Some(CLASSES[1])
        );
        assert_eq!(of(r#"{"model_type": "qwen3"}"#), Some(CLASSES[0]));
        assert_eq!(of(r#"{"model_type": "qwen2", "architectures": ["Qwen3Model"]}"#), None);
        assert_eq!(of(r#"{"model_type": "qwen3", "architectures": ["Qwen3VLModel"]}"#), None);
    }
}
