//! Back-projection (Irani and Peleg 1991, one iteration): the output, reduced again by area, is brought back to the input. What a
//! repaint moves in an input's pixel as a whole is no detail that it could have added; within the pixel it stays free.

use std::ops::Range;

use rayon::prelude::*;

/// How the pixels of an input lie in its output, and how far the output follows them.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackProjection {
    /// Width and height of the input.
    input: (usize, usize),
    /// Width and height of the output.
    output: (usize, usize),
    /// Share of the difference that is given back, in 0..=1.
    weight: f32,
}

/// Pixels of the input, `[rows, columns, 3]` in −1…1.
#[derive(Clone, Debug)]
pub(super) struct InputPixels {
    pub columns: Range<usize>,
    pub rows: Range<usize>,
    pub values: Vec<f32>,
}

impl BackProjection {
    /// For an input and an output of these widths and heights; `None` where nothing is given back. `fidelity` is the share, in
    /// 0..=1, of an output of at least twice the size; it falls with the scale to nothing at the input's own size, where all that
    /// is left of a repaint would be the input.
    pub fn new(input: (usize, usize), output: (usize, usize), fidelity: f64) -> Option<Self> {
        let full = Self { input, output, weight: 1.0 };
        let (across, down) = full.scales();
        let weight = (fidelity * (across.min(down) - 1.0).clamp(0.0, 1.0)) as f32;
        (weight > 0.0).then_some(Self { weight, ..full })
    }

    /// Pixels of the output within which a pixel is looked at: the whole of the input's pixels between whose middles it lies.
    pub fn radius(self) -> usize {
        let (across, down) = self.scales();
        (2.0 * f64::max(across, down)).ceil() as usize + 1
    }

    /// Pixels of the input that lie wholly within these columns and rows of the output.
    pub fn inside(
        self,
        columns: &Range<usize>,
        rows: &Range<usize>,
    ) -> (Range<usize>, Range<usize>) {
        let (across, down) = self.scales();
        (
            whole(columns, across, (self.input.0, self.output.0)),
            whole(rows, down, (self.input.1, self.output.1)),
        )
    }

    /// Gives `picture`, `[height, width, 3]` in −1…1, whose first pixel is at this row and column of the output, what its areas
    /// lack of the input's pixels, bilinearly. The result is invalid within [`radius`](Self::radius) of a border past which the
    /// picture goes on.
    pub fn apply(
        self,
        picture: &mut [f32],
        (top, left): (usize, usize),
        width: usize,
        input: &InputPixels,
    ) {
        if input.rows.is_empty() || input.columns.is_empty() {
            return;
        }
        let (across, down) = self.scales();
        let lacking = self.lacking(picture, (top, left), width, input);
        let count = input.columns.len();
        let columns: Vec<_> =
            (0..width).map(|x| Between::new(left + x, across, &input.columns)).collect();
        picture.par_chunks_mut(3 * width).enumerate().for_each(|(y, line)| {
            let row = Between::new(top + y, down, &input.rows);
            let (above, below) =
                (&lacking[3 * count * row.first..], &lacking[3 * count * row.second..]);
            for (pixel, column) in line.chunks_exact_mut(3).zip(&columns) {
                for (c, value) in pixel.iter_mut().enumerate() {
                    let at = |row: &[f32]| {
                        column.mix(row[3 * column.first + c], row[3 * column.second + c])
                    };
                    *value += self.weight * row.mix(at(above), at(below));
                }
            }
        });
    }

    /// Pixels of the output for one of the input, across and down.
    fn scales(self) -> (f64, f64) {
        let scale = |output: usize, input: usize| output as f64 / input as f64;
        (scale(self.output.0, self.input.0), scale(self.output.1, self.input.1))
    }

    /// What the means of the areas of `picture` lack of the input's pixels, `[rows, columns, 3]`.
    fn lacking(
        self,
        picture: &[f32],
        (top, left): (usize, usize),
        width: usize,
        input: &InputPixels,
    ) -> Vec<f32> {
        let (across, down) = self.scales();
        let columns: Vec<Area> =
            input.columns.clone().map(|at| Area::new(at, across, self.output.0)).collect();
        let mut lacking = input.values.clone();
        let lines = lacking.par_chunks_mut(3 * columns.len());
        lines.zip(input.rows.clone()).for_each(|(line, row)| {
            let area = Area::new(row, down, self.output.1);
            let mut sums = vec![0.0f32; 3 * width];
            for (y, weight) in area.weights() {
                let values = &picture[3 * width * (y - top)..][..3 * width];
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
            }
            for (pixel, area) in line.chunks_exact_mut(3).zip(&columns) {
                for (x, weight) in area.weights() {
                    let values = &sums[3 * (x - left)..];
                    pixel.iter_mut().zip(values).for_each(|(left, value)| *left -= weight * value);
                }
            }
        });
        lacking
    }
}

/// Pixels of the input that lie wholly within a range of the output's.
fn whole(range: &Range<usize>, scale: f64, (input, output): (usize, usize)) -> Range<usize> {
    // Products that are whole but for their last bits count as whole.
    let first = ((range.start as f64 / scale) - 1e-9).ceil().max(0.0) as usize;
    let end = if range.end == output {
        input
    } else {
        ((range.end as f64 / scale) + 1e-9).floor() as usize
    };
    first.min(end)..end.min(input)
}

/// The area of one of the input's pixels along an axis of the output.
struct Area {
    first: usize,
    /// Share of the area that the first and the last pixel have, and those between them.
    shares: [f32; 3],
    /// Pixels that it touches.
    length: usize,
}

impl Area {
    fn new(at: usize, scale: f64, output: usize) -> Self {
        let (start, end) = (at as f64 * scale, ((at + 1) as f64 * scale).min(output as f64));
        // What is whole but for its last bits touches no further pixel.
        let first = (start + 1e-9).floor();
        let last = ((end - 1e-9).ceil() - 1.0).max(first);
        let length = (last - first) as usize + 1;
        let share = |part: f64| (part / (end - start)) as f32;
        let shares = match length {
            1 => [1.0; 3],
            _ => [share(first + 1.0 - start), share(end - last), share(1.0)],
        };
        Self { first: first as usize, shares, length }
    }

    /// The pixels that it touches, each with its share.
    fn weights(&self) -> impl Iterator<Item = (usize, f32)> + '_ {
        (0..self.length).map(|at| {
            let [first, last, between] = self.shares;
            let share = match at {
                0 => first,
                at if at + 1 == self.length => last,
                _ => between,
            };
            (self.first + at, share)
        })
    }
}

/// The two pixels of the input between whose middles one of the output lies; places in a range of them.
struct Between {
    first: usize,
    second: usize,
    share: f32,
}

impl Between {
    fn new(at: usize, scale: f64, range: &Range<usize>) -> Self {
        let place = (at as f64 + 0.5) / scale - 0.5;
        let before = place.floor();
        let kept = |place: f64| {
            (place.max(range.start as f64) as usize).min(range.end.saturating_sub(1)) - range.start
        };
        Self { first: kept(before), second: kept(before + 1.0), share: (place - before) as f32 }
    }

    fn mix(&self, first: f32, second: f32) -> f32 {
        first + self.share * (second - first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some picture.
    fn noise(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|at| (at as f32 * 12.9898 + seed).sin() * 0.7).collect()
    }

    fn all(columns: usize, rows: usize, values: Vec<f32>) -> InputPixels {
        InputPixels { columns: 0..columns, rows: 0..rows, values }
    }

    /// Means of the areas of `picture`, by a literal sum over pixels.
    fn reduced(picture: &[f32], output: (usize, usize), input: (usize, usize)) -> Vec<f64> {
        let overlap = |at: usize, cell: usize, scale: f64| {
            let (start, end) = (cell as f64 * scale, (cell + 1) as f64 * scale);
            (f64::min(end, at as f64 + 1.0) - f64::max(start, at as f64)).max(0.0) / scale
        };
        let scales = (output.0 as f64 / input.0 as f64, output.1 as f64 / input.1 as f64);
        let mut means = vec![0.0; 3 * input.0 * input.1];
        for (at, mean) in means.iter_mut().enumerate() {
            let (row, column, c) = (at / 3 / input.0, at / 3 % input.0, at % 3);
            for y in 0..output.1 {
                for x in 0..output.0 {
                    let share = overlap(y, row, scales.1) * overlap(x, column, scales.0);
                    *mean += share * f64::from(picture[3 * (y * output.0 + x) + c]);
                }
            }
        }
        means
    }

    #[test]
    fn an_output_comes_near_its_input_and_one_that_is_there_stays() {
        for (input, output) in [((6, 5), (24, 20)), ((7, 4), (23, 13)), ((5, 6), (10, 18))] {
            let pixels = noise(3 * input.0 * input.1, 1.0);
            let mut picture = noise(3 * output.0 * output.1, 2.0);
            let projection = BackProjection::new(input, output, 1.0).unwrap();
            let far = |picture: &[f32]| {
                let means = reduced(picture, output, input);
                let far = means.iter().zip(&pixels).map(|(a, b)| (a - f64::from(*b)).powi(2));
                (far.sum::<f64>() / means.len() as f64).sqrt()
            };
            let before = far(&picture);
            let given = all(input.0, input.1, pixels.clone());
            projection.apply(&mut picture, (0, 0), output.0, &given);
            assert!(far(&picture) < 0.6 * before, "{input:?}: {} of {before}", far(&picture));
            // Of a picture's own means nothing is lacking.
            let own = reduced(&picture, output, input).into_iter().map(|mean| mean as f32);
            let mut same = picture.clone();
            let given = all(input.0, input.1, own.collect());
            projection.apply(&mut same, (0, 0), output.0, &given);
            assert!(same.iter().zip(&picture).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }

    #[test]
    fn an_iteration_is_that_of_the_reference() {
        use crate::pipeline::reference::{WIDTH, close, tensor};
        let (mut picture, small) = (tensor("picture"), tensor("small"));
        let (width, height) = (WIDTH / 4, picture.len() / 3 / WIDTH / 4);
        let projection = BackProjection::new((width, height), (WIDTH, 4 * height), 1.0).unwrap();
        projection.apply(&mut picture, (0, 0), WIDTH, &all(width, height, small));
        close(&picture, &tensor("back_projection"), 1e-5);
    }

    #[test]
    fn a_constant_difference_is_given_back_by_its_weight() {
        let input = all(3, 3, vec![0.5; 27]);
        for (fidelity, output, expected) in [(1.0, 12, 0.5), (0.5, 12, 0.25), (1.0, 4, 0.5 / 3.0)] {
            let mut picture = vec![0.0; 3 * output * output];
            let projection = BackProjection::new((3, 3), (output, output), fidelity).unwrap();
            projection.apply(&mut picture, (0, 0), output, &input);
            assert!(picture.iter().all(|value| (value - expected).abs() < 1e-6), "{picture:?}");
        }
        for (input, output, fidelity) in
            [((4, 4), (4, 4), 1.0), ((4, 4), (3, 9), 1.0), ((4, 4), (16, 16), 0.0)]
        {
            assert!(BackProjection::new(input, output, fidelity).is_none());
        }
    }

    #[test]
    fn a_window_with_its_rim_has_the_values_of_the_whole() {
        for (input, output) in [((16, 12), (64, 48)), ((17, 12), (57, 41))] {
            let projection = BackProjection::new(input, output, 0.8).unwrap();
            let pixels = noise(3 * input.0 * input.1, 1.0);
            let before = noise(3 * output.0 * output.1, 2.0);
            let mut expected = before.clone();
            projection.apply(
                &mut expected,
                (0, 0),
                output.0,
                &all(input.0, input.1, pixels.clone()),
            );
            for (columns, rows) in [(9..output.0, 0..30), (0..31, 7..output.1), (5..40, 4..33)] {
                let line =
                    |y: usize| 3 * (y * output.0 + columns.start)..3 * (y * output.0 + columns.end);
                let mut window: Vec<f32> =
                    rows.clone().flat_map(|y| before[line(y)].to_vec()).collect();
                let (of_columns, of_rows) = projection.inside(&columns, &rows);
                let cut = |row: usize| {
                    3 * (row * input.0 + of_columns.start)..3 * (row * input.0 + of_columns.end)
                };
                let values = of_rows.clone().flat_map(|row| pixels[cut(row)].to_vec()).collect();
                let given = InputPixels { columns: of_columns.clone(), rows: of_rows, values };
                projection.apply(&mut window, (rows.start, columns.start), columns.len(), &given);
                let radius = projection.radius();
                let inner = |range: &Range<usize>, end: usize| {
                    let start = if range.start == 0 { 0 } else { range.start + radius };
                    start..if range.end == end { end } else { range.end - radius }
                };
                let mut seen = 0;
                for y in inner(&rows, output.1) {
                    for x in inner(&columns, output.0) {
                        let ours = &window
                            [3 * ((y - rows.start) * columns.len() + x - columns.start)..][..3];
                        assert_eq!(ours, &expected[3 * (y * output.0 + x)..][..3], "{x}, {y}");
                        seen += 1;
                    }
                }
                assert!(seen > 50, "{seen}");
            }
        }
    }
}
