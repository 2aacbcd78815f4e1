//! The tiny FLUX.2 klein of the fixtures, put together: its weights are drawn from the formula of the scripts.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Device, Tensor, safetensors};
use serde_json::Value;

use super::{
    copy_folder,
    drawn::{field, sizes, weight},
    fixture,
};

/// The tensors of a part, by diffusers' or transformers' names.
pub fn tensors(part: &str) -> HashMap<String, Tensor> {
    let shapes = json("shapes.json");
    let shapes = shapes[part].as_object().unwrap().iter();
    shapes.map(|(name, shape)| (name.clone(), drawn(name, &sizes(shape)))).collect()
}

/// A weight; variances are above 0.
fn drawn(name: &str, shape: &[usize]) -> Tensor {
    if name.ends_with("running_var") {
        return ((field(name, shape) * 0.5).unwrap() + 1.0).unwrap();
    }
    weight(name, shape)
}

/// The transformer's tensors with the names of the original code.
pub fn original() -> HashMap<String, Tensor> {
    let own = tensors("transformer");
    let parts: HashMap<String, Vec<String>> =
        serde_json::from_value(json("original.json")).unwrap();
    let joined = |(theirs, names): (String, Vec<String>)| {
        let parts: Vec<_> = names.iter().map(|name| &own[name]).collect();
        let mut tensor = Tensor::cat(&parts, 0).unwrap();
        if theirs.contains("adaLN_modulation") {
            // Shift before scale.
            let halves = tensor.chunk(2, 0).unwrap();
            tensor = Tensor::cat(&[&halves[1], &halves[0]], 0).unwrap();
        }
        (theirs, tensor)
    };
    parts.into_iter().map(joined).collect()
}

/// Writes the model into a folder, in diffusers layout.
pub fn write_folder(to: &Path) {
    copy_folder(&fixture("flux2_klein/model"), to);
    copy_folder(&fixture("z_image/tokenizer"), &to.join("tokenizer"));
    for file in ["shapes.json", "original.json"] {
        fs::remove_file(to.join(file)).unwrap();
    }
    for (part, name) in [
        ("transformer", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ] {
        let mut tensors = tensors(part);
        if part == "vae" {
            // PyTorch's batch norms count what they have seen.
            let count = Tensor::new(5i64, &Device::Cpu).unwrap();
            tensors.insert("bn.num_batches_tracked".to_owned(), count);
        }
        let path = to.join(part).join(format!("{name}.safetensors"));
        safetensors::save(&tensors, path).unwrap();
    }
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture("flux2_klein/model").join(name)).unwrap()).unwrap()
}
