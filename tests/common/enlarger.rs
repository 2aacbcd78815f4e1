//! Small enlarging networks, with the weights of `tests/make_fixtures/make_enlarger_fixtures.py`.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Tensor, safetensors};
use serde_json::{Map, Value};

use super::{
    drawn::{sizes, weight},
    fixture,
};

/// The networks of the fixtures in safetensors: scale, and shapes of the tensors by their names in the file.
pub fn cases() -> Map<String, Value> {
    let text = fs::read_to_string(fixture("enlarger/cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A weight as the fixtures' script draws it: slopes of a PReLU are no gains of a norm.
pub fn drawn(name: &str, shape: &[usize]) -> Tensor {
    let value = weight(name, shape);
    match shape.len() == 1 && name.ends_with(".weight") {
        true => ((value - 1.0).unwrap() * 0.8).unwrap().affine(1.0, 0.25).unwrap(),
        false => value,
    }
}

/// Writes the network of a case.
pub fn write(case: &str, path: &Path) {
    let shapes = cases()[case]["shapes"].as_object().unwrap().clone();
    let tensors: HashMap<_, _> =
        shapes.iter().map(|(name, shape)| (name.clone(), drawn(name, &sizes(shape)))).collect();
    safetensors::save(&tensors, path).unwrap();
}

/// Writes a 4 × `RRDBNet` of these widths.
pub fn write_rrdb(path: &Path, features: usize, growth: usize, blocks: usize) {
    let mut shapes = vec![("conv_first".to_owned(), 3, features)];
    for block in 0..blocks {
        for dense in 1..=3 {
            shapes.extend((0..5).map(|conv| {
                let output = if conv < 4 { growth } else { features };
                let name = format!("body.{block}.rdb{dense}.conv{}", conv + 1);
                (name, features + conv * growth, output)
            }));
        }
    }
    let behind = ["conv_body", "conv_up1", "conv_up2", "conv_hr"];
    shapes.extend(behind.map(|name| (name.to_owned(), features, features)));
    shapes.push(("conv_last".to_owned(), features, 3));
    let tensors = shapes.into_iter().flat_map(|(name, input, output)| {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        [(drawn(&weight, &[output, input, 3, 3]), weight), (drawn(&bias, &[output]), bias)]
    });
    let tensors: HashMap<_, _> = tensors.map(|(tensor, name)| (name, tensor)).collect();
    safetensors::save(&tensors, path).unwrap();
}
