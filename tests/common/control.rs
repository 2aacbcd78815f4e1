//! ControlNets of drawn weights, for the tiny model of `tests/fixtures/img2img` (fixtures by
//! tests/make_fixtures/make_control_method_fixture.py) and by themselves, written as people have them.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Tensor, safetensors};
use serde_json::Value;

use super::{
    drawn::{sizes, weight},
    fixture,
};

/// Tensors of these shapes, drawn by their names behind `prefix`.
pub fn drawn(shapes: &Value, prefix: &str) -> HashMap<String, Tensor> {
    let shapes = shapes.as_object().unwrap().iter();
    shapes
        .map(|(name, shape)| (name.clone(), weight(&format!("{prefix}{name}"), &sizes(shape))))
        .collect()
}

/// Configuration and tensors of a ControlNet for the tiny model: `plain` or `union`.
pub fn of_tiny(name: &str) -> (Value, HashMap<String, Tensor>) {
    let text = fs::read(fixture(&format!("control_method/{name}.json"))).unwrap();
    let description: Value = serde_json::from_slice(&text).unwrap();
    let tensors = drawn(&description["shapes"], &format!("{name}."));
    (description["config"].clone(), tensors)
}

/// Writes a ControlNet in diffusers layout.
pub fn write_folder(config: &Value, tensors: &HashMap<String, Tensor>, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    safetensors::save(tensors, folder.join("diffusion_pytorch_model.safetensors")).unwrap();
}

/// Writes [`of_tiny`] in diffusers layout.
pub fn write_tiny(name: &str, folder: &Path) {
    let (config, tensors) = of_tiny(name);
    write_folder(&config, &tensors, folder);
}

/// The same tensors in another precision.
pub fn converted(tensors: &HashMap<String, Tensor>, dtype: DType) -> HashMap<String, Tensor> {
    let convert =
        |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.to_dtype(dtype).unwrap());
    tensors.iter().map(convert).collect()
}
