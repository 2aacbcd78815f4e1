//! CLIP text encoders in weights files: the names of their tensors, as OpenAI and OpenCLIP have them, and their
//! configuration. Several families have one, so it has a file beside theirs.
//!
//! Sources: diffusers `loaders/single_file_utils.py` (`convert_open_clip_checkpoint`), and the
//! configurations of the families' models in diffusers.

use serde_json::{Value, json};

use crate::weights::part_file::Shapes;
use crate::weights::tensors::{Take, TensorName};

/// Width of an attention head.
const HEAD_WIDTH: usize = 64;
/// `<|endoftext|>` in CLIP's vocabulary.
const END_OF_TEXT: u32 = 49407;

/// Pieces of the names of weights that no format of less than 16 bits should round: the embeddings and the
/// projection of the pooled text act on one vector for the whole picture.
pub(in crate::weights) const SENSITIVE: [&str; 3] =
    ["text_projection.", "token_embedding.", "position_embedding."];

/// Names of every tensor of a `CLIPTextModel` of so many layers, in transformers.
pub(in crate::weights) fn names(layers: usize) -> Vec<String> {
    let embeddings = ["token_embedding", "position_embedding"];
    let mut names: Vec<_> =
        (embeddings.iter()).map(|table| format!("text_model.embeddings.{table}.weight")).collect();
    let mut module = |name: &str| {
        names.extend(["weight", "bias"].map(|kind| format!("text_model.{name}.{kind}")));
    };
    for layer in 0..layers {
        for name in [
            "layer_norm1",
            "layer_norm2",
            "mlp.fc1",
            "mlp.fc2",
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
        ] {
            module(&format!("encoder.layers.{layer}.{name}"));
        }
    }
    module("final_layer_norm");
    names
}

/// Names of every tensor of a `CLIPTextModelWithProjection` of so many layers: in transformers, in OpenCLIP
/// (without the prefix of a checkpoint), and how the one is taken from the other. OpenCLIP keeps queries, keys
/// and values in one tensor, and its projection multiplies from the other side.
pub(super) fn open_clip_names(layers: usize) -> Vec<TensorName> {
    let mut names: Vec<_> = names(layers)
        .into_iter()
        .map(|name| {
            let (stored, take) = open_clip_name(&name);
            (name, stored, take)
        })
        .collect();
    let projection = ("text_projection.weight", "text_projection");
    names.push((projection.0.to_owned(), projection.1.to_owned(), Take::Transposed));
    names
}

/// Name that OpenCLIP gives a module of a text encoder's layers, and how ours is taken from it; `None` for every other
/// module. LoRA files have no other names of OpenCLIP's.
pub(in crate::weights) fn open_clip_module(module: &str) -> Option<(String, Take)> {
    let inside = module.strip_prefix("text_model.").unwrap_or(module);
    inside.strip_prefix("encoder.layers.")?;
    let (stored, take) = open_clip_name(&format!("{inside}.weight"));
    let stored = stored.strip_suffix(".weight").or_else(|| stored.strip_suffix("_weight"))?;
    Some((stored.to_owned(), take))
}

fn open_clip_name(name: &str) -> (String, Take) {
    let name = name.strip_prefix("text_model.").unwrap_or(name);
    if let Some(table) = name.strip_prefix("embeddings.") {
        let stored = match table {
            "position_embedding.weight" => "positional_embedding",
            other => other,
        };
        return (stored.to_owned(), Take::Whole);
    }
    let stored = name
        .replace("final_layer_norm", "ln_final")
        .replace("encoder.layers", "transformer.resblocks")
        .replace("layer_norm", "ln_")
        .replace("mlp.fc1", "mlp.c_fc")
        .replace("mlp.fc2", "mlp.c_proj")
        .replace("self_attn", "attn");
    for (index, part) in ["q_proj.", "k_proj.", "v_proj."].into_iter().enumerate() {
        if let Some((before, kind)) = stored.split_once(part) {
            return (format!("{before}in_proj_{kind}"), Take::Rows { index, of: 3 });
        }
    }
    (stored, Take::Whole)
}

/// Configuration of OpenAI's CLIP text encoder, stored by transformers' names.
pub(super) fn config(shapes: &Shapes) -> Result<Value, String> {
    let layers = shapes.count(|layer| format!("encoder.layers.{layer}.layer_norm1.weight"));
    let tokens = "embeddings.token_embedding.weight";
    let hidden = shapes.size(tokens, 1)?;
    Ok(text_config(&TextSizes {
        vocabulary: shapes.size(tokens, 0)?,
        hidden,
        inner: shapes.size("encoder.layers.0.mlp.fc1.weight", 0)?,
        layers,
        positions: shapes.size("embeddings.position_embedding.weight", 0)?,
        projection: hidden,
        activation: "quick_gelu",
    }))
}

/// Configuration of an OpenCLIP text encoder. `unused_layers` is the number of its last layers that a model
/// leaves out.
pub(super) fn open_clip_config(shapes: &Shapes, unused_layers: usize) -> Result<Value, String> {
    let layers = shapes.count(|layer| format!("transformer.resblocks.{layer}.ln_1.weight"));
    let hidden = shapes.size("token_embedding.weight", 1)?;
    Ok(text_config(&TextSizes {
        vocabulary: shapes.size("token_embedding.weight", 0)?,
        hidden,
        inner: shapes.size("transformer.resblocks.0.mlp.c_fc.weight", 0)?,
        layers: layers.saturating_sub(unused_layers),
        positions: shapes.size("positional_embedding", 0)?,
        projection: shapes.size("text_projection", 1).unwrap_or(hidden),
        activation: "gelu",
    }))
}

/// Configuration of an OpenCLIP text encoder whose tensors stable-diffusion.cpp renamed. Where it has also
/// joined queries, keys and values again, the orientation of the projection is not known.
pub(super) fn converted_open_clip_config(shapes: &Shapes) -> Result<Value, String> {
    if shapes.has("encoder.layers.0.self_attn.in_proj.weight") {
        return Err(
            "its text encoder was renamed by --convert-name: not supported; convert without it"
                .to_owned(),
        );
    }
    let mut config = config(shapes)?;
    config["projection_dim"] = shapes.size("text_projection", 1)?.into();
    config["hidden_act"] = "gelu".into();
    Ok(config)
}

struct TextSizes {
    vocabulary: usize,
    hidden: usize,
    inner: usize,
    layers: usize,
    positions: usize,
    projection: usize,
    activation: &'static str,
}

fn text_config(sizes: &TextSizes) -> Value {
    json!({
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": (sizes.hidden / HEAD_WIDTH).max(1),
        "max_position_embeddings": sizes.positions,
        "projection_dim": sizes.projection,
        "hidden_act": sizes.activation,
        "eos_token_id": END_OF_TEXT,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn open_clip_keeps_queries_keys_and_values_in_one_tensor() {
        let names = open_clip_names(32);
        // 12 tensors of a layer in OpenCLIP, of which two become three each.
        assert_eq!(names.len(), 32 * 16 + 5);
        let names: HashMap<_, _> = names.into_iter().map(|(a, b, take)| (a, (b, take))).collect();
        for (ours, theirs, take) in [
            (
                "text_model.embeddings.position_embedding.weight",
                "positional_embedding",
                Take::Whole,
            ),
            ("text_model.embeddings.token_embedding.weight", "token_embedding.weight", Take::Whole),
            ("text_model.final_layer_norm.bias", "ln_final.bias", Take::Whole),
            ("text_projection.weight", "text_projection", Take::Transposed),
            (
                "text_model.encoder.layers.31.layer_norm2.weight",
                "transformer.resblocks.31.ln_2.weight",
                Take::Whole,
            ),
            (
                "text_model.encoder.layers.0.mlp.fc2.bias",
                "transformer.resblocks.0.mlp.c_proj.bias",
                Take::Whole,
            ),
            (
                "text_model.encoder.layers.7.self_attn.v_proj.bias",
                "transformer.resblocks.7.attn.in_proj_bias",
                Take::Rows { index: 2, of: 3 },
            ),
            (
                "text_model.encoder.layers.7.self_attn.out_proj.weight",
                "transformer.resblocks.7.attn.out_proj.weight",
                Take::Whole,
            ),
        ] {
            assert_eq!(names[ours], (theirs.to_owned(), take));
        }
    }
}
