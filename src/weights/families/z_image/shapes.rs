//! Configuration of a transformer from the names and shapes of its tensors: a single file has no `config.json`.

use serde_json::{Value, json};

use crate::weights::part_file::{Naming, Shapes};

/// Values of a patch: two by two latent pixels.
const PATCH: usize = 4;

/// Places of a text's tokens, of rows and of columns in every model.
const PLACES: [usize; 3] = [1536, 512, 512];

/// Configuration of the transformer whose tensors have these shapes. How a head's numbers are shared among the three axes
/// of a place follows from its width: a quarter, and three eighths for each side.
///
/// # Errors
/// Shapes that no configuration describes, in one line without the file's name.
pub(super) fn config(shapes: &Shapes, naming: Naming) -> Result<Value, String> {
    let (patches, norm) = match naming {
        Naming::Ldm => ("x_embedder.weight", "layers.0.attention.q_norm.weight"),
        Naming::Diffusers => ("all_x_embedder.2-1.weight", "layers.0.attention.norm_q.weight"),
    };
    let dim = shapes.size(patches, 0)?;
    let values = shapes.size(patches, 1)?;
    let head = shapes.size(norm, 0)?;
    if head == 0 || !head.is_multiple_of(16) || !dim.is_multiple_of(head) {
        return Err(format!("heads of {head} numbers in a transformer that is {dim} wide"));
    }
    if !values.is_multiple_of(PATCH) {
        return Err(format!("a patch of {values} numbers, no multiple of {PATCH}"));
    }
    let count = |stack: &str| shapes.count(|index| format!("{stack}.{index}.ffn_norm1.weight"));
    Ok(json!({
        "_class_name": super::CLASS,
        "all_patch_size": [2],
        "all_f_patch_size": [1],
        "in_channels": values / PATCH,
        "dim": dim,
        "n_layers": count("layers"),
        "n_refiner_layers": count("noise_refiner"),
        "n_heads": dim / head,
        "n_kv_heads": dim / head,
        "norm_eps": 1e-5,
        "qk_norm": true,
        "cap_feat_dim": shapes.size("cap_embedder.1.weight", 1)?,
        "rope_theta": 256.0,
        "t_scale": 1000.0,
        "axes_dims": [head / 4, head * 3 / 8, head * 3 / 8],
        "axes_lens": PLACES,
    }))
}
