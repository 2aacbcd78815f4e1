//! Launch of the attention prior's kernel (`kernels/crop_resize.cu`).

use crate::backend::launch::{ElementType, Launch};

const THREADS: u32 = 256;
/// Most blocks of a sample; each goes on with later values.
const BLOCKS_MAX: u64 = 1 << 16;

/// What the kernel takes by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlendSizes {
    /// Rows of an output.
    pub height: u32,
    /// Pixels of a row of an output.
    pub width: u32,
    /// Channels of output and map.
    pub channels: u32,
    /// Rows of a map.
    pub map_height: u32,
    /// Pixels of a row of a map.
    pub map_width: u32,
    /// Outputs that share one map.
    pub regions: u32,
    /// Weight of the map, 0 to 1.
    pub weight: f32,
    /// 1 if maps have the output's size and every pixel is blended with the one at its place: rows and columns are not
    /// read then, and may be anything.
    pub in_place: u32,
}

/// Sampling position on an axis of a map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AxisSample {
    /// The place before it.
    pub low: u32,
    /// The place behind it.
    pub high: u32,
    /// Distance from the first, 0 to 1.
    pub fraction: f32,
}

/// The samples of `output` pixel centres spread evenly from `start` on over `extent`, as shares of an axis of `input`
/// places; beyond the axis its ends hold.
pub fn axis_samples(
    start: f64,
    extent: f64,
    input: u32,
    output: u32,
) -> impl Iterator<Item = AxisSample> {
    let last = input.saturating_sub(1);
    (0..output).map(move |index| {
        let relative = start + extent * (f64::from(index) + 0.5) / f64::from(output);
        let position = (relative * f64::from(input) - 0.5).clamp(0.0, f64::from(last));
        let low = position.floor();
        let fraction = (position - low) as f32;
        AxisSample { low: low as u32, high: (low as u32 + 1).min(last), fraction }
    })
}

/// `blend_prior(own, maps, rows, columns, out, sizes)`: own and out `[samples, height·width, C]` of `(samples, height,
/// width, C)`; maps `[samples / regions, map height, map width, C]`, the first for the first `regions` samples; rows
/// `[regions, height]` and columns `[regions, width]` of [`AxisSample`]. `None` for more than 65535 samples, or 2³¹ values
/// of one.
#[must_use]
pub fn blend_prior(
    element: ElementType,
    (samples, height, width, channels): (u32, u32, u32, u32),
    (map_height, map_width): (u32, u32),
    regions: u32,
    weight: f32,
) -> Option<(Launch, BlendSizes)> {
    let values = u64::from(height) * u64::from(width) * u64::from(channels);
    if samples > 65535 || values > i32::MAX as u64 {
        return None;
    }
    let of_block = u64::from(THREADS * 16 / element.bytes());
    let grid = [values.div_ceil(of_block).clamp(1, BLOCKS_MAX) as u32, samples, 1];
    let kernel = element.kernel(["blend_prior_bf16", "blend_prior_f16", "blend_prior_f32"]);
    let in_place = 0;
    let sizes =
        BlendSizes { height, width, channels, map_height, map_width, regions, weight, in_place };
    Some((Launch { kernel, grid, block: THREADS, shared: 0 }, sizes))
}
