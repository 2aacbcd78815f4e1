//! Tensors by name, straight from memory-mapped safetensors files: each tensor is copied once, onto
//! its device, and converted there if it is stored in another precision.

use std::collections::HashMap;

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use safetensors::{Dtype, SafeTensors};

use super::{WeightsError, source::Bytes};

/// The tensors of one component: one file, or the shards of one index.
#[derive(Debug, Default)]
pub(super) struct TensorFiles {
    files: Vec<(String, Bytes)>,
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// byte range in the file
    start: usize,
    end: usize,
}

impl TensorFiles {
    /// Adds a safetensors file; `name` is its full name, for messages.
    pub(super) fn add(
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
                dtype: info.dtype,
                shape: info.shape.clone(),
                start: data + info.data_offsets.0,
                end: data + info.data_offsets.1,
            };
            self.entries.insert(tensor, entry);
        }
        self.files.push((name, bytes));
        Ok(())
    }

    /// A `VarBuilder` over these tensors, which converts them to `dtype` on `device`.
    pub(super) fn into_vars(self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self), dtype, device.clone())
    }

    /// The files' names, for messages.
    fn names(&self) -> String {
        match self.files.as_slice() {
            [] => "no file".to_owned(),
            [(name, _)] => name.clone(),
            [(name, _), rest @ ..] => format!("{name} and {} more", rest.len()),
        }
    }

    fn find(&self, name: &str) -> Result<&Entry> {
        self.entries
            .get(name)
            .ok_or_else(|| Error::Msg(format!("{}: tensor `{name}` is missing", self.names())))
    }
}

impl SimpleBackend for TensorFiles {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let entry = self.find(name)?;
        if entry.shape != shape.dims() {
            return Err(Error::Msg(format!(
                "{}: tensor `{name}` is {:?}, its configuration says {:?}",
                self.files[entry.file].0,
                entry.shape,
                shape.dims()
            )));
        }
        self.get_unchecked(name, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let entry = self.find(name)?;
        let (file, bytes) = &self.files[entry.file];
        let stored = match entry.dtype {
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
        let bytes = &bytes[entry.start..entry.end];
        Tensor::from_raw_buffer(bytes, stored, &entry.shape, device)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }
}
