//! Convolution as a product: the pixels under the kernel are the rows. They are gathered when a
//! tile of the product needs them, a block at a time, so the gathered picture never exists.

use std::mem::MaybeUninit;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    element::Element,
    kernel::ROW,
    panels::{Panels, Right},
    product::{Rows, product},
    with_summands, with_values, written,
};

/// How the kernel moves over the picture.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Window {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    /// Whether every pixel of the input stands for two by two pixels of the picture.
    pub doubled: bool,
    /// Height and width of the picture that the kernel moves over.
    pub picture: (usize, usize),
}

impl Window {
    /// Height and width of the output.
    pub(in super::super) fn output(&self) -> (usize, usize) {
        let places = |length: usize| (length + 2 * self.padding - self.kernel) / self.stride + 1;
        (places(self.picture.0), places(self.picture.1))
    }
}

/// The pixels under the kernel, `[kernel, kernel, channels]`, of every output pixel of a batch of
/// pictures.
struct Gathered<'a> {
    /// `[B, height, width, channels]`
    values: &'a [f32],
    height: usize,
    width: usize,
    channels: usize,
    window: Window,
    output: (usize, usize),
}

impl Rows for Gathered<'_> {
    fn copy<E: Element>(
        &self,
        first: usize,
        rows: usize,
        from: usize,
        count: usize,
        out: &mut [E],
    ) {
        let (height, width) = self.output;
        let (mut y, mut x) = (first % (height * width) / width, first % width);
        let size = self.height * self.width * self.channels;
        let mut sample = first / (height * width);
        for out in out.chunks_mut(ROW * E::PER_WORD).take(rows) {
            let picture = &self.values[sample * size..(sample + 1) * size];
            self.copy_pixel(picture, y, x, from, &mut out[..count]);
            x += 1;
            if x == width {
                (y, x) = (y + 1, 0);
            }
            if y == height {
                (sample, y) = (sample + 1, 0);
            }
        }
    }
}

impl Gathered<'_> {
    /// The numbers from `from` on under the kernel at output pixel (`y`, `x`), zeros outside the
    /// picture. A row of the kernel is one run of memory, or, in a doubled picture, every pixel.
    fn copy_pixel<E: Element>(
        &self,
        picture: &[f32],
        y: usize,
        x: usize,
        from: usize,
        mut out: &mut [E],
    ) {
        let Window { kernel, stride, padding, doubled, picture: (height, width) } = self.window;
        let together = if doubled { 1 } else { kernel };
        let run = together * self.channels;
        let mut index = from / run;
        let mut skipped = from % run;
        while !out.is_empty() {
            let (piece, rest) = out.split_at_mut((run - skipped).min(out.len()));
            out = rest;
            // The run begins at this row and column of the padded picture.
            let row = y * stride + index * together / kernel;
            let column = x * stride + index * together % kernel;
            // Columns of the run that lie left of the picture, and the first beyond its right edge.
            let left = padding.saturating_sub(column).min(together);
            let right = (width + padding).saturating_sub(column).clamp(left, together);
            if row < padding || row >= height + padding || left == right {
                piece.fill(E::default());
            } else {
                let (mut row, mut column) = (row - padding, column + left - padding);
                if doubled {
                    (row, column) = (row / 2, column / 2);
                }
                let start = (row * self.width + column) * self.channels;
                let seen = left * self.channels..right * self.channels;
                let end = skipped + piece.len();
                let (a, b) = (seen.start.clamp(skipped, end), seen.end.clamp(skipped, end));
                piece[..a - skipped].fill(E::default());
                if a < b {
                    let values = &picture[start + a - seen.start..start + b - seen.start];
                    E::round(values, &mut piece[a - skipped..b - skipped]);
                }
                piece[b - skipped..].fill(E::default());
            }
            (index, skipped) = (index + 1, 0);
        }
    }
}

/// `[B, H, W, in]` and a weight of `[k·k·in]` by `[out]` → `[B, H', W', out]`. The bias is `[out]` or
/// `[B, out]`, `other` of the output's shape.
pub(in super::super) fn conv2d(
    x: &Tensor,
    weight: &Panels,
    bias: Option<&Tensor>,
    other: Option<&Tensor>,
    window: Window,
) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let output = window.output();
    let columns = weight.columns;
    let shape = (batch, output.0, output.1, columns);
    if let Some(other) = other
        && other.dims4()? != shape
    {
        candle_core::bail!("conv2d: {:?} cannot be added to {shape:?}", other.shape());
    }
    let y = with_summands(&x.contiguous()?, bias, other, (batch, columns), |values, summands| {
        let gathered = Gathered { values, height, width, channels, window, output };
        let rows = batch * output.0 * output.1;
        product(&gathered, rows, batch, Right::Panels(weight), summands)
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
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
