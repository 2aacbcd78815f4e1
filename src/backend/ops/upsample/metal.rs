//! Doubling of a picture on Apple GPUs.

use candle_core::Result;

use super::launch_metal::{self as launch, PictureSizes};
use crate::backend::{
    Activation,
    gpu::KernelValue,
    metal::{are_aligned, compute, element, is_counted},
};

// SAFETY: `repr(C)`, as `PictureSizes` of `kernels/pointwise.metal`: integers of 32 bits.
unsafe impl KernelValue for PictureSizes {}

/// `[B, H, W, C]` → `[B, 2H, 2W, C]`; `None` for rows that the kernel does not count.
pub(super) fn upsample_nearest_2x(x: &Activation) -> Result<Option<Activation>> {
    let (batch, height, width, channels) = x.dims4()?;
    let (rows, size) = (batch * height, (width as u32, channels as u32));
    if !is_counted(4 * width * channels) || !is_counted(2 * rows) {
        return Ok(None);
    }
    let aligned = are_aligned(&[x]);
    let (launch, sizes) =
        launch::upsample_nearest_2x(element(x)?, rows as u32, size.0, size.1, aligned);
    let x = x.contiguous()?;
    let doubled = (batch, 2 * height, 2 * width, channels);
    // SAFETY: the sizes are the input's, and the output has two rows and two pixels for each of its own.
    unsafe { compute(&launch, &x, &[], (doubled, x.dtype()), &sizes) }.map(Some)
}
