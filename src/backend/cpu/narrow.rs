//! A weight laid out for convolutions with a few outputs, such as the last one of a UNet or of a decoder:
//! in packed panels most columns would be zeros.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

/// Outputs of a narrow convolution at most, and for how many there is room.
pub(in crate::backend) const OUTPUTS: usize = 4;

/// A convolution's weight for a few outputs, in f32 whatever the products of others are rounded to: it is
/// small, and the picture hangs on it.
#[derive(Clone, Debug)]
pub(in crate::backend) struct Narrow {
    /// `[kernel, OUTPUTS, kernel, in]`: a row of the kernel is one run of the picture
    pub weights: Arc<Vec<f32>>,
    pub columns: usize,
}

impl Narrow {
    /// Packs a weight in checkpoint layout, `[out, in, k, k]`.
    ///
    /// # Errors
    /// Another shape, no weight at all, or more outputs than [`OUTPUTS`].
    pub(in crate::backend) fn new(weight: &Tensor) -> Result<Self> {
        let (columns, ..) = weight.dims4()?;
        if columns > OUTPUTS || weight.elem_count() == 0 {
            candle_core::bail!("{:?} is no weight with a few outputs", weight.shape());
        }
        let rows = weight.to_dtype(DType::F32)?.permute((2, 0, 3, 1))?.contiguous()?;
        let rows = rows.pad_with_zeros(1, 0, OUTPUTS - columns)?;
        let weights = Arc::new(rows.flatten_all()?.to_vec1()?);
        Ok(Self { weights, columns })
    }
}
