//! Doubling of a picture on NVIDIA GPUs.

use candle_core::Result;

use super::launch::{self, PictureSizes};
use crate::backend::{
    Activation,
    cuda::{element, run_unary},
    gpu::KernelValue,
};

// SAFETY: `repr(C)`, as `PictureSizes` of `kernels/pointwise.cu`, without gaps.
unsafe impl KernelValue for PictureSizes {}

/// `[B, H, W, C]` → `[B, 2H, 2W, C]`; `None` for rows that the kernel does not count.
pub(super) fn upsample_nearest_2x(x: &Activation) -> Result<Option<Activation>> {
    let (batch, height, width, channels) = x.dims4()?;
    if u32::try_from(4 * width * channels).is_err() {
        return Ok(None);
    }
    let rows = (batch * height) as u64;
    let (launch, sizes) =
        launch::upsample_nearest_2x(element(x)?, rows, width as u32, channels as u32);
    let doubled = (batch, 2 * height, 2 * width, channels);
    // SAFETY: the sizes are the input's, and the output has two rows and two pixels for each of its own.
    unsafe { run_unary(&launch, x, doubled, &sizes) }.map(Some)
}
