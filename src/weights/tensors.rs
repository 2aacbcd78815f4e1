//! Tensors by name, straight from memory-mapped files: each tensor is copied once, onto its device,
//! and converted there if it is stored in another precision.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::{WeightsError, source::Bytes};
use crate::backend::ParamSource;

/// The tensors of one part of a model, from one file or several.
#[derive(Clone, Debug, Default)]
pub(super) struct TensorMap {
    files: Vec<(String, Bytes)>,
    entries: HashMap<String, Entry>,
    /// `__metadata__` of the files
    metadata: HashMap<String, String>,
}

/// Where one tensor is.
#[derive(Clone, Debug)]
struct Entry {
    file: usize,
    stored: Dtype,
    shape: Vec<usize>,
    /// bytes of the file
    range: Range<usize>,
}

impl TensorMap {
    /// Adds a safetensors file; `name` is its full name, for messages.
    pub(super) fn add_safetensors(
        &mut self,
        name: String,
        bytes: Bytes,
    ) -> std::result::Result<(), WeightsError> {
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| {
            WeightsError::Safetensors { file: name.clone(), reason: error.to_string() }
        })?;
        // Tensor data begins after the header and the eight bytes of its length.
        let data = header + size_of::<u64>();
        for (tensor, info) in metadata.tensors() {
            let entry = Entry {
                file: self.files.len(),
                stored: info.dtype,
                shape: info.shape.clone(),
                range: data + info.data_offsets.0..data + info.data_offsets.1,
            };
            self.entries.insert(tensor, entry);
        }
        self.metadata.extend(metadata.metadata().clone().unwrap_or_default());
        self.files.push((name, bytes));
        Ok(())
    }

    /// The names of all tensors, in no order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of a tensor, if it is there.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// What the files' `__metadata__` says under `key`.
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The value of a tensor that is one number, of whatever type.
    pub(super) fn number(&self, name: &str) -> Option<f64> {
        let entry = self.entries.get(name)?;
        let bytes = &self.files[entry.file].1[entry.range.clone()];
        Some(match entry.stored {
            Dtype::F16 => f16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
            Dtype::BF16 => bf16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
            Dtype::F32 => f32::from_le_bytes(bytes.try_into().ok()?).into(),
            Dtype::F64 => f64::from_le_bytes(bytes.try_into().ok()?),
            Dtype::I32 => i32::from_le_bytes(bytes.try_into().ok()?).into(),
            Dtype::I64 => i64::from_le_bytes(bytes.try_into().ok()?) as f64,
            _ => return None,
        })
    }

    /// The files' names, for messages.
    fn file_names(&self) -> String {
        match self.files.as_slice() {
            [] => "no file".to_owned(),
            [(name, _)] => name.clone(),
            [(name, _), rest @ ..] => format!("{name} and {} more", rest.len()),
        }
    }
}

impl ParamSource for TensorMap {
    fn get(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        let entry = self.entries.get(name).ok_or_else(|| {
            Error::Msg(format!("{}: tensor `{name}` is missing", self.file_names()))
        })?;
        let (file, bytes) = &self.files[entry.file];
        if entry.shape != shape.dims() {
            return Err(Error::Msg(format!(
                "{file}: tensor `{name}` is {:?}, its configuration says {:?}",
                entry.shape,
                shape.dims()
            )));
        }
        let stored = match entry.stored {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            other => {
                return Err(Error::Msg(format!(
                    "{file}: tensor `{name}` is stored as {other:?}, not in F16, BF16, F32 or F64"
                )));
            }
        };
        Tensor::from_raw_buffer(&bytes[entry.range.clone()], stored, &entry.shape, device)?
            .to_dtype(dtype)
    }

    fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }
}
