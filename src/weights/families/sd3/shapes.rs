//! Configuration of a transformer from the names and shapes of its tensors: a single file has no `config.json`.
//!
//! Sources: diffusers `loaders/single_file_utils.py`; Stability AI's `sd3-ref` (`mmdit.py`, `sd3_impls.py`: as many heads
//! as blocks).

use serde_json::{Value, json};

use crate::weights::part_file::{Naming, Shapes};

/// Native size of every model, in latent pixels.
const SIDE: usize = 128;

/// Configuration of the transformer whose tensors have these shapes.
///
/// # Errors
/// Shapes that no configuration describes, in one line without the file's name.
pub(super) fn config(shapes: &Shapes, naming: Naming) -> Result<Value, String> {
    let (table, patches, pooled, out) = match naming {
        Naming::Ldm => (
            "pos_embed",
            "x_embedder.proj.weight",
            "y_embedder.mlp.0.weight",
            "final_layer.linear.weight",
        ),
        Naming::Diffusers => (
            "pos_embed.pos_embed",
            "pos_embed.proj.weight",
            "time_text_embed.text_embedder.linear_1.weight",
            "proj_out.weight",
        ),
    };
    let block = |layer: usize, ours: &str, theirs: &str| match naming {
        Naming::Ldm => format!("joint_blocks.{layer}.x_block.{theirs}.weight"),
        Naming::Diffusers => format!("transformer_blocks.{layer}.{ours}.weight"),
    };
    let width = shapes.size(patches, 0)?;
    let patch = shapes.size(patches, 2)?;
    let layers = shapes.count(|layer| block(layer, "norm1.linear", "adaLN_modulation.1"));
    let norm = block(0, "attn.norm_q", "attn.ln_q");
    let has_norm = shapes.has(&norm);
    let heads = if has_norm { width / shapes.size(&norm, 0)?.max(1) } else { layers };
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(format!(
            "a transformer of {layers} blocks whose width of {width} has no heads"
        ));
    }
    // Some writers of GGUF leave out the axis of length 1.
    let table = shapes.get(table).ok_or_else(|| format!("tensor `{table}` is missing"))?;
    let places = table.len().checked_sub(2).map_or(0, |axis| table[axis]);
    let side = places.isqrt();
    if side == 0 || side * side != places {
        return Err(format!("a table of positions of {table:?}: no square"));
    }
    let outputs = shapes.size(out, 0)?;
    // A shape with a zero may have any other number.
    let area = patch.saturating_mul(patch);
    if area == 0 || !outputs.is_multiple_of(area) {
        return Err(format!("an output of {outputs} numbers for a patch of {patch} × {patch}"));
    }
    let dual = (0..layers).filter(|&layer| shapes.has(&block(layer, "attn2.to_q", "attn2.qkv")));
    Ok(json!({
        "_class_name": super::CLASS,
        "sample_size": SIDE.min(side.saturating_mul(patch)),
        "patch_size": patch,
        "in_channels": shapes.size(patches, 1)?,
        "out_channels": outputs / area,
        "num_layers": layers,
        "attention_head_dim": width / heads,
        "num_attention_heads": heads,
        "joint_attention_dim": shapes.size("context_embedder.weight", 1)?,
        "caption_projection_dim": shapes.size("context_embedder.weight", 0)?,
        "pooled_projection_dim": shapes.size(pooled, 1)?,
        "pos_embed_max_size": side,
        "dual_attention_layers": dual.collect::<Vec<_>>(),
        "qk_norm": has_norm.then_some("rms_norm"),
    }))
}
