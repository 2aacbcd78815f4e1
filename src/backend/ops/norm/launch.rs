//! Launches of the normalizations' kernels (`kernels/norm.cu`).

use crate::backend::launch::{ElementType, Launch};

/// Values of a sample that a block takes in, at least, and most blocks of a sample.
const PIECE: u64 = 1 << 15;
const PIECES_MAX: u64 = 512;
/// Most threads of a block of a group norm.
const THREADS: u32 = 256;
/// Most positions that a block of a group norm takes at a time.
const LINES_MAX: u32 = 32;
/// Threads of a block that merges pieces.
const MERGE_THREADS: u32 = 128;
/// Bytes of a row that a thread keeps in registers.
const KEPT_BYTES: u32 = 64;
/// Rows of a block where each has one warp.
const ROWS: u32 = 4;
/// Most values of a row.
pub const WIDTH_MAX: u32 = 8192;

/// What the kernels of a group norm take by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormSizes {
    /// Of one sample.
    pub positions: u64,
    /// Added to the variance.
    pub eps: f64,
    /// Samples of the batch.
    pub samples: u32,
    /// C.
    pub channels: u32,
    /// Groups of channels.
    pub groups: u32,
    /// Positions of a piece.
    pub piece: u32,
    /// Pieces of a sample.
    pub pieces: u32,
    /// Threads of a block side by side over the channels.
    pub columns: u32,
    /// Positions that a block takes at a time.
    pub lines: u32,
    /// Channels of a thread.
    pub vector: u32,
    /// 1 if SiLU follows.
    pub silu: u32,
    /// 1 if all samples are normalized with the same statistics.
    pub shared: u32,
}

/// The launches of a group norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormLaunch {
    /// `group_norm_moments(x, partial, sizes)`
    pub moments: Launch,
    /// `group_norm_merge(x, partial, statistics, sizes)`: of each sample.
    pub merge: Launch,
    /// `group_moments_merge(x, partial, pooled, sizes)`: of all samples together.
    pub pool: Launch,
    /// `group_norm_apply(x, statistics, weight, bias, y, sizes)`
    pub apply: Launch,
    /// The last argument of all of them.
    pub sizes: GroupNormSizes,
}

impl GroupNormLaunch {
    /// The launches for `x` `[samples, positions, channels]`, all of which are above 0 and the first at most 65535, in
    /// groups that divide the channels. `aligned` says that `x`, `y`, weight and bias begin on multiples of 16 bytes; bytes of the result may
    /// depend on it.
    #[must_use]
    pub fn new(
        element: ElementType,
        (samples, positions, channels): (u32, u64, u32),
        groups: u32,
        eps: f64,
        then_silu: bool,
        aligned: bool,
    ) -> Self {
        let vector = vector(element, channels, aligned);
        let tiles = (channels / vector).div_ceil(THREADS);
        let columns = (channels / vector).div_ceil(tiles);
        let lines = (THREADS / columns).clamp(1, LINES_MAX);
        let values = positions * u64::from(channels);
        let piece = PIECE.max(values.div_ceil(PIECES_MAX)).div_ceil(u64::from(channels)) as u32;
        let pieces = positions.div_ceil(u64::from(piece)) as u32;
        let sizes = GroupNormSizes {
            positions,
            eps,
            samples,
            channels,
            groups,
            piece,
            pieces,
            columns,
            lines,
            vector,
            silu: then_silu.into(),
            shared: 0,
        };
        let launch = |names, grid, block, shared| {
            let kernel = element.kernel(names);
            Launch { kernel, grid, block, shared }
        };
        let grid = [pieces, tiles, samples];
        let block = (columns * lines).next_multiple_of(32);
        let moments = size_of::<[f32; 2]>() as u32 * lines * columns * vector;
        Self {
            moments: launch(
                ["group_norm_moments_bf16", "group_norm_moments_f16", "group_norm_moments_f32"],
                grid,
                block,
                moments,
            ),
            merge: launch(
                ["group_norm_merge_bf16", "group_norm_merge_f16", "group_norm_merge_f32"],
                [groups, samples, 1],
                MERGE_THREADS,
                0,
            ),
            pool: launch(
                ["group_moments_merge_bf16", "group_moments_merge_f16", "group_moments_merge_f32"],
                [groups, 1, 1],
                MERGE_THREADS,
                0,
            ),
            apply: launch(
                ["group_norm_apply_bf16", "group_norm_apply_f16", "group_norm_apply_f32"],
                grid,
                block,
                0,
            ),
            sizes,
        }
    }

    /// The same with one row of statistics for all samples, `[1, groups]`.
    #[must_use]
    pub fn with_shared_statistics(mut self) -> Self {
        self.sizes.shared = 1;
        self
    }

    /// Pairs of f32 in the workspace `partial`.
    #[must_use]
    pub fn partial_len(&self) -> usize {
        let GroupNormSizes { samples, pieces, channels, .. } = self.sizes;
        samples as usize * pieces as usize * channels as usize
    }

    /// Rows of four f32 in `statistics`.
    #[must_use]
    pub fn statistics_len(&self) -> usize {
        let GroupNormSizes { samples, groups, shared, .. } = self.sizes;
        if shared == 1 { groups as usize } else { samples as usize * groups as usize }
    }
}

/// The statistics of a group whose moments are known: one row of the kernels' `statistics`.
#[must_use]
pub fn statistics(mean: f64, variance: f64, eps: f64) -> [f32; 4] {
    let rounded = mean as f32;
    let rest = (mean - f64::from(rounded)) as f32;
    [rounded, rest, (variance + eps).sqrt().recip() as f32, 0.0]
}

/// What the kernels of layer and root-mean-square norms take by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNormSizes {
    /// Rows of all samples.
    pub rows: u64,
    /// Added to the variance.
    pub eps: f64,
    /// Values of a row.
    pub width: u32,
    /// Warps of a row.
    pub warps: u32,
    /// Rows of a block.
    pub block: u32,
    /// Values that a thread loads at once.
    pub vector: u32,
}

/// `layer_norm(x, weight, bias, y, sizes)` for `[rows, width]`, both above 0; `None` for a row of more than
/// [`WIDTH_MAX`] values. `aligned` as in [`GroupNormLaunch::new`].
#[must_use]
pub fn layer_norm(
    element: ElementType,
    rows: u64,
    width: u32,
    eps: f64,
    aligned: bool,
) -> Option<(Launch, RowNormSizes)> {
    let names = ["layer_norm_bf16", "layer_norm_f16", "layer_norm_f32"];
    row_norm(element.kernel(names), element, (rows, width), eps, aligned)
}

/// `rms_norm(x, weight, y, sizes)`, as [`layer_norm`].
#[must_use]
pub fn rms_norm(
    element: ElementType,
    rows: u64,
    width: u32,
    eps: f64,
    aligned: bool,
) -> Option<(Launch, RowNormSizes)> {
    let names = ["rms_norm_bf16", "rms_norm_f16", "rms_norm_f32"];
    row_norm(element.kernel(names), element, (rows, width), eps, aligned)
}

fn row_norm(
    kernel: &'static str,
    element: ElementType,
    (rows, width): (u64, u32),
    eps: f64,
    aligned: bool,
) -> Option<(Launch, RowNormSizes)> {
    let warps = width.div_ceil(32 * KEPT_BYTES / element.bytes());
    let block = if warps == 1 { ROWS } else { 1 };
    let blocks = u32::try_from(rows.div_ceil(u64::from(block))).ok()?;
    if width > WIDTH_MAX || blocks > i32::MAX as u32 {
        return None;
    }
    let vector = vector(element, width, aligned);
    let launch = Launch { kernel, grid: [blocks, 1, 1], block: 32 * warps * block, shared: 0 };
    Some((launch, RowNormSizes { rows, eps, width, warps, block, vector }))
}

/// Values of a row that a thread loads at once: 16 bytes of them where rows begin on multiples of 16.
fn vector(element: ElementType, width: u32, aligned: bool) -> u32 {
    let wide = 16 / element.bytes();
    if aligned && width.is_multiple_of(wide) { wide } else { 1 }
}
