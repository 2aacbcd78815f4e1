//! Weight storage of a part once it is read: in the working precision, as stored, or rounded to a
//! smaller format. Weights that are kept as stored stay in the mapped file; those that a LoRA or
//! rounding changes are kept in memory in the same format.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Shape, Tensor, quantized::GgmlDType};

use super::lora::Adapted;
use super::quantize::Rules;
use super::tensors::TensorMap;
use crate::backend::{
    Bytes, ParamSource, Stored, Weight, WeightStorage, WeightUse, Working, pack_rows, unpack_rows,
};

/// Options of weight storage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeping {
    /// Keep weights in their stored format, not in f32, where the CPU computes in f32.
    pub as_stored: bool,
    /// Round weights to the formats that these say, instead of leaving them in the stored ones.
    pub rules: Option<Rules>,
}

/// The weights of one part.
pub(super) struct KeptWeights {
    stored: Arc<TensorMap>,
    /// the same with the changes of LoRAs, if there are any
    adapted: Option<Adapted>,
    keeping: Keeping,
}

impl KeptWeights {
    pub(super) fn new(stored: Arc<TensorMap>, adapted: Option<Adapted>, keeping: Keeping) -> Self {
        Self { stored, adapted, keeping }
    }

    /// Names and shapes of all weights, in the order of their names, and their formats.
    pub(super) fn weights(&self) -> Vec<(&str, &[usize], GgmlDType)> {
        let mut weights: Vec<_> = self
            .stored
            .names()
            .filter_map(|name| Some((name, self.stored.shape(name)?, self.format(name)?)))
            .collect();
        weights.sort_unstable_by_key(|(name, ..)| *name);
        weights
    }

    /// A weight's bytes in its format, row after row.
    ///
    /// # Errors
    /// A weight that cannot be read, or rounded.
    pub(super) fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        if self.is_as_stored(name)
            && let Some((bytes, range)) = self.stored.place(name)
        {
            return Ok(Cow::Borrowed(&bytes[range]));
        }
        let format = self.format(name).unwrap_or(GgmlDType::F32);
        if !self.is_changed(name)
            && self.stored.format(name) == Some(format)
            && let Some(bytes) = self.stored.swapped(name)
        {
            return Ok(Cow::Owned(bytes));
        }
        let shape = self.stored.shape(name).unwrap_or_default();
        self.rounded(name, &shape.into(), format).map(Cow::Owned)
    }

    /// Says that a weight will not be needed soon.
    pub(super) fn release(&self, name: &str) {
        self.stored.release(name);
    }

    /// The format of a weight; `None` of what is none.
    fn format(&self, name: &str) -> Option<GgmlDType> {
        let stored = self.stored.format(name)?;
        Some(match self.keeping.rules {
            Some(rules) => rules.format(name, self.stored.shape(name)?, stored),
            None => stored,
        })
    }

    /// `true` if a LoRA changes a weight.
    fn is_changed(&self, name: &str) -> bool {
        self.adapted.as_ref().is_some_and(|adapted| adapted.changes(name))
    }

    /// `true` if a weight's numbers are those in the file, in the format that they have there.
    fn is_as_stored(&self, name: &str) -> bool {
        !self.is_changed(name)
            && self.stored.place(name).is_some()
            && self.format(name) == self.stored.format(name)
    }

    /// The format that a weight is rounded to before it is brought to the working precision.
    pub(super) fn rounding(&self, name: &str) -> Option<GgmlDType> {
        // Without rules the only rounding is that to the precision asked for.
        let format = self.keeping.rules.and_then(|_| self.format(name))?;
        (format != GgmlDType::F32 && !self.is_as_stored(name)).then_some(format)
    }

    /// A weight with its changes, not rounded.
    fn values(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        match &self.adapted {
            Some(adapted) => adapted.get(name, shape, dtype, device),
            None => self.stored.get(name, shape, dtype, device),
        }
    }

    /// A weight's bytes after its changes, in this format.
    fn rounded(&self, name: &str, shape: &Shape, format: GgmlDType) -> Result<Vec<u8>> {
        let values = self.values(name, shape, DType::F32, &Device::Cpu)?;
        let values = values.flatten_all()?.to_vec1::<f32>()?;
        let row = self.stored.shape(name).and_then(|shape| shape.last().copied()).unwrap_or(1);
        pack_rows(&values, format, row).map_err(|error| {
            Error::Msg(format!("{}: tensor `{name}`: {error}", self.stored.file_of(name)))
        })
    }

    /// Storage of the weight of this name and shape once it is read.
    pub(super) fn storage(
        &self,
        name: &str,
        shape: &Shape,
        weight_use: WeightUse,
        working: &Working,
    ) -> Result<WeightStorage> {
        let stored = self.format(name).map(|format| Stored {
            format,
            in_file: self.is_as_stored(name),
            keep: self.keeping.as_stored,
        });
        WeightStorage::choose(weight_use, shape, stored, working)
    }

    /// `true` if rows that are to be kept in this format are the bytes of [`bytes`](Self::bytes); else they
    /// are made from the weight's numbers.
    pub(super) fn has_format(&self, name: &str, format: GgmlDType) -> bool {
        self.format(name) == Some(format)
    }

    /// The tensors as they are in the files.
    pub(super) fn stored(&self) -> &TensorMap {
        &self.stored
    }
}

impl ParamSource for KeptWeights {
    fn get(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        match self.rounding(name) {
            Some(format) => {
                self.stored.check(name, shape)?;
                let rounded = self.rounded(name, shape, format)?;
                let values = Tensor::from_vec(unpack_rows(format, &rounded), shape, device)?;
                values.to_dtype(dtype)
            }
            None => self.values(name, shape, dtype, device),
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.stored.contains(name)
    }

    fn weight(
        &self,
        name: &str,
        shape: &Shape,
        weight_use: WeightUse,
        working: &Working,
    ) -> Result<Weight> {
        self.stored.check(name, shape)?;
        let storage = self.storage(name, shape, weight_use, working)?;
        let dims = weight_use.dims(shape)?;
        match storage {
            WeightStorage::InFile(..) => {
                let Some((bytes, range)) = self.stored.place(name) else {
                    candle_core::bail!("tensor `{name}` has no place in its file");
                };
                Weight::stored(bytes.clone(), range, storage, dims)
            }
            WeightStorage::InMemory(format, _) if self.has_format(name, format) => {
                let bytes = Bytes::Heap(self.bytes(name)?.into());
                let range = 0..bytes.len();
                Weight::stored(bytes, range, storage, dims)
            }
            WeightStorage::OnDevice(format) => {
                let weight = Weight::on_device(&self.bytes(name)?, format, dims, &working.device);
                self.release(name);
                weight
            }
            _ => {
                let weight = self.get(name, shape, storage.numbers(), &working.device)?;
                Weight::new(&weight, weight_use, storage)
            }
        }
    }
}
