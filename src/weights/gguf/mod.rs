//! GGUF files. Our own hold a whole model, as `models quantize` writes it ([`model`]). Those of others are single
//! files, or denoisers alone, with the training code's names in another container: here they become tensors by
//! name, and [`single_file`](super::single_file) takes them from there.
//!
//! candle has a reader of its own (`quantized::gguf_file`), which is not used here: it copies each tensor to the
//! heap, where ours gives the place of the tensor in the mapped file, so that weights in their stored format
//! take no memory of their own and a large model is ready at once. It also reads every array of the metadata,
//! vocabularies of language models included, and takes a name that occurs twice. The block formats are candle's.
//!
//! Sources: stable-diffusion.cpp `src/convert.cpp` and `src/model_io/gguf_io.cpp` (names as in the
//! checkpoint, no metadata at all; dimensions of 1 at the front are dropped), ComfyUI-GGUF
//! `tools/convert.py` and `loader.py` (a UNet alone; `comfy.gguf.orig_shape.NAME` where it was
//! reshaped to rows of 256).

mod byte_pairs;
mod export;
mod keys;
pub(super) mod llama_cpp;
pub(super) mod model;
mod pieces;
mod read;
#[cfg(test)]
mod tests;
mod vocabulary;
mod write;

pub(super) use byte_pairs::{qwen_tokenizer, qwen3_config};
pub use export::Summary;
pub(super) use export::export;
pub(super) use pieces::t5_tokenizer;

use super::WeightsError;
use super::source::Bytes;
use super::tensors::TensorMap;
use read::{Header, Value};

/// Key under which ComfyUI-GGUF keeps a tensor's shape; the tensor's name follows.
const ORIGINAL_SHAPE_KEY: &str = "comfy.gguf.orig_shape.";

fn read_header(file: &str, bytes: &[u8]) -> Result<Header, WeightsError> {
    Header::read(bytes).map_err(|reason| WeightsError::Gguf { file: file.to_owned(), reason })
}

/// All tensors of a GGUF file by their names in it, in the shapes that they had before conversion.
///
/// # Errors
/// A file that is damaged, or a shape that its tensor cannot have.
pub(super) fn tensors(file: String, bytes: Bytes) -> Result<TensorMap, WeightsError> {
    let mut header = read_header(&file, &bytes)?;
    for tensor in &mut header.tensors {
        let key = format!("{ORIGINAL_SHAPE_KEY}{}", tensor.name);
        let Some(value) = header.metadata.get(&key) else { continue };
        let count: usize = tensor.shape.iter().product();
        tensor.shape = original_shape(value, count).ok_or_else(|| WeightsError::Gguf {
            file: file.clone(),
            reason: format!("`{key}` is no shape of {count} weights"),
        })?;
    }
    let mut tensors = TensorMap::default();
    let named = header.tensors.iter().map(|tensor| (tensor.name.clone(), tensor));
    tensors.add_gguf(file, bytes, named);
    Ok(tensors)
}

/// Shape in the metadata, if it is one of so many numbers.
fn original_shape(value: &Value, count: usize) -> Option<Vec<usize>> {
    let Value::Array(sizes) = value else { return None };
    let shape = sizes.iter().map(|size| match size {
        Value::Integer(size) => usize::try_from(*size).ok(),
        _ => None,
    });
    let shape: Vec<usize> = shape.collect::<Option<_>>()?;
    let product = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    (product == Some(count)).then_some(shape)
}
