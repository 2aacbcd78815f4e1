//! How the weight of a dense layer is kept: as a tensor in the working precision, or as it is
//! stored (16-bit or quantized), on the CPU without a copy of the mapped file. A model does not
//! see the difference; a 2.6-billion-parameter UNet takes 2.6 to 5 GB instead of 10.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{
    DType, Device, Result, Tensor,
    quantized::{GgmlDType, QMatMul, QStorage, QTensor},
};

use crate::backend::{Bytes, blocks};

/// The weight of a dense layer.
#[derive(Clone, Debug)]
pub struct Weight(Kept);

#[derive(Clone, Debug)]
pub(super) enum Kept {
    /// `[in, out]` in the working precision
    Dense(Tensor),
    /// rows as stored, in host memory
    Packed(Packed),
    /// quantized, in a GPU's memory
    OnDevice { weight: Arc<QMatMul>, output: usize, input: usize, bytes: usize },
}

impl Weight {
    /// A weight in the working precision, from checkpoint layout: `[out, in]`, or `[out, in, 1, 1]`
    /// of a 1×1 convolution.
    ///
    /// # Errors
    /// Another shape.
    pub fn dense(rows: &Tensor) -> Result<Self> {
        let (output, input) = matrix_dims(rows.dims())?;
        Ok(Self::laid_out(rows.reshape((output, input))?.t()?.contiguous()?))
    }

    /// A weight in the working precision that is laid out `[in, out]` already.
    #[must_use]
    pub fn laid_out(weight: Tensor) -> Self {
        Self(Kept::Dense(weight))
    }

    /// A weight in host memory as it is stored: `out` rows of `in` numbers in the format `dtype`,
    /// in `range` of `bytes`. Copied only if they lie at an odd address.
    ///
    /// # Errors
    /// A format that holds no weights, or rows that are no whole number of blocks or are not of
    /// the range's length.
    pub fn packed(
        bytes: Bytes,
        range: Range<usize>,
        dtype: GgmlDType,
        (output, input): (usize, usize),
    ) -> Result<Self> {
        Ok(Self(Kept::Packed(Packed::new(bytes, range, dtype, output, input)?)))
    }

    /// Rounds `rows`, `[out, in]` or `[out, in, 1, 1]`, to the format `dtype`, to be kept in host
    /// memory.
    ///
    /// # Errors
    /// Another shape, a format that holds no weights, rows that are no whole number of blocks, or
    /// values that are not finite.
    pub fn pack(rows: &Tensor, dtype: GgmlDType) -> Result<Self> {
        let (output, input) = matrix_dims(rows.dims())?;
        let values = rows.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes = Bytes::Heap(pack_rows(&values, dtype, input)?.into());
        let range = 0..bytes.len();
        Self::packed(bytes, range, dtype, (output, input))
    }

    /// A quantized weight on a GPU, by candle's kernels.
    ///
    /// # Errors
    /// As [`packed`](Self::packed), or those of the backend.
    pub fn on_device(
        bytes: &[u8],
        dtype: GgmlDType,
        (output, input): (usize, usize),
        device: &Device,
    ) -> Result<Self> {
        check(bytes.len(), dtype, output, input)?;
        let storage = if is_aligned(bytes) {
            QStorage::from_data(Cow::Borrowed(bytes), device, dtype)?
        } else {
            QStorage::from_data(Cow::Owned(bytes.to_vec()), device, dtype)?
        };
        let weight = QMatMul::from_qtensor(QTensor::new(storage, (output, input))?)?;
        Ok(Self(Kept::OnDevice { weight: weight.into(), output, input, bytes: bytes.len() }))
    }

    /// Outputs and inputs of the layer.
    ///
    /// # Errors
    /// None; a tensor's dimensions are read by a fallible function.
    pub fn dims(&self) -> Result<(usize, usize)> {
        match &self.0 {
            Kept::Dense(weight) => weight.dims2().map(|(input, output)| (output, input)),
            Kept::Packed(packed) => Ok((packed.output, packed.input)),
            Kept::OnDevice { output, input, .. } => Ok((*output, *input)),
        }
    }

    /// How many bytes are kept, in memory or mapped.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Kept::Dense(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Kept::Packed(packed) => packed.range.len(),
            Kept::OnDevice { bytes, .. } => *bytes,
        }
    }

    /// The format of the rows; `None` for a weight in the working precision.
    #[must_use]
    pub fn kept_as(&self) -> Option<GgmlDType> {
        match &self.0 {
            Kept::Dense(_) => None,
            Kept::Packed(packed) => Some(packed.dtype),
            Kept::OnDevice { weight, .. } => match &**weight {
                QMatMul::QTensor(weight) => Some(weight.dtype()),
                QMatMul::Tensor(_) | QMatMul::TensorF16(_) => None,
            },
        }
    }

    /// Rows of a weight in host memory, in f32, `[N, in]`.
    ///
    /// # Errors
    /// A weight that is kept otherwise, or a row that it does not have.
    pub(super) fn unpack_rows(&self, rows: &[u32]) -> Result<Tensor> {
        let Kept::Packed(packed) = &self.0 else {
            candle_core::bail!("rows of a weight that is not kept as stored");
        };
        let mut values = vec![0f32; rows.len() * packed.input];
        for (values, &row) in values.chunks_exact_mut(packed.input).zip(rows) {
            if row as usize >= packed.output {
                candle_core::bail!("row {row} of a weight with {}", packed.output);
            }
            packed.unpack_row(row as usize, values);
        }
        Tensor::from_vec(values, (rows.len(), packed.input), &Device::Cpu)
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.0
    }
}

/// Rows of numbers in host memory, in a format of [`blocks`].
#[derive(Clone, Debug)]
pub(super) struct Packed {
    bytes: Bytes,
    range: Range<usize>,
    dtype: GgmlDType,
    pub output: usize,
    pub input: usize,
}

impl Packed {
    fn new(
        bytes: Bytes,
        range: Range<usize>,
        dtype: GgmlDType,
        output: usize,
        input: usize,
    ) -> Result<Self> {
        let Some(stored) = bytes.get(range.clone()) else {
            candle_core::bail!("a weight beyond its file: {range:?} of {} bytes", bytes.len());
        };
        check(stored.len(), dtype, output, input)?;
        if is_aligned(stored) {
            return Ok(Self { bytes, range, dtype, output, input });
        }
        let copy: Arc<[u8]> = stored.into();
        bytes.release(range.clone());
        Ok(Self { range: 0..copy.len(), bytes: Bytes::Heap(copy), dtype, output, input })
    }

    /// Row `index` (all weights of one output) as f32.
    pub(super) fn unpack_row(&self, index: usize, values: &mut [f32]) {
        let length = self.range.len() / self.output;
        let start = self.range.start + index * length;
        blocks::unpack(self.dtype, &self.bytes[start..start + length], values);
    }
}

fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(blocks::ALIGNMENT)
}

fn check(length: usize, dtype: GgmlDType, output: usize, input: usize) -> Result<()> {
    let row = blocks::stored_bytes(dtype, input).filter(|_| blocks::holds_weights(dtype));
    let Some(row) = row else {
        candle_core::bail!("rows of {input} weights cannot be kept as {dtype:?}");
    };
    if output == 0 || input == 0 || row.checked_mul(output) != Some(length) {
        candle_core::bail!("{length} bytes are not {output} rows of {input} {dtype:?} weights");
    }
    Ok(())
}

/// `values` in the format `dtype`, row by row.
///
/// # Errors
/// A format that holds no weights, rows that are no whole number of blocks, or values that are not
/// finite (which the formats' scales would spread over their neighbours).
pub fn pack_rows(values: &[f32], dtype: GgmlDType, input: usize) -> Result<Vec<u8>> {
    if !blocks::holds_weights(dtype) || input == 0 || !input.is_multiple_of(dtype.block_size()) {
        candle_core::bail!("rows of {input} weights cannot be kept as {dtype:?}");
    }
    if blocks::is_quantized(dtype) && !values.iter().all(|value| value.is_finite()) {
        candle_core::bail!("weights that are not finite cannot be quantized");
    }
    Ok(blocks::pack(dtype, values))
}

/// Outputs and inputs of a dense layer's weight in checkpoint layout.
fn matrix_dims(dims: &[usize]) -> Result<(usize, usize)> {
    match *dims {
        [output, input] | [output, input, 1, 1] => Ok((output, input)),
        _ => candle_core::bail!("{dims:?} is no weight of a dense layer"),
    }
}
