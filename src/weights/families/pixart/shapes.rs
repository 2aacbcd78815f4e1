//! Configuration of a PixArt transformer from the names and shapes of its tensors: a single file has no `config.json`.
//!
//! Sources: ComfyUI `comfy/model_detection.py`; the configurations of the family's models in diffusers.

use serde_json::{Value, json};

use super::CLASS;
use crate::weights::part_file::{Naming, Shapes};

/// Heads of every published model.
const HEADS: usize = 16;
/// Native sides in latent pixels, where the file does not have a table of positions.
const SMALL_SIDE: usize = 64;
const LARGE_SIDE: usize = 128;
/// Tokens of a text that PixArt-Σ was trained with; α has 120.
const SIGMA_TOKENS: usize = 300;

/// Tensors of variants that are not supported, in the first block, and what they are.
const UNSUPPORTED: [(&str, &str); 4] = [
    ("blocks.0.attn.q_norm.weight", "norms of queries and keys"),
    ("transformer_blocks.0.attn1.norm_q.weight", "norms of queries and keys"),
    ("blocks.0.attn.sr.weight", "compressed keys and values (2K, 4K)"),
    ("blocks.0.cross_attn.norm_k.weight", "norms of queries and keys"),
];

/// Names of the tensors that tell the sizes.
struct Places {
    patch: &'static str,
    output: &'static str,
    text: &'static str,
    size: &'static str,
    blocks: &'static str,
}

/// Configuration of a transformer.
///
/// # Errors
/// Shapes that no configuration describes, in one line without the file's name.
pub(super) fn config(shapes: &Shapes, naming: Naming) -> Result<Value, String> {
    if let Some((_, what)) = UNSUPPORTED.iter().find(|(name, _)| shapes.has(name)) {
        return Err(format!("a PixArt model with {what}: not supported"));
    }
    let Places { patch, output, text, size, blocks } = match naming {
        Naming::Ldm => Places {
            patch: "x_embedder.proj.weight",
            output: "final_layer.linear.weight",
            text: "y_embedder.y_proj.fc1.weight",
            size: "ar_embedder.mlp.0.weight",
            blocks: "blocks",
        },
        Naming::Diffusers => Places {
            patch: "pos_embed.proj.weight",
            output: "proj_out.weight",
            text: "caption_projection.linear_1.weight",
            size: "adaln_single.emb.aspect_ratio_embedder.linear_1.weight",
            blocks: "transformer_blocks",
        },
    };
    let (width, channels) = (shapes.size(patch, 0)?, shapes.size(patch, 1)?);
    let patch_size = shapes.size(patch, 2)?;
    if patch_size == 0 || !width.is_multiple_of(HEADS) {
        return Err(format!(
            "a PixArt model of width {width} with patches of {patch_size}: not supported"
        ));
    }
    let of_sizes = shapes.has(size);
    let tokens = shapes.get("y_embedder.y_embedding").and_then(<[usize]>::first);
    let is_sigma = tokens == Some(&SIGMA_TOKENS);
    let positions = shapes.get("pos_embed").and_then(|shape| shape.get(1)).map(|it| it.isqrt());
    let side = match positions {
        Some(patches) => patches * patch_size,
        None if of_sizes || is_sigma => LARGE_SIDE,
        None => SMALL_SIDE,
    };
    // Null where it may be either: PixArt-α's configurations do not have the field.
    let of_sizes = match (of_sizes, is_sigma || side == LARGE_SIDE) {
        (true, _) => json!(true),
        (false, true) => json!(false),
        (false, false) => Value::Null,
    };
    Ok(json!({
        "_class_name": CLASS,
        "activation_fn": "gelu-approximate",
        "attention_bias": true,
        "attention_head_dim": width / HEADS,
        "caption_channels": shapes.size(text, 1)?,
        "cross_attention_dim": width,
        "in_channels": channels,
        "norm_elementwise_affine": false,
        "norm_eps": 1e-6,
        "norm_type": "ada_norm_single",
        "num_attention_heads": HEADS,
        "num_layers": shapes.count(|index| format!("{blocks}.{index}.scale_shift_table")),
        "out_channels": shapes.size(output, 0)? / (patch_size * patch_size),
        "patch_size": patch_size,
        "sample_size": side,
        "use_additional_conditions": of_sizes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::tensors::TensorMap;

    /// The tensors that tell PixArt's configuration, with those given.
    fn tensors(more: &[(&str, &[usize])]) -> TensorMap {
        let mut shapes = vec![
            ("x_embedder.proj.weight".to_owned(), vec![1152, 4, 2, 2]),
            ("final_layer.linear.weight".to_owned(), vec![32, 1152]),
            ("y_embedder.y_proj.fc1.weight".to_owned(), vec![1152, 4096]),
        ];
        shapes.extend(
            (0..28).map(|index| (format!("blocks.{index}.scale_shift_table"), vec![6, 1152])),
        );
        shapes.extend(more.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())));
        TensorMap::of_shapes(shapes)
    }

    fn read(more: &[(&str, &[usize])]) -> Result<Value, String> {
        config(&Shapes { tensors: &tensors(more), prefix: "" }, Naming::Ldm)
    }

    #[test]
    fn the_shapes_of_published_files_say_their_configurations() {
        let alpha = read(&[("ar_embedder.mlp.0.weight", &[384, 256])]).unwrap();
        assert_eq!(alpha["sample_size"], 128);
        assert_eq!(alpha["use_additional_conditions"], true);
        assert_eq!((&alpha["num_layers"], &alpha["out_channels"]), (&json!(28), &json!(8)));
        assert_eq!(alpha["attention_head_dim"], 72);
        let small = read(&[("y_embedder.y_embedding", &[120, 4096])]).unwrap();
        assert_eq!(
            (&small["sample_size"], &small["use_additional_conditions"]),
            (&json!(64), &Value::Null)
        );
        let sigma = read(&[("y_embedder.y_embedding", &[300, 4096])]).unwrap();
        assert_eq!(
            (&sigma["sample_size"], &sigma["use_additional_conditions"]),
            (&json!(128), &json!(false))
        );
        let sigma =
            read(&[("y_embedder.y_embedding", &[300, 4096]), ("pos_embed", &[1, 1024, 1152])]);
        assert_eq!(sigma.unwrap()["sample_size"], 64);
    }

    #[test]
    fn variants_that_are_not_supported_are_named() {
        for (name, word) in [
            ("blocks.0.attn.q_norm.weight", "norms of queries"),
            ("blocks.0.attn.sr.weight", "compressed keys"),
        ] {
            assert!(read(&[(name, &[1152])]).unwrap_err().contains(word));
        }
    }
}
