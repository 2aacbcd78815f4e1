//! Configuration of a transformer from the names and shapes of its tensors: a single file has no `config.json`.

use serde_json::{Value, json};

use crate::weights::part_file::{Naming, Shapes};

/// Axes of a token's place.
const AXES: usize = 4;

/// Names of the tensors whose shapes tell.
struct Names {
    picture: &'static str,
    text: &'static str,
    time: &'static str,
    guidance: &'static str,
    output: &'static str,
    double: [&'static str; 2],
    single: [&'static str; 2],
    /// the norm of a head, without its last word
    norm: &'static str,
}

const ORIGINAL: Names = Names {
    picture: "img_in.weight",
    text: "txt_in.weight",
    time: "time_in.in_layer.weight",
    guidance: "guidance_in.in_layer.weight",
    output: "final_layer.linear.weight",
    double: ["double_blocks", "img_mlp.2.weight"],
    single: ["single_blocks", "linear2.weight"],
    norm: "double_blocks.0.img_attn.norm.query_norm",
};

const DIFFUSERS: Names = Names {
    picture: "x_embedder.weight",
    text: "context_embedder.weight",
    time: "time_guidance_embed.timestep_embedder.linear_1.weight",
    guidance: "time_guidance_embed.guidance_embedder.linear_1.weight",
    output: "proj_out.weight",
    double: ["transformer_blocks", "ff.linear_out.weight"],
    single: ["single_transformer_blocks", "attn.to_out.weight"],
    norm: "transformer_blocks.0.attn.norm_q",
};

/// Last word of the names of norms.
pub(super) fn norm_kind(shapes: &Shapes, naming: Naming) -> &'static str {
    let original = naming == Naming::Ldm && !shapes.has(&format!("{}.weight", ORIGINAL.norm));
    if original { "scale" } else { "weight" }
}

/// Configuration of the transformer whose tensors have these shapes. What no shape says is the same in every model of the
/// family; a head's numbers are shared evenly among the four axes of a place.
///
/// # Errors
/// Shapes that no configuration describes, in one line without the file's name.
pub(super) fn config(shapes: &Shapes, naming: Naming) -> Result<Value, String> {
    let names = if naming == Naming::Ldm { ORIGINAL } else { DIFFUSERS };
    let width = shapes.size(names.picture, 0)?;
    let head = shapes.size(&format!("{}.{}", names.norm, norm_kind(shapes, naming)), 0)?;
    if head == 0 || !head.is_multiple_of(2 * AXES) || width == 0 || !width.is_multiple_of(head) {
        return Err(format!("heads of {head} numbers in a transformer that is {width} wide"));
    }
    let [double, single] = [names.double, names.single]
        .map(|[stack, name]| shapes.count(|index| format!("{stack}.{index}.{name}")));
    let inner = shapes.size(&format!("{}.0.{}", names.double[0], names.double[1]), 1)?;
    Ok(json!({
        "_class_name": super::CLASS,
        "patch_size": 1,
        "in_channels": shapes.size(names.picture, 1)?,
        "out_channels": shapes.size(names.output, 0)?,
        "num_layers": double,
        "num_single_layers": single,
        "attention_head_dim": head,
        "num_attention_heads": width / head,
        "joint_attention_dim": shapes.size(names.text, 1)?,
        "timestep_guidance_channels": shapes.size(names.time, 1)?,
        "mlp_ratio": inner as f64 / width as f64,
        "axes_dims_rope": vec![head / AXES; AXES],
        "rope_theta": 2000,
        "eps": 1e-6,
        "guidance_embeds": shapes.has(names.guidance),
    }))
}
