//! Weights as they are stored: rows of numbers in host memory, in 16 bits or quantized, of which a run is
//! brought to f32 when it is needed. On the CPU they need no copy of the mapped file.

use std::{ops::Range, sync::Arc};

use candle_core::{Result, quantized::GgmlDType};

use super::{Bytes, blocks};

/// Rows of numbers in host memory, in a format of [`blocks`].
#[derive(Clone, Debug)]
pub(in crate::backend) struct StoredRows {
    bytes: Bytes,
    range: Range<usize>,
    dtype: GgmlDType,
    /// rows
    pub output: usize,
    /// numbers of a row
    pub input: usize,
}

impl StoredRows {
    /// Rows as they are stored: `output` of `input` numbers in the format `dtype`, in `range` of `bytes`.
    /// Copied only if they lie at an odd address.
    ///
    /// # Errors
    /// A format that holds no weights, or rows that are no whole number of blocks or are not of the
    /// range's length.
    pub(in crate::backend) fn new(
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
    pub(in crate::backend) fn unpack_run(
        &self,
        index: usize,
        run: Range<usize>,
        values: &mut [f32],
    ) {
        let length = self.range.len() / self.output;
        let place = |at: usize| at / self.dtype.block_size() * self.dtype.type_size();
        let start = self.range.start + index * length;
        let bytes = &self.bytes[start + place(run.start)..start + place(run.end)];
        blocks::unpack(self.dtype, bytes, values);
    }
}

pub(in crate::backend) fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(blocks::ALIGNMENT)
}

/// Checks that so many bytes are rows in this format.
///
/// # Errors
/// They are not.
pub(in crate::backend) fn check(
    length: usize,
    dtype: GgmlDType,
    output: usize,
    input: usize,
) -> Result<()> {
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
