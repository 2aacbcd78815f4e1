//! What the input says of the structure around a pixel: its structure tensor (Weickert 1999), on cells of about a pixel of the
//! input, from the input resized to the output's size. Cells are counted from the output's first pixel, so that nothing depends on
//! the window that is looked at.

use std::ops::Range;

use rayon::prelude::*;

use super::protect::LEVEL;

/// Largest side of a cell, in pixels: the structure of an input that is enlarged further lies in what was resized.
const LARGEST_CELL: usize = 4;
/// What is added to squares of differences, of cells in −1…1: noise of less than a level of 255 is no structure.
pub(super) const NOISE: f32 = 0.75 * LEVEL * LEVEL;

/// The grid of cells of an output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Structure {
    /// Width and height of the output.
    output: (usize, usize),
    /// Side of a cell, in pixels of the output.
    pub cell: usize,
}

/// Values of cells, row by row.
#[derive(Clone, Debug)]
pub(super) struct Cells<const N: usize> {
    columns: Range<usize>,
    rows: Range<usize>,
    values: Vec<[f32; N]>,
}

/// The products of the differences across and down, summed over the channels: across², across·down, down².
pub(super) type Tensor = [f32; 3];

impl Structure {
    /// For an input and an output of these widths and heights; with how far a guess about the input's structure may be held
    /// to it, in 0..=1: in full in an output of at least twice the size, and not at all at the input's own, which has its own.
    pub fn new(input: (usize, usize), output: (usize, usize)) -> (Self, f64) {
        let scale = |output: usize, input: usize| output as f64 / input as f64;
        let scale = scale(output.0, input.0).min(scale(output.1, input.1));
        let cell = (scale.round() as usize).clamp(1, LARGEST_CELL);
        (Self { output, cell }, (scale - 1.0).clamp(0.0, 1.0))
    }

    /// These columns and rows of the output, and around them so many pixels that values of cells are right at their pixels which
    /// depend on so many cells on each side.
    pub fn around(
        self,
        cells: usize,
        columns: &Range<usize>,
        rows: &Range<usize>,
    ) -> (Range<usize>, Range<usize>) {
        // A pixel's value is mixed from those of its cell and the next one.
        let radius = (cells + 2) * self.cell - 1;
        let wide = |range: &Range<usize>, length: usize| {
            range.start.saturating_sub(radius)..(range.end + radius).min(length)
        };
        (wide(columns, self.output.0), wide(rows, self.output.1))
    }

    /// The structure tensors, and after each its steps, of the cells that lie wholly within these columns and rows of the
    /// output, where `source` is the resized input, `[rows, columns, 3]` in −1…1. They depend on one cell on each side.
    pub fn tensors(self, source: &[f32], columns: &Range<usize>, rows: &Range<usize>) -> Cells<4> {
        // The last of an axis may be cut.
        let within = |pixels: &Range<usize>, length: usize| {
            let end = match pixels.end == length {
                true => length.div_ceil(self.cell),
                false => pixels.end / self.cell,
            };
            let start = pixels.start.div_ceil(self.cell);
            start.min(end)..end
        };
        let cells = (within(columns, self.output.0), within(rows, self.output.1));
        let means = self.means(source, (rows.start, columns.start), columns.len(), &cells);
        let (columns, rows) = cells;
        Cells { values: tensors(&means, columns.len()), columns, rows }
    }

    /// The means of `source` over the cells.
    fn means(
        self,
        source: &[f32],
        (top, left): (usize, usize),
        width: usize,
        (columns, rows): &(Range<usize>, Range<usize>),
    ) -> Vec<[f32; 3]> {
        let pixels = |cell: usize, first: usize, length: usize| {
            let start = cell * self.cell;
            start - first..(start + self.cell).min(length) - first
        };
        let of_row = |row: usize| {
            let lines = pixels(row, top, self.output.1);
            columns.clone().map(move |column| {
                let place = pixels(column, left, self.output.0);
                let count = (lines.len() * place.len()) as f32;
                let mut sum = [0.0f32; 3];
                for y in lines.clone() {
                    let line = &source[3 * (y * width + place.start)..3 * (y * width + place.end)];
                    for pixel in line.chunks_exact(3) {
                        sum.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
                    }
                }
                sum.map(|sum| sum / count)
            })
        };
        rows.clone().into_par_iter().flat_map_iter(of_row).collect()
    }

    /// What `make` makes of the values at the pixels in these columns and rows of the output, bilinearly between the middles of
    /// the cells; nothing if there is no cell.
    pub fn at_pixels<const N: usize, T: Send>(
        self,
        cells: &Cells<N>,
        columns: &Range<usize>,
        rows: &Range<usize>,
        make: impl Fn([f32; N]) -> T + Sync,
    ) -> Vec<T> {
        if cells.values.is_empty() {
            return Vec::new();
        }
        let between = |at: usize, cells: &Range<usize>| {
            let place = (at as f32 + 0.5) / self.cell as f32 - 0.5;
            let kept = |cell: f32| {
                (cell.max(cells.start as f32) as usize).min(cells.end - 1) - cells.start
            };
            (kept(place.floor()), kept(place.floor() + 1.0), place - place.floor())
        };
        let across: Vec<_> = columns.clone().map(|x| between(x, &cells.columns)).collect();
        let of_row = |y: usize| {
            let (above, below, share) = between(y, &cells.rows);
            let count = cells.columns.len();
            let row = |cell: usize| &cells.values[cell * count..][..count];
            let (above, below, make) = (row(above), row(below), &make);
            across.iter().map(move |&(first, second, share_across)| {
                let mix = |a: f32, b: f32, share: f32| a + share * (b - a);
                make(std::array::from_fn(|i| {
                    let upper = mix(above[first][i], above[second][i], share_across);
                    let lower = mix(below[first][i], below[second][i], share_across);
                    mix(upper, lower, share)
                }))
            })
        };
        rows.clone().into_par_iter().flat_map_iter(of_row).collect()
    }
}

impl<const N: usize> Cells<N> {
    /// Other values of the same cells.
    pub fn map<const M: usize>(&self, value: impl Fn([f32; N]) -> [f32; M]) -> Cells<M> {
        let values = self.values.iter().map(|own| value(*own)).collect();
        Cells { values, columns: self.columns.clone(), rows: self.rows.clone() }
    }

    /// Values made of those of both, which are of the same cells.
    pub fn with<const M: usize, const K: usize>(
        &self,
        others: &Cells<M>,
        value: impl Fn([f32; N], [f32; M]) -> [f32; K],
    ) -> Cells<K> {
        let both = self.values.iter().zip(&others.values);
        let values = both.map(|(own, other)| value(*own, *other)).collect();
        Cells { values, columns: self.columns.clone(), rows: self.rows.clone() }
    }

    /// The values smoothed along both axes by a filter of an odd number of weights; the borders are repeated.
    pub fn smoothed(&self, weights: &[f32]) -> Self {
        let (columns, rows) = (self.columns.len(), self.rows.len());
        let radius = weights.len() / 2;
        let sum = |at: &dyn Fn(usize) -> [f32; N], here: usize, length: usize| {
            let mut sum = [0.0; N];
            for (i, weight) in weights.iter().enumerate() {
                let value = at((here + i).saturating_sub(radius).min(length - 1));
                sum.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
            }
            sum
        };
        let all = 0..self.values.len();
        let down: Vec<[f32; N]> = all
            .clone()
            .into_par_iter()
            .map(|at| sum(&|y| self.values[y * columns + at % columns], at / columns, rows))
            .collect();
        let values = all
            .into_par_iter()
            .map(|at| sum(&|x| down[at / columns * columns + x], at % columns, columns))
            .collect();
        Self { values, columns: self.columns.clone(), rows: self.rows.clone() }
    }
}

/// The structure tensors of rows of cells, by Scharr's differences, and after each its steps: half the sum of the squared
/// differences to the four cells beside it, over the channels. They are the tensor's trace where all is even slopes, and as much
/// more as cells beside each other have less to do with each other. The borders are repeated.
fn tensors(cells: &[[f32; 3]], columns: usize) -> Vec<[f32; 4]> {
    const SMOOTH: [f32; 3] = [3.0 / 32.0, 10.0 / 32.0, 3.0 / 32.0];
    let rows = cells.len() / columns.max(1);
    let of_row = |y: usize| {
        let around = [y.saturating_sub(1), y, (y + 1).min(rows - 1)];
        (0..columns).map(move |x| {
            let beside = [x.saturating_sub(1), x, (x + 1).min(columns - 1)];
            let at = |row: usize, column: usize, c: usize| {
                cells[around[row] * columns + beside[column]][c]
            };
            let mut tensor = [0.0; 4];
            for c in 0..3 {
                let (mut across, mut down) = (0.0, 0.0);
                for (i, weight) in SMOOTH.iter().enumerate() {
                    across += weight * (at(i, 2, c) - at(i, 0, c));
                    down += weight * (at(2, i, c) - at(0, i, c));
                }
                tensor[0] += across * across;
                tensor[1] += across * down;
                tensor[2] += down * down;
                let around = [at(0, 1, c), at(2, 1, c), at(1, 0, c), at(1, 2, c)];
                tensor[3] +=
                    around.map(|other| (other - at(1, 1, c)).powi(2) / 2.0).iter().sum::<f32>();
            }
            tensor
        })
    };
    (0..rows).into_par_iter().flat_map_iter(of_row).collect()
}

/// λ₁ − λ₂ of a tensor, its larger eigenvalue less the smaller one; their sum is the tensor's trace.
pub(super) fn spread([across, mixed, down]: Tensor) -> f32 {
    ((across - down) * (across - down) + 4.0 * mixed * mixed).sqrt()
}

/// How far all around a place runs in one direction, in 0..=1.
pub(super) fn coherence(tensor: Tensor) -> f32 {
    spread(tensor) / (tensor[0] + tensor[2] + NOISE)
}

/// The weights of a Gaussian filter of this deviation, in steps, cut at two deviations; their sum is 1.
pub(super) fn gaussian(deviation: f32) -> Vec<f32> {
    let radius = (2.0 * deviation).ceil() as isize;
    let weight = |at: isize| (-0.5 * (at as f32 / deviation).powi(2)).exp();
    let sum: f32 = (-radius..=radius).map(weight).sum();
    (-radius..=radius).map(|at| weight(at) / sum).collect()
}
