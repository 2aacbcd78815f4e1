//! Weights files of either container, safetensors or GGUF, as tensors by name. The contents decide which it is,
//! not the file's extension.

use std::path::Path;

use super::file_kind::FileKind;
use super::gguf;
use super::source::{Bytes, has_extension};
use super::{WeightsError, tensors::TensorMap};

/// Reads the header of a weights file.
///
/// # Errors
/// A file that cannot be read, that is damaged, or of an unknown kind.
pub(super) fn open_tensors(path: &Path) -> Result<TensorMap, WeightsError> {
    let name = path.display().to_string();
    let bytes =
        Bytes::map(path).map_err(|source| WeightsError::Read { file: name.clone(), source })?;
    let kind = FileKind::of(&bytes, bytes.len() as u64);
    kind.check(&name)?;
    if kind == FileKind::Gguf {
        return gguf::tensors(name, bytes);
    }
    // The name of a damaged file still says what it was meant to be.
    if kind == FileKind::Unknown && !has_extension(path, &["safetensors", "sft"]) {
        return Err(WeightsError::Contents {
            file: name,
            reason: "not a weights file that is known (.safetensors, .gguf)".to_owned(),
        });
    }
    let mut tensors = TensorMap::default();
    tensors.add_safetensors(name, bytes)?;
    Ok(tensors)
}
