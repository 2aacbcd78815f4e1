//! Launch of the Metal kernel of doubling (`kernels/pointwise.metal`).

use crate::backend::{
    launch::Launch,
    launch_metal::{MetalElement, RUN, has_runs},
};

const THREADS: u32 = 128;

/// What the kernel takes by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureSizes {
    /// Pixels of a row.
    pub width: u32,
    /// Channels of a pixel.
    pub channels: u32,
    /// 1 if pixels are whole runs.
    pub aligned: u32,
}

/// `upsample_nearest_2x(x, y, sizes)`, buffers 0 to 2: `[B, H, W, C]` → `[B, 2H, 2W, C]`, of B·H `rows`; a row of `y` has
/// less than 2³² values. `aligned` says that both buffers begin at whole runs of four values.
#[must_use]
pub fn upsample_nearest_2x(
    element: MetalElement,
    rows: u32,
    width: u32,
    channels: u32,
    aligned: bool,
) -> (Launch, PictureSizes) {
    let kernel = element.kernel(["upsample_nearest_2x_f16", "upsample_nearest_2x_f32"]);
    let runs = 2 * width * channels.div_ceil(RUN);
    let launch =
        Launch { kernel, grid: [runs.div_ceil(THREADS), 2 * rows, 1], block: THREADS, shared: 0 };
    (launch, PictureSizes { width, channels, aligned: has_runs(aligned, channels).into() })
}
