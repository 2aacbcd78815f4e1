//! Tensors by name, straight from memory-mapped files: each tensor is copied once, onto its device,
//! and converted there if it is stored in another precision. A map may call tensors by other names
//! than the file does, and hold parts of them; the files are not touched by that.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use safetensors::{Dtype, SafeTensors};

use super::{WeightsError, ldm::Take, source::Bytes};
use crate::backend::ParamSource;

/// The tensors of one part of a model, from one file or several.
#[derive(Clone, Debug, Default)]
pub(super) struct TensorMap {
    files: Vec<(String, Bytes)>,
    entries: HashMap<String, Entry>,
    /// what the files call the tensors that have another name here, for messages
    stored_names: HashMap<String, String>,
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
    /// stored with rows for columns: `shape` is what it is after turning
    transposed: bool,
}

impl Entry {
    /// A part or another view of the same bytes; a tensor that cannot be taken so stays as it is,
    /// and its shape will not be the one asked for.
    fn take(&self, take: Take) -> Self {
        let mut taken = self.clone();
        match take {
            Take::Whole => {}
            Take::Rows { index, of } => {
                if let Some(rows) = taken.shape.first_mut().filter(|rows| rows.is_multiple_of(of)) {
                    *rows /= of;
                    let bytes = self.range.len() / of;
                    let start = self.range.start + index * bytes;
                    taken.range = start..start + bytes;
                }
            }
            Take::Transposed => {
                if let [rows, columns] = self.shape[..] {
                    taken.shape = vec![columns, rows];
                    taken.transposed = !self.transposed;
                }
            }
        }
        taken
    }
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
                transposed: false,
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

    /// The same files with other names for tensors: each item is the new name, the stored one, and
    /// how the one is taken from the other. Only these tensors are in the new map.
    pub(super) fn renamed(&self, names: impl IntoIterator<Item = (String, String, Take)>) -> Self {
        let mut renamed =
            Self { files: self.files.clone(), metadata: self.metadata.clone(), ..Self::default() };
        for (name, stored, take) in names {
            if let Some(entry) = self.entries.get(&stored) {
                renamed.entries.insert(name.clone(), entry.take(take));
            }
            renamed.stored_names.insert(name, stored);
        }
        renamed
    }

    /// A map of tensors without contents, which can be asked for their shapes alone.
    #[cfg(test)]
    pub(super) fn of_shapes(shapes: Vec<(String, Vec<usize>)>) -> Self {
        let entry =
            |shape| Entry { file: 0, stored: Dtype::F16, shape, range: 0..0, transposed: false };
        let entries = shapes.into_iter().map(|(name, shape)| (name, entry(shape))).collect();
        Self { entries, ..Self::default() }
    }

    /// What the file calls a tensor.
    fn stored_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.stored_names.get(name).map_or(name, String::as_str)
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
    /// Axes of length 1 at the end do not count: a 1×1 convolution may be stored as the dense layer
    /// that it is, and the other way round.
    fn get(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        let stored_name = self.stored_name(name);
        let entry = self.entries.get(name).ok_or_else(|| {
            Error::Msg(format!("{}: tensor `{stored_name}` is missing", self.file_names()))
        })?;
        let (file, bytes) = &self.files[entry.file];
        if without_last_ones(&entry.shape) != without_last_ones(shape.dims()) {
            return Err(Error::Msg(format!(
                "{file}: tensor `{stored_name}` is {:?}, its configuration says {:?}",
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
                    "{file}: tensor `{stored_name}` is stored as {other:?}, not in F16, BF16, F32 or F64"
                )));
            }
        };
        let bytes = &bytes[entry.range.clone()];
        let tensor = if entry.transposed {
            let turned: Vec<usize> = entry.shape.iter().rev().copied().collect();
            Tensor::from_raw_buffer(bytes, stored, &turned, device)?.t()?.contiguous()?
        } else {
            Tensor::from_raw_buffer(bytes, stored, shape.dims(), device)?
        };
        tensor.to_dtype(dtype)
    }

    fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }
}

fn without_last_ones(shape: &[usize]) -> &[usize] {
    let length = shape.iter().rposition(|&size| size != 1).map_or(0, |last| last + 1);
    &shape[..length]
}
