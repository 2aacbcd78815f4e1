//! T5's encoder in weights files: the names of its tensors in transformers and in llama.cpp, and its configuration.
//! Several families have one, so it has a file beside theirs.
//!
//! Sources: llama.cpp `gguf-py/gguf/tensor_mapping.py` (names in GGUF files, which ComfyUI-GGUF reads as well);
//! ComfyUI `comfy/sd.py` (prefixes of whole models).

use serde_json::{Value, json};

use crate::backend::ParamSource as _;
use crate::model::text::t5::{FeedForward, T5Config};
use crate::weights::WeightsError;
use crate::weights::part::PartConfig;
use crate::weights::part_file::{PartFile, Shapes, part_config};
use crate::weights::tensors::{Take, TensorMap};

/// Classes of the encoder in transformers: with one table of positions, and with one in each layer.
const CLASSES: [&str; 2] = ["T5EncoderModel", "UMT5EncoderModel"];

/// Prefixes of an encoder's tensors: in whole models, and in a file of its own.
const PREFIXES: [&str; 4] =
    ["text_encoders.t5xxl.transformer.", "text_encoders.t5xxl.", "text_encoder_3.", ""];

/// Piece of the names of weights that no format of less than 16 bits should round: a table of positions is a few numbers
/// for all layers.
pub(in crate::weights) const SENSITIVE: &str = "relative_attention_bias.";

/// `true` if this is a class of T5's encoders.
pub(in crate::weights) fn is_class(class: &str) -> bool {
    CLASSES.contains(&class)
}

/// Names of every tensor of an encoder in transformers; the table of tokens has two.
pub(in crate::weights) fn names(config: &T5Config) -> Vec<String> {
    let mut names =
        ["shared", "encoder.embed_tokens", "encoder.final_layer_norm"].map(str::to_owned).to_vec();
    for layer in 0..config.num_layers {
        let first = if config.position_in_every_layer || layer == 0 {
            Some("layer.0.SelfAttention.relative_attention_bias")
        } else {
            None
        };
        let dense: &[&str] = match config.feed_forward {
            FeedForward::GatedGelu => &["wi_0", "wi_1", "wo"],
            FeedForward::Relu => &["wi", "wo"],
        };
        let dense = dense.iter().map(|name| format!("layer.1.DenseReluDense.{name}"));
        let modules = ["q", "k", "v", "o"].map(|name| format!("layer.0.SelfAttention.{name}"));
        let norms = ["layer.0.layer_norm", "layer.1.layer_norm"].map(str::to_owned);
        let all = modules.into_iter().chain(norms).chain(dense).chain(first.map(str::to_owned));
        names.extend(all.map(|name| format!("encoder.block.{layer}.{name}")));
    }
    names.into_iter().map(|name| format!("{name}.weight")).collect()
}

/// Name in llama.cpp of a tensor that transformers calls `name`. Of an ungated feed-forward layer the first product is
/// `ffn_up` there, of a gated one what is multiplied.
fn llama_cpp_name(name: &str) -> String {
    let stored = match name {
        "shared.weight" | "encoder.embed_tokens.weight" => "token_embd.weight".to_owned(),
        "encoder.final_layer_norm.weight" => "enc.output_norm.weight".to_owned(),
        _ => name.replace("encoder.block.", "enc.blk."),
    };
    [
        ("layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"),
        ("layer.0.SelfAttention.", "attn_"),
        ("layer.0.layer_norm", "attn_norm"),
        ("layer.1.layer_norm", "ffn_norm"),
        ("layer.1.DenseReluDense.wi_0", "ffn_gate"),
        ("layer.1.DenseReluDense.wi_1", "ffn_up"),
        ("layer.1.DenseReluDense.wi", "ffn_up"),
        ("layer.1.DenseReluDense.wo", "ffn_down"),
    ]
    .into_iter()
    .fold(stored, |name, (theirs, ours)| name.replace(theirs, ours))
}

/// Place of an encoder's tensors in a file: their prefix, and whether they have llama.cpp's names.
fn find(tensors: &TensorMap) -> Option<(&'static str, bool)> {
    PREFIXES.into_iter().find_map(|prefix| {
        let has = |name: &str| tensors.contains(&format!("{prefix}{name}"));
        let query = "encoder.block.0.layer.0.SelfAttention.q.weight";
        if has(query) {
            Some((prefix, false))
        } else {
            has(&llama_cpp_name(query)).then_some((prefix, true))
        }
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
    let Some((prefix, is_llama_cpp)) = find(tensors) else { return Ok(None) };
    let stored = |name: &str| {
        let name = if is_llama_cpp { llama_cpp_name(name) } else { name.to_owned() };
        format!("{prefix}{name}")
    };
    let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
    let shapes = Shapes { tensors, prefix: "" };
    let (class, config) = config(&shapes, &stored).map_err(fail)?;
    let checked = T5Config::from_json(class, &config).map_err(|error| fail(error.to_string()))?;
    let mut names = names(&checked);
    // The one table of tokens under the name that the file has.
    let is_shared = is_llama_cpp || tensors.contains(&stored("shared.weight"));
    let absent = if is_shared { "encoder.embed_tokens.weight" } else { "shared.weight" };
    names.retain(|name| name != absent);
    let names = names.into_iter().map(|name| (name.clone(), stored(&name), Take::Whole)).collect();
    let config: PartConfig = part_config(class, config, file, "T5");
    Ok(Some(PartFile::new(config, tensors, prefix, names)))
}

/// Class and configuration by the shapes of the tensors that `stored` names.
fn config(
    shapes: &Shapes,
    stored: &dyn Fn(&str) -> String,
) -> Result<(&'static str, Value), String> {
    let attention = |layer: usize, name: &str| {
        stored(&format!("encoder.block.{layer}.layer.0.SelfAttention.{name}.weight"))
    };
    let dense =
        |name: &str| stored(&format!("encoder.block.0.layer.1.DenseReluDense.{name}.weight"));
    let table = attention(0, "relative_attention_bias");
    let heads = shapes.size(&table, 1)?;
    let layers = shapes.count(|layer| attention(layer, "q"));
    let inner = shapes.size(&attention(0, "q"), 0)?;
    if heads == 0 || !inner.is_multiple_of(heads) {
        return Err(format!("{heads} heads of positions do not divide queries of {inner}"));
    }
    // llama.cpp calls the one product of an ungated layer as it calls the second of a gated one.
    let is_gated = shapes.has(&dense("wi_0"));
    let in_every_layer = layers > 1 && shapes.has(&attention(1, "relative_attention_bias"));
    let tokens = ["shared.weight", "encoder.embed_tokens.weight"].map(stored);
    let tokens = tokens.iter().find(|name| shapes.has(name)).unwrap_or(&tokens[0]);
    let config = json!({
        "vocab_size": shapes.size(tokens, 0)?,
        "d_model": shapes.size(tokens, 1)?,
        "d_kv": inner / heads,
        "d_ff": shapes.size(&dense(if is_gated { "wi_0" } else { "wi" }), 0)?,
        "num_layers": layers,
        "num_heads": heads,
        "relative_attention_num_buckets": shapes.size(&table, 0)?,
        "feed_forward_proj": if is_gated { "gated-gelu" } else { "relu" },
    });
    Ok((CLASSES[usize::from(in_every_layer)], config))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [(&str, &str); 8] = [
        ("shared.weight", "token_embd.weight"),
        ("encoder.final_layer_norm.weight", "enc.output_norm.weight"),
        ("encoder.block.11.layer.0.SelfAttention.o.weight", "enc.blk.11.attn_o.weight"),
        (
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "enc.blk.0.attn_rel_b.weight",
        ),
        ("encoder.block.2.layer.0.layer_norm.weight", "enc.blk.2.attn_norm.weight"),
        ("encoder.block.2.layer.1.layer_norm.weight", "enc.blk.2.ffn_norm.weight"),
        ("encoder.block.2.layer.1.DenseReluDense.wi_0.weight", "enc.blk.2.ffn_gate.weight"),
        ("encoder.block.2.layer.1.DenseReluDense.wo.weight", "enc.blk.2.ffn_down.weight"),
    ];

    #[test]
    fn names_are_those_of_llama_cpp() {
        for (ours, theirs) in NAMES {
            assert_eq!(llama_cpp_name(ours), theirs);
        }
    }

    fn file(prefix: &str, is_llama_cpp: bool, is_gated: bool, positions: usize) -> TensorMap {
        let feed_forward = if is_gated { "gated-gelu" } else { "relu" };
        let class = CLASSES[usize::from(positions > 1)];
        let json = json!({"num_layers": 2, "feed_forward_proj": feed_forward});
        let config = T5Config::from_json(class, &json).unwrap();
        let shape = |name: &str| match name {
            _ if name.contains("relative") => vec![32, 3],
            "shared.weight" => vec![90, 16],
            _ if name.contains(".o.") => vec![16, 12],
            _ if name.contains("Attention") => vec![12, 16],
            _ if name.contains(".wo.") => vec![16, 40],
            _ if name.contains("Dense") => vec![40, 16],
            _ => vec![16],
        };
        let names = names(&config).into_iter().filter(|name| !name.contains("embed_tokens"));
        TensorMap::of_shapes(
            names
                .map(|name| {
                    let stored = if is_llama_cpp { llama_cpp_name(&name) } else { name.clone() };
                    (format!("{prefix}{stored}"), shape(&name))
                })
                .collect(),
        )
    }

    #[test]
    fn an_encoder_is_found_under_every_name_and_its_configuration_is_that_of_its_shapes() {
        for (prefix, is_llama_cpp, is_gated, positions) in [
            ("", false, true, 1),
            ("", true, true, 1),
            ("", true, false, 2),
            ("text_encoders.t5xxl.transformer.", false, false, 1),
            ("text_encoder_3.", false, true, 2),
        ] {
            let tensors = file(prefix, is_llama_cpp, is_gated, positions);
            let part = part("t5.gguf", &tensors).unwrap().unwrap();
            assert_eq!(part.config.class, CLASSES[usize::from(positions > 1)]);
            let config = T5Config::from_json(&part.config.class, &part.config.config).unwrap();
            assert_eq!((config.d_kv, config.num_heads, config.num_layers), (4, 3, 2));
            assert_eq!((config.d_model, config.d_ff, config.vocab_size), (16, 40, 90));
            assert_eq!(config.feed_forward == FeedForward::GatedGelu, is_gated);
            let names = names(&config).into_iter().filter(|name| !name.contains("embed_tokens"));
            for name in names {
                assert!(part.tensors.contains(&name), "{name}");
            }
            assert_eq!(part.unused(&tensors).next(), None);
        }
        assert!(part("x", &TensorMap::of_shapes(vec![])).unwrap().is_none());
    }
}
