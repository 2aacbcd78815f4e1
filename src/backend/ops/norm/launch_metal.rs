//! Launches of the Metal kernels of normalizations (`kernels/norm.metal`).

use crate::backend::{
    launch::Launch,
    launch_metal::{MetalElement, RUN, has_runs},
};

/// Channels and threads of a threadgroup of a group norm.
const CHANNELS: u32 = 32 * RUN;
const THREADS: u32 = 256;
/// Positions that a threadgroup normalizes.
const APPLY_POSITIONS: u32 = 64;
const MERGE_THREADS: u32 = 128;
/// Positions of a piece, at least, and most pieces of a sample.
const PIECE: u32 = 128;
const PIECES_MAX: u32 = 512;
/// Rows of a threadgroup, and its threads.
const ROWS: u32 = 4;
const ROW_THREADS: u32 = 128;

/// What the kernels of a group norm take by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormSizes {
    /// Of one sample.
    pub positions: u32,
    /// C.
    pub channels: u32,
    /// Groups of channels.
    pub groups: u32,
    /// Positions of a piece.
    pub piece: u32,
    /// Pieces of a sample.
    pub pieces: u32,
    /// Added to the variance.
    pub eps: f32,
    /// 1 if SiLU follows.
    pub silu: u32,
    /// Rows of statistics from one sample to the next.
    pub statistics_stride: u32,
    /// 1 if rows are whole runs.
    pub aligned: u32,
}

/// The launches of a group norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormLaunch {
    /// `group_norm_moments(x, partial, sizes)`, buffers 0 to 2.
    pub moments: Launch,
    /// `group_norm_merge(x, partial, statistics, sizes)`, buffers 0 to 3.
    pub merge: Launch,
    /// `group_norm_apply(x, statistics, weight, bias, y, sizes)`, buffers 0 to 5; weight and bias are f32.
    pub apply: Launch,
    /// The last argument of all of them.
    pub sizes: GroupNormSizes,
    /// Pairs of f32 in the workspace `partial`.
    pub partial_len: usize,
    /// Rows of four f32 in `statistics`: base, mean less the base, 1/√(variance + ε), variance.
    pub statistics_len: usize,
}

impl GroupNormLaunch {
    /// The launches for `x` `[samples, positions, channels]`, all of which are above 0, in groups that divide the
    /// channels. `aligned` says that `x` and `y` begin at whole runs of four values; bytes of the result do not depend
    /// on it.
    #[must_use]
    pub fn new(
        element: MetalElement,
        (samples, positions, channels): (u32, u32, u32),
        groups: u32,
        eps: f64,
        then_silu: bool,
        aligned: bool,
    ) -> Self {
        let piece = PIECE.max(positions.div_ceil(PIECES_MAX));
        let pieces = positions.div_ceil(piece);
        let sizes = GroupNormSizes {
            positions,
            channels,
            groups,
            piece,
            pieces,
            eps: eps as f32,
            silu: then_silu.into(),
            statistics_stride: groups,
            aligned: has_runs(aligned, channels).into(),
        };
        let columns = channels.div_ceil(CHANNELS);
        let launch =
            |names, grid, block| Launch { kernel: element.kernel(names), grid, block, shared: 0 };
        Self {
            moments: launch(
                ["group_norm_moments_f16", "group_norm_moments_f32"],
                [pieces, columns, samples],
                THREADS,
            ),
            merge: launch(
                ["group_norm_merge_f16", "group_norm_merge_f32"],
                [groups, samples, 1],
                MERGE_THREADS,
            ),
            apply: launch(
                ["group_norm_apply_f16", "group_norm_apply_f32"],
                [columns, positions.div_ceil(APPLY_POSITIONS), samples],
                THREADS,
            ),
            sizes,
            partial_len: samples as usize * pieces as usize * channels as usize,
            statistics_len: samples as usize * groups as usize,
        }
    }

    /// The same with one row of statistics of each group for all samples.
    #[must_use]
    pub fn with_shared_statistics(mut self) -> Self {
        self.sizes.statistics_stride = 0;
        self.statistics_len = self.sizes.groups as usize;
        self
    }
}

/// What the kernels of layer and root-mean-square norms take by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNormSizes {
    /// Rows of all samples.
    pub rows: u32,
    /// Values of a row.
    pub width: u32,
    /// Added to the variance.
    pub eps: f32,
    /// 1 if rows are whole runs.
    pub aligned: u32,
}

/// `layer_norm(x, weight, bias, y, sizes)`, buffers 0 to 4, for `[rows, width]`, both above 0; weight and bias are f32.
/// `aligned` says that all buffers begin at whole runs of four values; bytes of the result do not depend on it.
#[must_use]
pub fn layer_norm(
    element: MetalElement,
    rows: u32,
    width: u32,
    eps: f64,
    aligned: bool,
) -> (Launch, RowNormSizes) {
    row_norm(element.kernel(["layer_norm_f16", "layer_norm_f32"]), rows, width, eps, aligned)
}

/// `rms_norm(x, weight, y, sizes)`, buffers 0 to 3, as [`layer_norm`]; the weight is of the type of `x`.
#[must_use]
pub fn rms_norm(
    element: MetalElement,
    rows: u32,
    width: u32,
    eps: f64,
    aligned: bool,
) -> (Launch, RowNormSizes) {
    row_norm(element.kernel(["rms_norm_f16", "rms_norm_f32"]), rows, width, eps, aligned)
}

fn row_norm(
    kernel: &'static str,
    rows: u32,
    width: u32,
    eps: f64,
    aligned: bool,
) -> (Launch, RowNormSizes) {
    let grid = [rows.div_ceil(ROWS), 1, 1];
    let aligned = has_runs(aligned, width).into();
    let sizes = RowNormSizes { rows, width, eps: eps as f32, aligned };
    (Launch { kernel, grid, block: ROW_THREADS, shared: 0 }, sizes)
}
