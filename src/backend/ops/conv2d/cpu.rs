//! Convolution as a product: the pixels under the kernel are the rows. They are gathered when a
//! tile of the product needs them, a block at a time, so the gathered picture never exists.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::Window;
use crate::backend::cpu::{
    Epilogue, Panels, Right,
    element::Element,
    kernel::ROW,
    product::{ProductRows, product},
    with_epilogue,
};

/// The pixels under the kernel, `[kernel, kernel, channels]`, of every output pixel of a batch of
/// pictures.
struct WindowRows<'a> {
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
    /// start of the run under the kernel
    row: usize,
    column: usize,
    /// the part of the run, and its destination
    part: Range<usize>,
    to: usize,
}

impl ProductRows for WindowRows<'_> {
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

impl WindowRows<'_> {
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
        // Offset of the channels of the pixel with this column of the padded picture.
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
pub(super) fn conv2d(
    x: &Tensor,
    weight: &Panels,
    epilogue: Epilogue<Tensor>,
    window: Window,
) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let (output, columns) = (window.output(), weight.columns);
    let shape = (batch, output.0, output.1, columns);
    let y = with_epilogue(&x.contiguous()?, epilogue, (batch, columns), |values, epilogue| {
        let gathered = WindowRows { values, height, width, channels, window, output };
        let rows = batch * output.0 * output.1;
        product(&gathered, rows, batch, Right::Panels(weight), epilogue)
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}
