//! The weight of a dense layer, a convolution or a table, as it is kept: laid out for the CPU's kernels, as
//! a tensor in the working precision, or as it is stored (16-bit or quantized), on the CPU without a
//! copy of the mapped file. A model does not see the difference; a 2.6-billion-parameter UNet takes
//! 2.6 to 5 GB instead of 10.

mod storage;

use std::{borrow::Cow, ops::Range, sync::Arc};

use candle_core::{
    DType, Device, Result, Shape, Tensor,
    quantized::{GgmlDType, QMatMul, QStorage, QTensor},
};

use super::{
    Activation, Bytes, MatmulPrecision, Trace, Working,
    cpu::{Narrow, Panels, Right},
    rows::{StoredRows, check, is_aligned, pack_rows},
};
pub use storage::{Stored, WeightStorage, WeightUse};

/// A weight in its [`WeightStorage`], or, for memory traces, without its values.
#[derive(Clone, Debug)]
pub struct Weight {
    storage: WeightStorage,
    output: usize,
    input: usize,
    values: Values,
}

/// The values of a weight.
#[derive(Clone, Debug)]
pub(super) enum Values {
    Dense(Tensor),
    Panels(Panels),
    Narrow(Narrow),
    Rows(StoredRows),
    OnDevice(Arc<QMatMul>),
    /// values of a model that is only traced
    None,
}

impl Weight {
    /// Lays out a weight in checkpoint layout, read in the type that `storage` asks for.
    ///
    /// # Errors
    /// A shape that the use does not have, a storage whose values are no tensor, a precision that this
    /// processor cannot multiply in, rows that are no whole number of blocks, or values that are not
    /// finite.
    pub fn new(weight: &Tensor, weight_use: WeightUse, storage: WeightStorage) -> Result<Self> {
        let (output, input) = weight_use.dims(weight.shape())?;
        let values = match storage {
            WeightStorage::Dense(_) => Values::Dense(match weight_use {
                WeightUse::Matrix => weight.reshape((output, input))?.t()?.contiguous()?,
                WeightUse::Kernel => {
                    weight.permute((2, 3, 1, 0))?.contiguous()?.reshape((input, output))?
                }
                WeightUse::Table => weight.reshape((output, input))?.contiguous()?,
            }),
            WeightStorage::Panels { precision, .. } => {
                Values::Panels(Panels::new(weight, precision)?)
            }
            WeightStorage::Narrow { .. } => Values::Narrow(Narrow::new(weight)?),
            WeightStorage::InMemory(format, _) => {
                let values = weight.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                let bytes = Bytes::Heap(pack_rows(&values, format, input)?.into());
                let range = 0..bytes.len();
                Values::Rows(StoredRows::new(bytes, range, format, output, input)?)
            }
            WeightStorage::InFile(..) | WeightStorage::OnDevice(_) => {
                candle_core::bail!("a weight that is kept as stored is not made from a tensor")
            }
        };
        Ok(Self { storage, output, input, values })
    }

    /// A weight in memory, `[out, in]`, `[out, in, 1, 1]` or `[out, in, k, k]`, for a model that computes
    /// in its type where it is.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_tensor(
        weight: &Tensor,
        weight_use: WeightUse,
        precision: MatmulPrecision,
    ) -> Result<Self> {
        let (dtype, device) = (weight.dtype(), weight.device().clone());
        let working = Working { dtype, device, precision };
        let storage = WeightStorage::choose(weight_use, weight.shape(), None, &working)?;
        Self::new(weight, weight_use, storage)
    }

    /// Rounds `rows`, `[out, in]` or `[out, in, 1, 1]`, to a format in which host memory keeps them.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn pack(rows: &Tensor, format: GgmlDType, precision: MatmulPrecision) -> Result<Self> {
        Self::new(rows, WeightUse::Matrix, WeightStorage::InMemory(format, precision))
    }

    /// Rows as they are stored: `output` of `input` numbers in `range` of `bytes`, in host memory. Copied
    /// only if they lie at an odd address.
    ///
    /// # Errors
    /// A storage that is not of rows in host memory, a format that holds no weights, or rows that are no
    /// whole number of blocks or are not of the range's length.
    pub fn stored(
        bytes: Bytes,
        range: Range<usize>,
        storage: WeightStorage,
        (output, input): (usize, usize),
    ) -> Result<Self> {
        let (WeightStorage::InFile(format, _) | WeightStorage::InMemory(format, _)) = storage
        else {
            candle_core::bail!("{storage:?} is not of rows in host memory");
        };
        let rows = StoredRows::new(bytes, range, format, output, input)?;
        Ok(Self { storage, output, input, values: Values::Rows(rows) })
    }

    /// A quantized weight on a GPU, for candle's kernels.
    ///
    /// # Errors
    /// Bytes that are not as many rows in this format, or those of the backend.
    pub fn on_device(
        bytes: &[u8],
        format: GgmlDType,
        (output, input): (usize, usize),
        device: &Device,
    ) -> Result<Self> {
        check(bytes.len(), format, output, input)?;
        let storage = if is_aligned(bytes) {
            QStorage::from_data(Cow::Borrowed(bytes), device, format)?
        } else {
            QStorage::from_data(Cow::Owned(bytes.to_vec()), device, format)?
        };
        let weight = QMatMul::from_qtensor(QTensor::new(storage, (output, input))?)?;
        let storage = WeightStorage::OnDevice(format);
        Ok(Self { storage, output, input, values: Values::OnDevice(weight.into()) })
    }

    /// A weight without values, for a model that is only traced.
    ///
    /// # Errors
    /// A shape that the use does not have.
    pub fn valueless(shape: &Shape, weight_use: WeightUse, storage: WeightStorage) -> Result<Self> {
        let (output, input) = weight_use.dims(shape)?;
        Ok(Self { storage, output, input, values: Values::None })
    }

    /// Outputs and inputs; of a table, its rows and their width.
    #[must_use]
    pub fn dims(&self) -> (usize, usize) {
        (self.output, self.input)
    }

    /// Its storage: place and layout.
    #[must_use]
    pub fn storage(&self) -> WeightStorage {
        self.storage
    }

    /// Bytes that are kept, in memory or mapped.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.storage.bytes(self.output, self.input)
    }

    pub(super) fn values(&self) -> &Values {
        &self.values
    }

    /// The right side of a product of the CPU's.
    ///
    /// # Errors
    /// A weight that is not kept for one, that has not been loaded, or that is to be multiplied in a
    /// precision that this processor has no instructions for.
    pub(super) fn right(&self) -> Result<Right<'_>> {
        match (&self.values, self.storage) {
            (Values::Panels(panels), _) => Ok(Right::Panels(panels)),
            (
                Values::Rows(rows),
                WeightStorage::InFile(_, precision) | WeightStorage::InMemory(_, precision),
            ) => Right::stored(rows, precision),
            _ => candle_core::bail!("a weight that has not been loaded for the CPU's products"),
        }
    }

    /// Right operand of candle's matmul, `[in, out]`; within a trace its shape alone, since its bytes are
    /// counted when it is loaded.
    ///
    /// # Errors
    /// A weight that is kept otherwise, or that has not been loaded.
    pub(super) fn dense(&self, trace: Option<&Trace>) -> Result<Activation> {
        match (&self.values, self.storage, trace) {
            (Values::Dense(weight), ..) => Ok(weight.into()),
            (_, WeightStorage::Dense(dtype), Some(trace)) => {
                Ok(trace.held_elsewhere((self.input, self.output), dtype))
            }
            _ => candle_core::bail!("a weight that has not been loaded for candle's products"),
        }
    }
}
