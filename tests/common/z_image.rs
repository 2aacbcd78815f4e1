//! The tiny Z-Image of the fixtures, put together: its weights are drawn from the formula of the scripts.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Tensor, safetensors};
use serde_json::Value;

use super::{
    copy_folder,
    drawn::{sizes, weight},
    fixture,
};

/// The tensors of a part, by diffusers' or transformers' names.
pub fn tensors(part: &str) -> HashMap<String, Tensor> {
    let shapes = json("shapes.json");
    let shapes = shapes[part].as_object().unwrap().iter();
    shapes.map(|(name, shape)| (name.clone(), weight(name, &sizes(shape)))).collect()
}

/// The transformer's tensors with the names of the original code.
pub fn original() -> HashMap<String, Tensor> {
    let own = tensors("transformer");
    let parts: HashMap<String, Vec<String>> =
        serde_json::from_value(json("original.json")).unwrap();
    let joined = |names: Vec<String>| {
        let parts: Vec<_> = names.iter().map(|name| &own[name]).collect();
        Tensor::cat(&parts, 0).unwrap()
    };
    parts.into_iter().map(|(theirs, names)| (theirs, joined(names))).collect()
}

/// Writes the model into a folder, in diffusers layout.
pub fn write_folder(to: &Path) {
    copy_folder(&fixture("z_image/model"), to);
    copy_folder(&fixture("z_image/tokenizer"), &to.join("tokenizer"));
    for file in ["shapes.json", "original.json", "transformer.gguf", "gguf.safetensors"] {
        fs::remove_file(to.join(file)).unwrap();
    }
    for (part, name) in [
        ("transformer", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ] {
        let path = to.join(part).join(format!("{name}.safetensors"));
        safetensors::save(&tensors(part), path).unwrap();
    }
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture("z_image/model").join(name)).unwrap()).unwrap()
}
