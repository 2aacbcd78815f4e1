//! Launches of the canvas's kernels (`kernels/canvas.cu`). A canvas is f32, `[height, width, channels]`; its rows have at
//! most 2²² values.

use crate::backend::launch::{ElementType, Launch};

/// Threads of a block that walks a row value by value.
const THREADS: u32 = 128;
/// Threads of a block that reads predictions.
const WIDE_THREADS: u32 = 256;
/// Threads of the one block of a region that looks for values that are not finite.
const REGION_THREADS: u32 = 1024;

/// A piece of the canvas: whole rows of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BandSizes {
    /// Rows of the piece.
    pub height: u32,
    /// Pixels of a row.
    pub width: u32,
    /// Channels of a pixel.
    pub channels: u32,
    /// Row of the canvas that is the piece's first.
    pub top: u32,
}

/// One field of noise.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NoiseField {
    /// The seed, its low word first.
    pub seed: [u32; 2],
    /// Number of the draw.
    pub draw: u32,
}

impl NoiseField {
    /// Draw number `draw` of a seed.
    #[must_use]
    pub fn new(seed: u64, draw: u32) -> Self {
        Self { seed: [seed as u32, (seed >> 32) as u32], draw }
    }
}

/// What `diffuse` takes by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiffuseNumbers {
    /// The piece that is diffused.
    pub band: BandSizes,
    /// Its noise.
    pub noise: NoiseField,
    /// Factor of the clean latent.
    pub signal: f32,
    /// Factor of the noise.
    pub spread: f32,
}

/// What `gather_regions` takes by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatherSizes {
    /// Rows of the canvas.
    pub height: u32,
    /// Pixels of its rows.
    pub width: u32,
    /// Channels of its pixels.
    pub channels: u32,
    /// Rows of a region.
    pub region_height: u32,
    /// Pixels of a region's rows.
    pub region_width: u32,
    /// Channels of a pixel of the output.
    pub pixel: u32,
    /// The first of them that is written.
    pub first: u32,
}

/// Predictions of some regions of a grid, `[count, side, side, channels]`; with guidance twice as many: those for the
/// negative prompt, then those for the prompt.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictionSizes {
    /// Side of a region.
    pub side: u32,
    /// Channels of a pixel.
    pub channels: u32,
    /// Regions.
    pub count: u32,
    /// 1 with guidance.
    pub guided: u32,
    /// Its strength.
    pub guidance: f32,
}

/// What `add_regions` takes by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FuseSizes {
    /// The predictions at hand.
    pub predictions: PredictionSizes,
    /// Pixels of a row of the canvas.
    pub width: u32,
    /// First row of the canvas that the regions reach.
    pub top: u32,
    /// Rows of the grid.
    pub rows: u32,
    /// Columns of the grid.
    pub columns: u32,
    /// Number of the first region at hand.
    pub first: u32,
}

/// A factor of z and one of the prediction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Factors {
    /// Factor of z.
    pub z: f32,
    /// Factor of the prediction, or of the model's output.
    pub prediction: f32,
}

/// What `canvas_step` takes by value. Of zeros it leaves everything out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepNumbers {
    /// The piece that is stepped; its first row is an even one of the canvas, and its height is even but for the last.
    pub band: BandSizes,
    /// 1 if the model's output is not yet the prediction: `from` makes it so.
    pub converts: u32,
    /// Factors of z and the model's output in the prediction.
    pub from: Factors,
    /// 1 if the prediction is the clean latent, 0 if it is the noise.
    pub clean: u32,
    /// The canvas's level: factor of the clean latent.
    pub signal: f32,
    /// The canvas's level: factor of the noise.
    pub spread: f32,
    /// Weight of the structure prior in this step, 0 for none.
    pub lambda: f32,
    /// The step's factors.
    pub step: Factors,
    /// Factor of fresh noise, 0 for none.
    pub noise: f32,
    /// The fresh noise.
    pub field: NoiseField,
    /// 1 if the step keeps a value for later ones.
    pub keeps: u32,
    /// Its factors.
    pub kept: Factors,
    /// Limit of the clean latent: 0 none, 1 a range, 2 a range that is scaled to 1.
    pub limit: u32,
    /// Largest magnitude within the limit.
    pub most: f32,
    /// Factors of the clean latent that is limited.
    pub clean_latent: Factors,
    /// Factor of the limited clean latent in the step.
    pub limited: f32,
    /// Canvases of earlier steps that are read, up to two.
    pub earlier: u32,
    /// Their factors, the latest first.
    pub history: [f32; 2],
}

fn of_rows(kernel: &'static str, rows: u32, places: u32, block: u32) -> Launch {
    Launch { kernel, grid: [rows, places.div_ceil(block), 1], block, shared: 0 }
}

/// `noise_field(out, band, field)`
#[must_use]
pub fn noise_field(band: BandSizes) -> Launch {
    of_rows("noise_field_f32", band.height, band.width * band.channels, THREADS)
}

/// `diffuse(zl, z, numbers)`: z = signal·zL + spread·n, of a piece of the canvas.
#[must_use]
pub fn diffuse(band: BandSizes) -> Launch {
    of_rows("diffuse_f32", band.height, band.width * band.channels, THREADS)
}

/// `gather_regions(canvas, places, out, sizes)` of so many regions, 65535 at most, whose first rows and columns are in
/// `places`, `[regions, 2]` u32. Out is `[regions, region height, region width, pixel]` in the working type.
#[must_use]
pub fn gather_regions(element: ElementType, sizes: GatherSizes, regions: u32) -> Launch {
    let names = ["gather_regions_bf16", "gather_regions_f16", "gather_regions_f32"];
    let length = sizes.region_height * sizes.region_width * sizes.channels;
    let grid = [length.div_ceil(WIDE_THREADS), regions, 1];
    Launch { kernel: element.kernel(names), grid, block: WIDE_THREADS, shared: 0 }
}

/// `add_regions(predictions, ys, xs, profile, sums, sizes)`: sums `[height, width, channels]` of f32 += w·ε, of the
/// regions from number `first` on. Sums are zeros before the first batch, and batches come in the grid's order. `ys` and
/// `xs` u32 are first rows and columns of the grid, `profile` f32 the weights along a side.
///
/// # Panics
/// Without a region, or with regions that the grid does not have.
#[must_use]
pub fn add_regions(
    element: ElementType,
    predictions: PredictionSizes,
    first: u32,
    (height, width): (u32, u32),
    ys: &[u32],
    columns: u32,
) -> (Launch, FuseSizes) {
    let PredictionSizes { side, channels, count, .. } = predictions;
    let last = first + count - 1;
    let top = ys[(first / columns) as usize];
    let bottom = (ys[(last / columns) as usize] + side).min(height);
    let names = ["add_regions_bf16", "add_regions_f16", "add_regions_f32"];
    let launch = of_rows(element.kernel(names), bottom - top, width * channels, WIDE_THREADS);
    (launch, FuseSizes { predictions, width, top, rows: ys.len() as u32, columns, first })
}

/// `find_non_finite(predictions, flags, sizes)`: flags `[count]` u32 are 1 for regions with a value that is not finite,
/// else 0.
#[must_use]
pub fn find_non_finite(element: ElementType, predictions: PredictionSizes) -> Launch {
    let names = ["find_non_finite_bf16", "find_non_finite_f16", "find_non_finite_f32"];
    let grid = [predictions.count, 1, 1];
    Launch { kernel: element.kernel(names), grid, block: REGION_THREADS, shared: 0 }
}

/// `canvas_step(before, sums, sum_y, sum_x, zl, earlier_0, earlier_1, kept, after, numbers)`: all of them pieces of the
/// canvas, but for `sum_y` `[canvas height]` and `sum_x` `[width]`, the sums of weights. After may be before.
#[must_use]
pub fn canvas_step(band: BandSizes) -> Launch {
    let across = band.width.div_ceil(2) * band.channels;
    of_rows("canvas_step_f32", band.height.div_ceil(2), across, THREADS)
}
