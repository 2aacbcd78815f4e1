//! Convolution as a product: the pixels under the kernel are the rows. They are gathered when a
//! tile of the product needs them, a block at a time, so the gathered picture never exists.

use std::{mem::MaybeUninit, ops::Range};

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

    /// The output's shape, for `x` `[B, H, W, in]` and so many outputs.
    ///
    /// # Errors
    /// An `other` of another shape, which could not be added.
    pub(super) fn output_shape(
        &self,
        x: &Tensor,
        columns: usize,
        other: Option<&Tensor>,
    ) -> Result<(usize, usize, usize, usize)> {
        let (height, width) = self.output();
        let shape = (x.dim(0)?, height, width, columns);
        if let Some(other) = other
            && other.dims4()? != shape
        {
            candle_core::bail!("conv2d: {:?} cannot be added to {shape:?}", other.shape());
        }
        Ok(shape)
    }

    /// Rows or columns of the kernel that lie on the picture, which has so many, at output pixel `at`.
    pub(super) fn seen(&self, at: usize, length: usize) -> Range<usize> {
        let start = self.padding.saturating_sub(at * self.stride).min(self.kernel);
        let end = (length + self.padding).saturating_sub(at * self.stride);
        start..end.clamp(start, self.kernel)
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

/// A part of what is wanted under the kernel, from one run: a row of the kernel is one, or, in a doubled
/// picture, every pixel of it.
struct Piece {
    /// where the run begins under the kernel
    row: usize,
    column: usize,
    /// the part of the run, and where it goes
    part: Range<usize>,
    to: usize,
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
        let pieces = self.pieces(from, count);
        for out in out.chunks_mut(ROW * E::PER_WORD).take(rows) {
            let picture = &self.values[sample * size..(sample + 1) * size];
            for piece in &pieces {
                self.copy_piece(picture, y, x, piece, &mut out[piece.to..][..piece.part.len()]);
            }
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
    /// Pixels of a run.
    fn together(&self) -> usize {
        if self.window.doubled { 1 } else { self.window.kernel }
    }

    /// The parts that `count` numbers from `from` on under the kernel consist of, wherever it is.
    fn pieces(&self, from: usize, count: usize) -> Vec<Piece> {
        let (kernel, together) = (self.window.kernel, self.together());
        let run = together * self.channels;
        (from / run..(from + count).div_ceil(run))
            .map(|index| {
                let (start, end) = (index * run, (index + 1) * run);
                let part = from.max(start)..end.min(from + count);
                let to = part.start - from;
                Piece {
                    row: index * together / kernel,
                    column: index * together % kernel,
                    part: part.start - start..part.end - start,
                    to,
                }
            })
            .collect()
    }

    /// A piece under the kernel at output pixel (`y`, `x`), zeros outside the picture.
    fn copy_piece<E: Element>(
        &self,
        picture: &[f32],
        y: usize,
        x: usize,
        piece: &Piece,
        out: &mut [E],
    ) {
        let Window { stride, padding, doubled, picture: (height, width), .. } = self.window;
        let (together, part) = (self.together(), &piece.part);
        // The run begins at this row and column of the padded picture.
        let (row, column) = (y * stride + piece.row, x * stride + piece.column);
        if row < padding || row >= height + padding {
            return out.fill(E::default());
        }
        // Of the pixel with this column of the padded picture, where its channels are.
        let start = |column: usize| {
            let (row, column) = (row - padding, column - padding);
            let (row, column) = if doubled { (row / 2, column / 2) } else { (row, column) };
            (row * self.width + column) * self.channels
        };
        if column >= padding && column + together <= width + padding {
            return E::round(&picture[start(column) + part.start..][..part.len()], out);
        }
        // Columns of the run that lie left of the picture, and the first beyond its right edge.
        let left = padding.saturating_sub(column).min(together);
        let right = (width + padding).saturating_sub(column).clamp(left, together);
        let seen = left * self.channels..right * self.channels;
        let (a, b) = (seen.start.clamp(part.start, part.end), seen.end.clamp(part.start, part.end));
        out.fill(E::default());
        if a < b {
            let from = start(column + left) + a - seen.start;
            E::round(&picture[from..][..b - a], &mut out[a - part.start..b - part.start]);
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
    let (output, columns) = (window.output(), weight.columns);
    let shape = window.output_shape(x, columns, other)?;
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
