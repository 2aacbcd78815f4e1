//! Tensors by name, straight from memory-mapped files. A tensor is copied once, onto its device,
//! and converted there if it is stored in another precision; or, on the CPU, the weights of large
//! models stay where and as they are, and are converted within the products.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use candle_core::{DType, Device, Error, Result, Shape, Tensor, quantized::GgmlDType};
use safetensors::{Dtype, SafeTensors};

use super::gguf::TensorInfo;
use super::quantize::Rules;
use super::{WeightsError, source::Bytes};
use crate::backend::ops::{Weight, pack_rows, relay};
use crate::backend::{ParamSource, is_quantized, unpack_rows};

/// The tensors of one part of a model, from one file or several.
#[derive(Clone, Debug, Default)]
pub(super) struct TensorMap {
    files: Vec<(String, Bytes)>,
    entries: HashMap<String, Entry>,
    keeping: Keeping,
}

/// How weights are kept once they have been read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keeping {
    /// Where the CPU computes in f32: in the stored format, not in f32.
    pub as_stored: bool,
    /// Round weights to the formats that these say, instead of the stored ones.
    pub rules: Option<Rules>,
}

/// How a tensor's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    Weights(GgmlDType),
    F64,
    Other(Dtype),
}

/// Where one tensor is.
#[derive(Clone, Debug)]
struct Entry {
    file: usize,
    stored: Stored,
    shape: Vec<usize>,
    /// bytes of the file
    range: Range<usize>,
    /// the file's format drops dimensions of 1
    squeezed: bool,
}

impl Entry {
    /// Whether the tensor has this shape.
    fn is(&self, shape: &[usize]) -> bool {
        let longer = |dimension: &&usize| **dimension != 1;
        self.shape == shape
            || self.squeezed && self.shape.iter().filter(longer).eq(shape.iter().filter(longer))
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
                stored: match info.dtype {
                    Dtype::F16 => Stored::Weights(GgmlDType::F16),
                    Dtype::BF16 => Stored::Weights(GgmlDType::BF16),
                    Dtype::F32 => Stored::Weights(GgmlDType::F32),
                    Dtype::F64 => Stored::F64,
                    other => Stored::Other(other),
                },
                shape: info.shape.clone(),
                range: data + info.data_offsets.0..data + info.data_offsets.1,
                squeezed: false,
            };
            self.entries.insert(tensor, entry);
        }
        self.files.push((name, bytes));
        Ok(())
    }

    /// Adds tensors of a GGUF file by the names that they are to have; `name` is the file's full
    /// name, for messages.
    pub(super) fn add_gguf<'a>(
        &mut self,
        name: String,
        bytes: Bytes,
        tensors: impl Iterator<Item = (String, &'a TensorInfo)>,
    ) {
        for (tensor, info) in tensors {
            let entry = Entry {
                file: self.files.len(),
                stored: Stored::Weights(info.dtype),
                shape: info.shape.clone(),
                range: info.range.clone(),
                squeezed: true,
            };
            self.entries.insert(tensor, entry);
        }
        self.files.push((name, bytes));
    }

    /// The same tensors, to be kept another way.
    pub(super) fn kept(self, keeping: Keeping) -> Self {
        Self { keeping, ..self }
    }

    /// How many weights there are.
    pub(super) fn parameters(&self) -> usize {
        let weights =
            self.entries.values().filter(|entry| !matches!(entry.stored, Stored::Other(_)));
        weights.map(|entry| entry.shape.iter().product::<usize>()).sum()
    }

    /// Names and shapes of all weights, in the order of their names, and the formats in which they
    /// are kept.
    pub(super) fn weights(&self) -> Vec<(&str, &[usize], GgmlDType)> {
        let mut weights: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(name, entry)| {
                Some((name.as_str(), entry.shape.as_slice(), self.format(name, entry)?))
            })
            .collect();
        weights.sort_unstable_by_key(|(name, ..)| *name);
        weights
    }

    /// A tensor's bytes in the format in which it is kept; rows first.
    pub(super) fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let Some(entry) = self.entries.get(name) else { return Err(self.missing(name)) };
        let (file, stored) = self.stored(entry);
        match self.format(name, entry) {
            Some(format) if entry.stored == Stored::Weights(format) => Ok(Cow::Borrowed(stored)),
            Some(format) => Ok(Cow::Owned(self.rounded(name, entry, format)?)),
            None => Err(Error::Msg(format!("{file}: tensor `{name}` holds no weights"))),
        }
    }

    /// Says that a tensor will not be needed soon.
    pub(super) fn release(&self, name: &str) {
        /// A smaller range shares all its pages.
        const PAGE: usize = 4096;
        if let Some(entry) = self.entries.get(name).filter(|entry| entry.range.len() >= PAGE) {
            self.files[entry.file].1.release(entry.range.clone());
        }
    }

    /// The files' names, for messages.
    fn names(&self) -> String {
        match self.files.as_slice() {
            [] => "no file".to_owned(),
            [(name, _)] => name.clone(),
            [(name, _), rest @ ..] => format!("{name} and {} more", rest.len()),
        }
    }

    fn missing(&self, name: &str) -> Error {
        Error::Msg(format!("{}: tensor `{name}` is missing", self.names()))
    }

    /// The tensor of this name and shape.
    fn entry(&self, name: &str, shape: &Shape) -> Result<&Entry> {
        let entry = self.entries.get(name).ok_or_else(|| self.missing(name))?;
        if !entry.is(shape.dims()) {
            return Err(Error::Msg(format!(
                "{}: tensor `{name}` is {:?}, its configuration says {:?}",
                self.files[entry.file].0,
                entry.shape,
                shape.dims()
            )));
        }
        Ok(entry)
    }

    /// The name of a tensor's file, and its bytes there.
    fn stored(&self, entry: &Entry) -> (&str, &[u8]) {
        let (file, bytes) = &self.files[entry.file];
        (file, &bytes[entry.range.clone()])
    }

    /// The format in which a tensor is kept; `None` of one that holds no weights.
    fn format(&self, name: &str, entry: &Entry) -> Option<GgmlDType> {
        let stored = match entry.stored {
            Stored::Weights(stored) => stored,
            Stored::F64 => GgmlDType::F32,
            Stored::Other(_) => return None,
        };
        Some(match self.keeping.rules {
            Some(rules) => rules.format(name, &entry.shape, stored),
            None => stored,
        })
    }

    /// A tensor as it is stored, in a precision that tensors can have.
    fn read(&self, name: &str, entry: &Entry, shape: &[usize], device: &Device) -> Result<Tensor> {
        let (file, bytes) = self.stored(entry);
        let dtype = match entry.stored {
            Stored::Weights(GgmlDType::F16) => DType::F16,
            Stored::Weights(GgmlDType::BF16) => DType::BF16,
            Stored::Weights(GgmlDType::F32) => DType::F32,
            Stored::F64 => DType::F64,
            Stored::Weights(quantized) => {
                return Tensor::from_vec(unpack_rows(quantized, bytes), shape, device);
            }
            Stored::Other(other) => {
                return Err(Error::Msg(format!(
                    "{file}: tensor `{name}` is stored as {other:?}, not in F16, BF16, F32 or F64"
                )));
            }
        };
        Tensor::from_raw_buffer(bytes, dtype, shape, device)
    }

    /// A tensor's bytes after rounding to another format than the stored one.
    fn rounded(&self, name: &str, entry: &Entry, format: GgmlDType) -> Result<Vec<u8>> {
        let values = self.read(name, entry, &entry.shape, &Device::Cpu)?;
        let values = values.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let row = entry.shape.last().copied().unwrap_or(1);
        pack_rows(&values, format, row).map_err(|error| {
            Error::Msg(format!("{}: tensor `{name}`: {error}", self.files[entry.file].0))
        })
    }

    /// The tensor of this name and shape, rounded to the format in which it is kept, but not in it.
    fn tensor(&self, name: &str, shape: &Shape, device: &Device) -> Result<Tensor> {
        let entry = self.entry(name, shape)?;
        let tensor = match self.format(name, entry) {
            Some(format) if entry.stored != Stored::Weights(format) => {
                let rounded = self.rounded(name, entry, format)?;
                Tensor::from_vec(unpack_rows(format, &rounded), shape, device)?
            }
            _ => self.read(name, entry, shape.dims(), device)?,
        };
        self.release(name);
        Ok(tensor)
    }

    /// Whether weights stay in their format for f32 on the CPU.
    fn keeps(&self, dtype: DType, device: &Device) -> bool {
        self.keeping.as_stored && dtype == DType::F32 && device.is_cpu()
    }
}

impl ParamSource for TensorMap {
    fn get(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        self.tensor(name, shape, device)?.to_dtype(dtype)
    }

    fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn matrix(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Weight> {
        let entry = self.entry(name, shape)?;
        let keeps = self.keeps(dtype, device);
        let format = match self.format(name, entry) {
            Some(format) if keeps && format != GgmlDType::F32 => format,
            Some(format) if is_quantized(format) && !device.is_cpu() => format,
            _ => return Weight::dense(&self.get(name, shape, dtype, device)?),
        };
        let output = shape.dims().first().copied().unwrap_or(1);
        let input = shape.elem_count() / output.max(1);
        if !input.is_multiple_of(format.block_size()) {
            // Blocks across the ends of rows: no such row can be taken by itself.
            let rows = self.get(name, shape, dtype, device)?;
            return if keeps { Weight::pack(&rows, GgmlDType::F16) } else { Weight::dense(&rows) };
        }
        let is_stored = entry.stored == Stored::Weights(format);
        if keeps && is_stored {
            let bytes = self.files[entry.file].1.clone();
            return Weight::packed(bytes, entry.range.clone(), format, (output, input));
        }
        let bytes = self.bytes(name)?;
        if !keeps {
            let weight = Weight::on_device(&bytes, format, (output, input), device);
            self.release(name);
            return weight;
        }
        let bytes = Bytes::Heap(bytes.into());
        self.release(name);
        Weight::packed(bytes.clone(), 0..bytes.len(), format, (output, input))
    }

    fn kernel(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        let entry = self.entry(name, shape)?;
        let dtype = match self.format(name, entry) {
            Some(GgmlDType::F32) | None => dtype,
            _ if !self.keeps(dtype, device) => dtype,
            Some(GgmlDType::BF16) => DType::BF16,
            Some(_) => DType::F16,
        };
        relay(&self.get(name, shape, dtype, device)?)
    }
}
