//! Tensors by name, from memory-mapped files: each tensor is copied once, onto its device, and converted there if it
//! is stored in another precision. A map may give tensors other names than the file does, and hold parts of
//! them, without touching the file. Weights that stay in the file ([`kept`](super::kept)) get their place in
//! it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use candle_core::{DType, Device, Error, Result, Shape, Tensor, quantized::GgmlDType};
use half::{bf16, f16};
use safetensors::Dtype;

use super::WeightsError;
use super::file_kind::FileKind;
use super::safetensors_header::SafetensorsHeader;
use super::source::Bytes;
pub(super) use super::take::{Take, TensorName};
use crate::backend::{ParamSource, unpack_rows};

/// Tensors of one part of a model, from one file or several.
#[derive(Clone, Debug, Default)]
pub(super) struct TensorMap {
    files: Vec<(String, Bytes)>,
    entries: HashMap<String, TensorEntry>,
    /// names in the files of tensors that have another name here, for messages
    stored_names: HashMap<String, String>,
    /// `__metadata__` of the files
    metadata: HashMap<String, String>,
}

/// A tensor of a GGUF file, or of one of ncnn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorInfo {
    pub name: String,
    pub dtype: GgmlDType,
    /// rows first, as in PyTorch
    pub shape: Vec<usize>,
    /// bytes of the file
    pub range: Range<usize>,
}

/// Type in which a tensor's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TensorFormat {
    /// a format that a weight can be kept in
    Weights(GgmlDType),
    /// another type of safetensors, of which F64 and F8_E4M3 are read
    Other(Dtype),
}

/// Place of one tensor.
#[derive(Clone, Debug)]
struct TensorEntry {
    file: usize,
    stored: TensorFormat,
    shape: Vec<usize>,
    /// bytes of the file
    range: Range<usize>,
    /// the file's format drops dimensions of 1
    squeezed: bool,
    /// order of its rows in the file
    order: RowOrder,
}

/// Order of a tensor's rows in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowOrder {
    AsStored,
    /// rows and columns exchanged: `shape` is that of the tensor, not of the stored one
    Transposed,
    /// the second half first
    SwappedHalves,
}

impl TensorEntry {
    /// `true` if the tensor has this shape. Axes of length 1 at the end do not count: a 1×1 convolution
    /// may be stored as the dense layer that it is, and the other way round.
    fn is(&self, shape: &[usize]) -> bool {
        let longer = |dimension: &&usize| **dimension != 1;
        without_last_ones(&self.shape) == without_last_ones(shape)
            || self.squeezed && self.shape.iter().filter(longer).eq(shape.iter().filter(longer))
    }

    /// Part or other view of the same bytes. A tensor that cannot be taken so stays as it is, and its shape
    /// will not be the one asked for.
    fn take(&self, take: Take) -> Self {
        let mut taken = Self { shape: take.shape(&self.shape), ..self.clone() };
        let rows = self.shape.first().copied().unwrap_or(1);
        match take {
            Take::Rows { index, of } if rows.is_multiple_of(of) => {
                let bytes = self.range.len() / of;
                let start = self.range.start + index * bytes;
                taken.range = start..start + bytes;
            }
            Take::Transposed if self.shape.len() == 2 => taken.order = RowOrder::Transposed,
            Take::SwappedHalves if rows.is_multiple_of(2) => taken.order = RowOrder::SwappedHalves,
            Take::Whole | Take::Rows { .. } | Take::Transposed | Take::SwappedHalves => {}
        }
        taken
    }
}

impl TensorMap {
    /// Adds a safetensors file; `name` is its full name, for messages.
    ///
    /// # Errors
    /// A pickle or what stands in the place of a file, a damaged header, or a tensor that another of the files has.
    pub(super) fn add_safetensors(
        &mut self,
        name: String,
        bytes: Bytes,
    ) -> std::result::Result<(), WeightsError> {
        FileKind::of(&bytes, bytes.len() as u64).check(&name)?;
        let header = SafetensorsHeader::read(&bytes)
            .map_err(|reason| WeightsError::Safetensors { file: name.clone(), reason })?;
        let is_scale = |tensor: &String| {
            ["scaled_fp8", ".scale_weight", ".weight_scale"].iter().any(|end| tensor.ends_with(end))
        };
        if header.tensors.iter().any(|(tensor, _)| is_scale(tensor)) {
            let reason = "its fp8 weights have scales of their own (scaled_fp8), which are not \
                          supported: take a file without, in fp16 or as GGUF"
                .to_owned();
            return Err(WeightsError::Contents { file: name, reason });
        }
        for (tensor, info) in header.tensors {
            if let Some(other) = self.entries.get(&tensor) {
                let reason = format!("tensor `{tensor}` is also in {}", self.files[other.file].0);
                return Err(WeightsError::Safetensors { file: name, reason });
            }
            let entry = TensorEntry {
                file: self.files.len(),
                stored: match info.dtype {
                    Dtype::F16 => TensorFormat::Weights(GgmlDType::F16),
                    Dtype::BF16 => TensorFormat::Weights(GgmlDType::BF16),
                    Dtype::F32 => TensorFormat::Weights(GgmlDType::F32),
                    other => TensorFormat::Other(other),
                },
                shape: info.shape,
                range: info.range,
                squeezed: false,
                order: RowOrder::AsStored,
            };
            self.entries.insert(tensor, entry);
        }
        self.metadata.extend(header.metadata);
        self.files.push((name, bytes));
        Ok(())
    }

    /// Adds tensors of a GGUF file by the names that they are to have; `name` is the file's full name, for
    /// messages.
    pub(super) fn add_gguf<'a>(
        &mut self,
        name: String,
        bytes: Bytes,
        tensors: impl Iterator<Item = (String, &'a TensorInfo)>,
    ) {
        for (tensor, info) in tensors {
            let entry = TensorEntry {
                file: self.files.len(),
                stored: TensorFormat::Weights(info.dtype),
                shape: info.shape.clone(),
                range: info.range.clone(),
                squeezed: true,
                order: RowOrder::AsStored,
            };
            self.entries.insert(tensor, entry);
        }
        self.files.push((name, bytes));
    }

    /// Adds tensors of a file of numbers of ncnn; `name` is its full name, for messages.
    pub(super) fn add_ncnn<'a>(
        &mut self,
        name: String,
        bytes: Bytes,
        tensors: impl Iterator<Item = (String, &'a TensorInfo)>,
    ) {
        self.add_gguf(name, bytes, tensors);
    }

    /// Adds the identity of this size, in f16, in the place of a matrix that a file leaves out for it.
    pub(super) fn add_identity(&mut self, name: &str, size: usize) {
        let row = |row: usize| {
            (0..size).flat_map(move |column| {
                let value = if row == column { f16::ONE } else { f16::ZERO };
                value.to_le_bytes()
            })
        };
        let bytes: Vec<u8> = (0..size).flat_map(row).collect();
        let entry = TensorEntry {
            file: self.files.len(),
            stored: TensorFormat::Weights(GgmlDType::F16),
            shape: vec![size; 2],
            range: 0..bytes.len(),
            squeezed: false,
            order: RowOrder::AsStored,
        };
        self.entries.insert(name.to_owned(), entry);
        self.files.push((format!("the identity for `{name}`"), Bytes::Heap(bytes.into())));
    }

    /// Names of all tensors, in no order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Shape of a tensor, if it is there.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Number of weights in all tensors.
    pub(super) fn count(&self) -> usize {
        let weights = self
            .entries
            .values()
            .filter(|entry| !matches!(entry.stored, TensorFormat::Other(kind) if !is_read(kind)));
        weights.map(|entry| entry.shape.iter().product::<usize>()).sum()
    }

    /// Entry of the files' `__metadata__`.
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Value of a tensor that is one number, of whatever type.
    pub(super) fn number(&self, name: &str) -> Option<f64> {
        let entry = self.entries.get(name)?;
        let bytes = self.bytes(entry);
        Some(match entry.stored {
            TensorFormat::Weights(GgmlDType::F16) => {
                f16::from_le_bytes(bytes.try_into().ok()?).to_f64()
            }
            TensorFormat::Weights(GgmlDType::BF16) => {
                bf16::from_le_bytes(bytes.try_into().ok()?).to_f64()
            }
            TensorFormat::Weights(GgmlDType::F32) => {
                f32::from_le_bytes(bytes.try_into().ok()?).into()
            }
            TensorFormat::Other(Dtype::F64) => f64::from_le_bytes(bytes.try_into().ok()?),
            TensorFormat::Other(Dtype::I32) => i32::from_le_bytes(bytes.try_into().ok()?).into(),
            TensorFormat::Other(Dtype::I64) => i64::from_le_bytes(bytes.try_into().ok()?) as f64,
            TensorFormat::Weights(_) | TensorFormat::Other(_) => return None,
        })
    }

    /// Format in which a tensor is stored, or the one that holds its numbers best; `None` where it is no
    /// weight.
    pub(super) fn format(&self, name: &str) -> Option<GgmlDType> {
        match self.entries.get(name)?.stored {
            TensorFormat::Weights(format) => Some(format),
            TensorFormat::Other(Dtype::F64) => Some(GgmlDType::F32),
            // f16 holds each of its numbers.
            TensorFormat::Other(Dtype::F8_E4M3) => Some(GgmlDType::F16),
            TensorFormat::Other(_) => None,
        }
    }

    /// Place of a tensor's numbers in its [`format`](Self::format), row after row; `None` where they are laid
    /// out otherwise.
    pub(super) fn place(&self, name: &str) -> Option<(&Bytes, Range<usize>)> {
        let entry = self.entries.get(name)?;
        let in_order = entry.order == RowOrder::AsStored;
        (matches!(entry.stored, TensorFormat::Weights(_)) && in_order)
            .then(|| (&self.files[entry.file].1, entry.range.clone()))
    }

    /// A tensor's numbers in its [`format`](Self::format), row after row, where they lie in two halves that are the
    /// other way round in the file.
    pub(super) fn swapped(&self, name: &str) -> Option<Vec<u8>> {
        let entry = self.entries.get(name)?;
        let is_weight = matches!(entry.stored, TensorFormat::Weights(_));
        (is_weight && entry.order == RowOrder::SwappedHalves).then(|| swapped(self.bytes(entry)))
    }

    /// Full name of a tensor's file, or of all of them, for messages.
    pub(super) fn file_of(&self, name: &str) -> String {
        match self.entries.get(name) {
            Some(entry) => self.files[entry.file].0.clone(),
            None => self.file_names(),
        }
    }

    /// First tensor, in the order of their names, with a value that is not finite, and its file. Reads all
    /// tensors.
    pub(super) fn find_non_finite(&self) -> Option<String> {
        let mut names: Vec<_> = self.names().filter(|name| self.format(name).is_some()).collect();
        names.sort_unstable();
        let has_such = |name: &str| -> Result<bool> {
            let shape = self.shape(name).unwrap_or_default().into();
            let values = self.get(name, &shape, DType::F32, &Device::Cpu)?.flatten_all()?;
            Ok(!values.to_vec1::<f32>()?.iter().all(|value| value.is_finite()))
        };
        let name = names.into_iter().find(|name| has_such(name).unwrap_or(false))?;
        Some(format!("{}: tensor `{}`", self.file_of(name), self.stored_name(name)))
    }

    /// Gives the pages of a tensor back to the system, which reads them again when they are needed.
    pub(super) fn release(&self, name: &str) {
        /// A smaller range shares all its pages.
        const PAGE: usize = 4096;
        if let Some(entry) = self.entries.get(name).filter(|entry| entry.range.len() >= PAGE) {
            self.files[entry.file].1.release(entry.range.clone());
        }
    }

    /// Bytes of a tensor in its file, and whether that file is a part of this program, whose pages stay in
    /// memory once they have been read.
    pub(super) fn stored_bytes(&self, name: &str) -> Option<(usize, bool)> {
        let entry = self.entries.get(name)?;
        let embedded = matches!(self.files[entry.file].1, Bytes::Static(_));
        Some((entry.range.len(), embedded))
    }

    /// Checks that there is a tensor of this name and shape, of a type that is read.
    ///
    /// # Errors
    /// A tensor that is missing, or of another shape or type.
    pub(super) fn check(&self, name: &str, shape: &Shape) -> Result<()> {
        self.entry(name, shape).map(|_| ())
    }

    fn entry(&self, name: &str, shape: &Shape) -> Result<&TensorEntry> {
        let file = || self.file_of(name);
        let Some(entry) = self.entries.get(name) else {
            let stored = self.stored_name(name);
            return Err(Error::Msg(format!("{}: tensor `{stored}` is missing", file())));
        };
        if !entry.is(shape.dims()) {
            return Err(Error::Msg(format!(
                "{}: tensor `{}` is {:?}, its configuration says {:?}",
                file(),
                self.stored_name(name),
                entry.shape,
                shape.dims()
            )));
        }
        if let TensorFormat::Other(other) = entry.stored
            && !is_read(other)
        {
            return Err(Error::Msg(format!(
                "{}: tensor `{}` is stored as {other:?}, not in F16, BF16, F32, F64 or F8_E4M3",
                file(),
                self.stored_name(name)
            )));
        }
        Ok(entry)
    }

    /// Bytes of a tensor in its file.
    fn bytes(&self, entry: &TensorEntry) -> &[u8] {
        &self.files[entry.file].1[entry.range.clone()]
    }

    /// Same files with other names for tensors: each item is the new name, the stored one, and how the one is
    /// taken from the other. Only these tensors are in the new map.
    pub(super) fn renamed(&self, names: impl IntoIterator<Item = TensorName>) -> Self {
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

    /// Map of tensors without contents, for their shapes alone.
    #[cfg(test)]
    pub(super) fn of_shapes(shapes: Vec<(String, Vec<usize>)>) -> Self {
        let entry = |shape| TensorEntry {
            file: 0,
            stored: TensorFormat::Weights(GgmlDType::F16),
            shape,
            range: 0..0,
            squeezed: false,
            order: RowOrder::AsStored,
        };
        let entries = shapes.into_iter().map(|(name, shape)| (name, entry(shape))).collect();
        Self { entries, ..Self::default() }
    }

    /// Name of a tensor in its file.
    fn stored_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.stored_names.get(name).map_or(name, String::as_str)
    }

    /// Names of the files, for messages.
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
        let entry = self.entry(name, shape)?;
        let (mut bytes, mut dims) = (Cow::Borrowed(self.bytes(entry)), shape.dims().to_vec());
        match entry.order {
            RowOrder::AsStored => {}
            RowOrder::Transposed => dims = entry.shape.iter().rev().copied().collect(),
            RowOrder::SwappedHalves => bytes = swapped(&bytes).into(),
        }
        let bytes = &*bytes;
        let plain = |stored| Tensor::from_raw_buffer(bytes, stored, &dims, device);
        let tensor = match entry.stored {
            TensorFormat::Weights(GgmlDType::F16) => plain(DType::F16)?,
            TensorFormat::Weights(GgmlDType::BF16) => plain(DType::BF16)?,
            TensorFormat::Weights(GgmlDType::F32) => plain(DType::F32)?,
            TensorFormat::Weights(quantized) => {
                Tensor::from_vec(unpack_rows(quantized, bytes), dims.as_slice(), device)?
            }
            TensorFormat::Other(Dtype::F8_E4M3) => {
                let values: Vec<f16> = bytes.iter().map(|&byte| of_e4m3(byte)).collect();
                Tensor::from_vec(values, dims.as_slice(), device)?
            }
            // No other type comes this far.
            TensorFormat::Other(_) => plain(DType::F64)?,
        };
        self.release(name);
        let tensor = match entry.order {
            RowOrder::Transposed => tensor.t()?.contiguous()?,
            RowOrder::AsStored | RowOrder::SwappedHalves => tensor,
        };
        tensor.to_dtype(dtype)
    }

    fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }
}

/// `true` for types of safetensors that are read, beside those in which weights are kept.
fn is_read(kind: Dtype) -> bool {
    matches!(kind, Dtype::F64 | Dtype::F8_E4M3)
}

/// A number of F8_E4M3 (`torch.float8_e4m3fn`): sign, four bits of the exponent, three of the mantissa, no infinity.
fn of_e4m3(byte: u8) -> f16 {
    let (sign, rest) = (u16::from(byte & 0x80) << 8, u16::from(byte & 0x7f));
    if rest == 0x7f {
        return f16::NAN;
    }
    // As the bits of an f16 it is 2⁻⁸ of its value, which is exact below f16's normal numbers, too.
    let magnitude = f16::from_bits(rest << 7).to_f32() * 256.0;
    f16::from_bits(sign | f16::from_f32(magnitude).to_bits())
}

/// The second half of these bytes before the first.
fn swapped(bytes: &[u8]) -> Vec<u8> {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    [second, first].concat()
}

fn without_last_ones(shape: &[usize]) -> &[usize] {
    let length = shape.iter().rposition(|&size| size != 1).map_or(0, |last| last + 1);
    &shape[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_eight_bits_is_what_its_fields_say() {
        for byte in 0..=u8::MAX {
            let (exponent, mantissa) = (i32::from(byte >> 3 & 0xf), f32::from(byte & 7) / 8.0);
            let magnitude = match exponent {
                0 => mantissa * 2f32.powi(-6),
                _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
            };
            let value = of_e4m3(byte).to_f32();
            if byte & 0x7f == 0x7f {
                assert!(value.is_nan());
            } else {
                let expected = if byte < 0x80 { magnitude } else { -magnitude };
                assert_eq!(value.to_bits(), expected.to_bits(), "{byte:#x}");
            }
        }
    }
}
