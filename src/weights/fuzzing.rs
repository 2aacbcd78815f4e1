//! What fuzz targets reach of this room: headers of weights files, LoRAs, and what the hub answers, from bytes alone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::json;

use super::families::{FAMILIES, control};
use super::gguf::llama_cpp::{LlamaCppFile, LlamaCppModel};
use super::hub;
use super::lora::{Index, Lora};
use super::part::Part;
use super::safetensors_header::SafetensorsHeader;
use super::source::Bytes;
use super::tensors::{Take, TensorMap};

pub use super::hub::names::{is_commit, is_inside, is_name, is_repository, is_sha256, matches};
pub use super::hub::url::{encode, is_loopback, join, origin};

/// Name, type, shape and place of a tensor.
pub type Tensor = (String, String, Vec<usize>, Range<usize>);

/// Tensors of a safetensors file in the order of their places, and its notes.
pub fn safetensors(file: &[u8]) -> Option<(Vec<Tensor>, BTreeMap<String, String>)> {
    let header = SafetensorsHeader::read(file).ok()?;
    let dtype = |dtype| match serde_json::to_value(dtype) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    };
    let tensors = (header.tensors.into_iter())
        .map(|(name, tensor)| (name, dtype(tensor.dtype), tensor.shape, tensor.range))
        .collect();
    Some((tensors, header.metadata.into_iter().collect()))
}

/// Looks for a model in the names and shapes of a safetensors file; `true` if there is a denoiser.
pub fn single_file(file: &[u8]) -> bool {
    let mut tensors = TensorMap::default();
    if tensors.add_safetensors("fuzz".to_owned(), Bytes::Heap(file.into())).is_err() {
        return false;
    }
    let mut found = false;
    for family in FAMILIES {
        found |= family.has_denoiser(&tensors);
        // What is refused is as good as what is found.
        let _ = family.checkpoint("fuzz", &tensors);
        let _ = family.denoiser("fuzz", &tensors, None);
    }
    let _ = control("fuzz", &tensors, Some(8));
    found
}

/// Names, shapes and places of a GGUF file's tensors.
pub fn gguf(file: &[u8]) -> Option<Vec<Tensor>> {
    let tensors = super::gguf::tensors("fuzz".to_owned(), Bytes::Heap(file.into())).ok()?;
    let mut found: Vec<_> = tensors
        .names()
        .filter_map(|name| {
            let (_, range) = tensors.place(name)?;
            let format = format!("{:?}", tensors.format(name)?);
            Some((name.to_owned(), format, tensors.shape(name)?.to_vec(), range))
        })
        .collect();
    found.sort_by_key(|(name, ..)| name.clone());
    Some(found)
}

/// Scale of the network of ncnn in a text and its numbers, and names, shapes and places of its arrays.
///
/// # Errors
/// The message for the user.
pub fn ncnn(param: &[u8], bin: &[u8]) -> Result<(usize, Vec<Tensor>), String> {
    let (config, arrays) = super::enlarger::ncnn_places(param, bin)?;
    let named = arrays
        .into_iter()
        .map(|array| (array.name, format!("{:?}", array.dtype), array.shape, array.range));
    Ok((config.scale(), named.collect()))
}

/// The configuration and the tokenizer of a LLaVA model of llama.cpp, decoder and vision tower in one file.
pub fn llama_cpp(path: &Path) -> Option<(serde_json::Value, serde_json::Value)> {
    let file = LlamaCppFile::open(path).ok()?;
    let model = LlamaCppModel::new(&file, &file).ok()?;
    Some((model.config, model.tokenizer))
}

/// The tokenizer of a Qwen3 of llama.cpp; what the metadata says of its configuration is read as well.
pub fn qwen3(path: &Path) -> Option<serde_json::Value> {
    let _ = super::gguf::qwen3_config(path, 2);
    super::gguf::qwen_tokenizer(path).ok()?
}

/// Notes on a LoRA file for a model of a few layers.
///
/// # Errors
/// The message for the user.
pub fn lora(path: &Path) -> Result<Vec<String>, String> {
    static INDEX: OnceLock<Index> = OnceLock::new();
    let family = FAMILIES[0];
    let index = INDEX.get_or_init(|| {
        let block = "down_blocks.1.attentions.0.transformer_blocks.0";
        let denoiser = model(&[
            ("conv_in.weight", &[8, 4, 3, 3]),
            (&format!("{block}.attn1.to_q.weight"), &[8, 8]),
            (&format!("{block}.attn1.to_q.bias"), &[8]),
            (&format!("{block}.norm1.weight"), &[8]),
            (&format!("{block}.norm1.bias"), &[8]),
            ("down_blocks.1.resnets.0.conv1.weight", &[8, 8, 3, 3]),
            (&format!("{block}.attn2.to_k.weight"), &[8, 6]),
            (&format!("{block}.attn2.to_out.0.weight"), &[8, 8]),
        ]);
        let attention = "text_model.encoder.layers.0.self_attn";
        let encoder = model(&[
            (&format!("{attention}.q_proj.weight"), &[6, 6]),
            (&format!("{attention}.k_proj.weight"), &[6, 6]),
            (&format!("{attention}.v_proj.weight"), &[6, 6]),
        ]);
        let parts = [(Part::Denoiser, denoiser), (Part::TextEncoder(0), encoder)];
        let theirs = |name: &str| format!("input_blocks.4.1.transformer_blocks.0.{name}.weight");
        let names = ["attn1.to_q", "attn2.to_k"]
            .map(|name| (format!("{block}.{name}.weight"), theirs(name), Take::Whole));
        Index::new(&parts, &names, family.lora())
    });
    let lora = Lora::open(path, 0.5.into(), index, family).map_err(|error| error.to_string())?;
    let _ = lora.find_non_finite();
    // What was accepted has to be applied.
    for (part, names) in index.names() {
        let Some(changes) = lora.changes(part) else { continue };
        for (name, shape) in names {
            let mut values = vec![0.5; shape.iter().product()];
            changes.apply(&name, &mut values).map_err(|error| error.to_string())?;
        }
    }
    Ok(lora.notes)
}

/// Tensors of zeros.
fn model(shapes: &[(&str, &[usize])]) -> TensorMap {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let end = at + 2 * shape.iter().product::<usize>();
        let tensor = json!({"dtype": "F16", "shape": shape, "data_offsets": [at, end]});
        header.insert((*name).to_owned(), tensor);
        at = end;
    }
    let header = serde_json::Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length[..], header.as_bytes(), &vec![0; at]].concat();
    let mut tensors = TensorMap::default();
    let added = tensors.add_safetensors("model".to_owned(), Bytes::Heap(bytes.into()));
    added.expect("a header of our own");
    tensors
}

/// Commit and files (path, size, SHA-256) of an answer of the hub.
///
/// # Errors
/// The message for the user.
#[expect(clippy::type_complexity, reason = "a tuple of what the fields are")]
pub fn revision(
    answer: &[u8],
) -> Result<(String, Vec<(String, Option<u64>, Option<String>)>), String> {
    let found = hub::understand("fuzz", answer).map_err(|error| error.to_string())?;
    let files = found.files.into_iter().map(|file| (file.path, file.size, file.sha256));
    Ok((found.commit, files.collect()))
}

/// First byte and whole length of a `Content-Range`.
pub fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    hub::content_range(value)
}
