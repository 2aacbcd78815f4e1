//! Launch of the doubling's kernel (`kernels/pointwise.cu`).

use crate::backend::launch::{ElementType, Launch};

const THREADS: u32 = 256;
/// Most blocks along each side of the grid; each goes on with a later row or piece of it.
const ROWS_MAX: u64 = 1 << 20;
const TILES_MAX: u64 = 1 << 12;

/// What the kernel takes by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureSizes {
    /// Rows of all pictures.
    pub rows: u64,
    /// Pixels of a row.
    pub width: u32,
    /// Channels of a pixel.
    pub channels: u32,
}

/// `upsample_nearest_2x(x, y, sizes)`: `[B, H, W, C]` → `[B, 2H, 2W, C]`, of B·H `rows`; a row of `y` has less than
/// 2³² values.
#[must_use]
pub fn upsample_nearest_2x(
    element: ElementType,
    rows: u64,
    width: u32,
    channels: u32,
) -> (Launch, PictureSizes) {
    let names = ["upsample_nearest_2x_bf16", "upsample_nearest_2x_f16", "upsample_nearest_2x_f32"];
    let row_bytes = u64::from(width) * u64::from(channels) * u64::from(element.bytes());
    let tiles = row_bytes.div_ceil(16 * u64::from(THREADS)).clamp(1, TILES_MAX);
    let grid = [rows.clamp(1, ROWS_MAX) as u32, tiles as u32, 1];
    let launch = Launch { kernel: element.kernel(names), grid, block: THREADS, shared: 0 };
    (launch, PictureSizes { rows, width, channels })
}
