//! How the weight of a dense layer or a convolution is kept: laid out for the CPU's kernels, as a
//! tensor in the working precision, or as it is stored (16-bit or quantized), on the CPU without a
//! copy of the mapped file. A model does not see the difference; a 2.6-billion-parameter UNet takes
//! 2.6 to 5 GB instead of 10.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{
    DType, Device, Result, Tensor,
    quantized::{GgmlDType, QMatMul, QStorage, QTensor},
};

use super::{Products, cpu};
use crate::backend::{Bytes, blocks};

/// The weight of a dense layer, or of a convolution, whose inputs are those of all pixels under its
/// kernel, row by row, channels innermost.
#[derive(Clone, Debug)]
pub struct Weight(Kept);

#[derive(Clone, Debug)]
pub(super) enum Kept {
    /// `[in, out]` in the working precision
    Dense(Tensor),
    /// laid out for the CPU's kernels
    Panels(cpu::Panels),
    /// a convolution's, for its few outputs
    Narrow(cpu::Narrow),
    /// rows as stored, in host memory, and in what they are multiplied
    Packed(Packed, Products),
    /// quantized, in a GPU's memory
    OnDevice { weight: Arc<QMatMul>, output: usize, input: usize, bytes: usize },
}

impl Weight {
    /// A weight in the working precision, from checkpoint layout: `[out, in]`, or `[out, in, 1, 1]`
    /// of a 1×1 convolution. What the CPU's kernels can take is laid out for them and their
    /// `products`.
    ///
    /// # Errors
    /// Another shape, or products that this processor does not have.
    pub fn dense(rows: &Tensor, products: Products) -> Result<Self> {
        let (output, input) = matrix_dims(rows.dims())?;
        if cpu::takes(rows) {
            return Ok(Self(Kept::Panels(cpu::Panels::new(rows, products)?)));
        }
        Ok(Self::laid_out(rows.reshape((output, input))?.t()?.contiguous()?))
    }

    /// The weight of a convolution that computes in `dtype`, from checkpoint layout, `[out, in, k,
    /// k]`; on the CPU in f32 it may be in f16 or bf16, and is kept so where the `products` are f32.
    ///
    /// # Errors
    /// A kernel that is not square, or products that this processor does not have.
    pub fn kernel(weight: &Tensor, dtype: DType, products: Products) -> Result<Self> {
        let (output, input, kernel, width) = weight.dims4()?;
        if kernel != width {
            candle_core::bail!("conv2d: the kernel of {:?} is not square", weight.shape());
        }
        if weight.device().is_cpu() && dtype == DType::F32 {
            return Ok(Self(match cpu::Narrow::new(weight)? {
                Some(narrow) => Kept::Narrow(narrow),
                None => Kept::Panels(cpu::Panels::new(weight, products)?),
            }));
        }
        let laid_out = weight.permute((2, 3, 1, 0))?.contiguous()?;
        Ok(Self::laid_out(laid_out.reshape((kernel * kernel * input, output))?))
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
        let packed = Packed::new(bytes, range, dtype, output, input)?;
        Ok(Self(Kept::Packed(packed, Products::F32)))
    }

    /// The same, if it is kept as stored, for products in this precision.
    #[must_use]
    pub fn with_products(self, products: Products) -> Self {
        match self.0 {
            Kept::Packed(packed, _) => Self(Kept::Packed(packed, products)),
            kept => Self(kept),
        }
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
            Kept::Panels(panels) => Ok((panels.columns, panels.inner)),
            Kept::Narrow(narrow) => Ok((narrow.columns, narrow.inner)),
            Kept::Packed(packed, _) => Ok((packed.output, packed.input)),
            Kept::OnDevice { output, input, .. } => Ok((*output, *input)),
        }
    }

    /// How many bytes are kept, in memory or mapped.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Kept::Dense(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Kept::Panels(panels) => panels.bytes(),
            Kept::Narrow(narrow) => narrow.bytes(),
            Kept::Packed(packed, _) => packed.range.len(),
            Kept::OnDevice { bytes, .. } => *bytes,
        }
    }

    /// The format of the rows; `None` for a weight in the working precision.
    #[must_use]
    pub fn kept_as(&self) -> Option<GgmlDType> {
        match &self.0 {
            Kept::Dense(_) | Kept::Panels(_) | Kept::Narrow(_) => None,
            Kept::Packed(packed, _) => Some(packed.dtype),
            Kept::OnDevice { weight, .. } => match &**weight {
                QMatMul::QTensor(weight) => Some(weight.dtype()),
                QMatMul::Tensor(_) | QMatMul::TensorF16(_) => None,
            },
        }
    }

    /// Rows of a weight that the CPU keeps, in f32, `[N, in]`.
    ///
    /// # Errors
    /// A weight that is kept otherwise, or a row that it does not have.
    pub(super) fn unpack_rows(&self, rows: &[u32]) -> Result<Tensor> {
        let (output, input) = self.dims()?;
        let mut values = vec![0f32; rows.len() * input];
        for (values, &row) in values.chunks_exact_mut(input).zip(rows) {
            let row = row as usize;
            if row >= output {
                candle_core::bail!("row {row} of a weight with {output}");
            }
            match &self.0 {
                Kept::Packed(packed, _) => packed.unpack_run(row, 0..input, values),
                Kept::Panels(panels) => panels.read(row, values),
                _ => candle_core::bail!("rows of a weight that is not on the CPU"),
            }
        }
        Tensor::from_vec(values, (rows.len(), input), &Device::Cpu)
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

    /// The weights `run` of row `index` as f32; the run begins at a block of the format and ends at
    /// one or with the row.
    pub(super) fn unpack_run(&self, index: usize, run: Range<usize>, values: &mut [f32]) {
        let length = self.range.len() / self.output;
        let place = |at: usize| at / self.dtype.block_size() * self.dtype.type_size();
        let start = self.range.start + index * length;
        let bytes = &self.bytes[start + place(run.start)..start + place(run.end)];
        blocks::unpack(self.dtype, bytes, values);
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
