//! How the weights of a part are kept once they are read: in the working precision, or as they are
//! stored, or rounded to a smaller format. Weights that are kept as stored stay in the mapped file;
//! whatever is changed on the way, by a LoRA or by rounding, is kept in memory in the same format.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Shape, Tensor, quantized::GgmlDType};

use super::lora::Adapted;
use super::quantize::Rules;
use super::tensors::TensorMap;
use crate::backend::ops::{Weight, pack_rows};
use crate::backend::{Bytes, ParamSource, Working, is_quantized, unpack_rows};

/// How weights are to be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeping {
    /// Where the CPU computes in f32: in their format, not in f32.
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
        let shape = self.stored.shape(name).unwrap_or_default();
        let format = self.format(name).unwrap_or(GgmlDType::F32);
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

    /// Whether a weight's numbers are those in the file, in the format that they have there.
    fn is_as_stored(&self, name: &str) -> bool {
        let is_changed = self.adapted.as_ref().is_some_and(|adapted| adapted.changes(name));
        !is_changed
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

    /// Whether weights stay in their format for products in this precision on this device.
    fn keeps(&self, dtype: DType, device: &Device) -> bool {
        self.keeping.as_stored && dtype == DType::F32 && device.is_cpu()
    }

    /// How the weight of a dense layer is kept.
    pub(super) fn matrix_form(
        &self,
        name: &str,
        shape: &Shape,
        dtype: DType,
        device: &Device,
    ) -> MatrixForm {
        let keeps = self.keeps(dtype, device);
        let format = match self.format(name) {
            Some(format) if keeps && format != GgmlDType::F32 => format,
            Some(format) if is_quantized(format) && !device.is_cpu() => format,
            _ => return MatrixForm::Dense,
        };
        let output = shape.dims().first().copied().unwrap_or(1);
        let dims = (output, shape.elem_count() / output.max(1));
        if !dims.1.is_multiple_of(format.block_size()) {
            // Blocks across the ends of rows: no such row can be taken by itself.
            return if keeps { MatrixForm::F16 } else { MatrixForm::Dense };
        }
        if !keeps {
            MatrixForm::OnDevice(format, dims)
        } else if self.is_as_stored(name) {
            MatrixForm::InFile(format, dims)
        } else {
            MatrixForm::InMemory(format, dims)
        }
    }

    /// The precision in which a convolution's weight is kept.
    pub(super) fn kernel_dtype(&self, name: &str, dtype: DType, device: &Device) -> DType {
        match self.format(name) {
            Some(GgmlDType::F32) | None => dtype,
            _ if !self.keeps(dtype, device) => dtype,
            Some(GgmlDType::BF16) => DType::BF16,
            Some(_) => DType::F16,
        }
    }

    /// The tensors as they are in the files.
    pub(super) fn stored(&self) -> &TensorMap {
        &self.stored
    }
}

/// How the weight of a dense layer is kept: in which format, and its outputs and inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum MatrixForm {
    /// in the working precision
    Dense,
    /// in memory, rounded to f16 because its own format does not fit its rows
    F16,
    /// in the mapped file
    InFile(GgmlDType, (usize, usize)),
    /// in memory, after its changes
    InMemory(GgmlDType, (usize, usize)),
    /// in a GPU's memory
    OnDevice(GgmlDType, (usize, usize)),
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

    fn matrix(&self, name: &str, shape: &Shape, working: &Working) -> Result<Weight> {
        let &Working { dtype, ref device, products } = working;
        self.stored.check(name, shape)?;
        let weight = match self.matrix_form(name, shape, dtype, device) {
            MatrixForm::Dense => Weight::dense(&self.get(name, shape, dtype, device)?, products),
            MatrixForm::F16 => Weight::pack(&self.get(name, shape, dtype, device)?, GgmlDType::F16),
            MatrixForm::InFile(format, dims) => {
                let (bytes, range) = self.stored.place(name).expect("a form of what has a place");
                Weight::packed(bytes.clone(), range, format, dims)
            }
            MatrixForm::InMemory(format, dims) => {
                let bytes = Bytes::Heap(self.bytes(name)?.into());
                let range = 0..bytes.len();
                Weight::packed(bytes, range, format, dims)
            }
            MatrixForm::OnDevice(format, dims) => {
                let weight = Weight::on_device(&self.bytes(name)?, format, dims, device);
                self.release(name);
                weight
            }
        }?;
        Ok(weight.with_products(products))
    }

    fn kernel(&self, name: &str, shape: &Shape, working: &Working) -> Result<Weight> {
        let &Working { dtype, ref device, products } = working;
        let kept = self.kernel_dtype(name, dtype, device);
        Weight::kernel(&self.get(name, shape, kept, device)?, dtype, products)
    }
}
