//! Convolution as a product of gathered pixels and the weight matrix, one tile of output pixels at
//! a time, so that what is gathered stays in the cache.

use std::mem::MaybeUninit;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    Shared,
    matmul::{Matrix, Tiling, affine_tile, with_affine},
    with_scratch, with_values, written,
};

/// What a tile gathers should not outgrow this many values (4 MiB).
const GATHERED: usize = 1 << 20;
const TILE_ROWS_MIN: usize = 64;

/// How the kernel moves over the picture.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Window {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

/// One picture, `[height, width, channels]`.
#[derive(Clone, Copy)]
struct Picture<'a> {
    values: &'a [f32],
    height: usize,
    width: usize,
    channels: usize,
}

impl Picture<'_> {
    /// The pixels under the kernel at output pixel (`y`, `x`): `[kernel, kernel, channels]`, zeros
    /// outside the picture. A row of the kernel is one run of memory.
    fn gather(&self, window: Window, y: usize, x: usize, out: &mut [f32]) {
        let Window { kernel, stride, padding } = window;
        let run = kernel * self.channels;
        // Columns of the kernel that lie left of the picture, and the first beyond its right edge.
        let left = x * stride;
        let skip = padding.saturating_sub(left).min(kernel);
        let end = (self.width + padding).saturating_sub(left).clamp(skip, kernel);
        for (dy, out) in out.chunks_exact_mut(run).enumerate() {
            let row = y * stride + dy;
            if row < padding || row >= self.height + padding || skip == end {
                out.fill(0.0);
                continue;
            }
            let first = (row - padding) * self.width + left + skip - padding;
            let (from, to) = (skip * self.channels, end * self.channels);
            out[..from].fill(0.0);
            out[from..to].copy_from_slice(&self.values[first * self.channels..][..to - from]);
            out[to..].fill(0.0);
        }
    }
}

/// How one sample's output of `positions × columns` is cut.
fn tiling(positions: usize, columns: usize, inner: usize) -> Tiling {
    Tiling::new(positions, columns, (GATHERED / inner.max(1)).max(TILE_ROWS_MIN))
}

/// For how many output pixels a tile gathers its `inner` values each.
pub(in super::super) fn conv2d_tile_rows(positions: usize, columns: usize, inner: usize) -> usize {
    tiling(positions, columns, inner).tile(0).rows
}

/// `[B, H, W, in]` and a weight `[k·k·in, out]` → `[B, out_h, out_w, out]`.
pub(in super::super) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
    (out_h, out_w): (usize, usize),
) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let (inner, columns) = weight.dims2()?;
    let positions = out_h * out_w;
    let mut y = vec![0f32; batch * positions * columns];
    if !y.is_empty() {
        with_affine(&x.contiguous()?, weight, bias, |x, weight, bias| {
            let tiling = tiling(positions, columns, inner);
            let output = Shared::new(&mut y);
            let size = height * width * channels;
            (0..batch * tiling.count()).into_par_iter().for_each(|task| {
                let tile = tiling.tile(task % tiling.count());
                let sample = task / tiling.count();
                let values = &x[sample * size..(sample + 1) * size];
                let picture = Picture { values, height, width, channels };
                let offset = (sample * positions + tile.row) * columns + tile.column;
                // SAFETY: the tiles of a tiling partition a sample, and samples are disjoint.
                let y = unsafe { output.block(offset, tile.rows, tile.columns, columns) };
                with_scratch(tile.rows * inner, |gathered| {
                    for (index, row) in gathered.chunks_exact_mut(inner).enumerate() {
                        let position = tile.row + index;
                        picture.gather(window, position / out_w, position % out_w, row);
                    }
                    let a = Matrix::row_major(gathered, tile.rows, inner, inner);
                    affine_tile(y, a, weight, bias, columns, tile);
                });
            });
        })?;
    }
    Tensor::from_vec(y, (batch, out_h, out_w, columns), &Device::Cpu)
}

/// `[B, H, W, C]` → `[B, 2H, 2W, C]`.
pub(in super::super) fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let shape = (batch, 2 * height, 2 * width, channels);
    if x.elem_count() == 0 {
        return Tensor::zeros(shape, DType::F32, &Device::Cpu);
    }
    let row = width * channels;
    let y = with_values([&x.contiguous()?], |[x]| {
        let double = |(y, x): (&mut [MaybeUninit<f32>], &[f32])| {
            for line in y.chunks_exact_mut(2 * row) {
                for (twice, pixel) in
                    line.chunks_exact_mut(2 * channels).zip(x.chunks_exact(channels))
                {
                    twice[..channels].write_copy_of_slice(pixel);
                    twice[channels..].write_copy_of_slice(pixel);
                }
            }
        };
        let fill = |y: &mut [MaybeUninit<f32>]| {
            y.par_chunks_exact_mut(4 * row).zip(x.par_chunks_exact(row)).for_each(double);
        };
        // SAFETY: every row of `x` makes two of `y`, of two pixels for each.
        unsafe { written(4 * x.len(), fill) }
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}
