//! Coherence-enhancing filtering: what runs in lines, as fur, bristles and edges do, is smoothed along the lines of the input and
//! made steeper across them. A network that guesses texture breaks such lines into scales and lets edges waver; the input
//! still knows which way they run.
//!
//! Sources: Weickert 1999, "Coherence-enhancing diffusion filtering" (the structure tensor and its coherence); Kyprianidis and
//! Kang 2011, "Image and video abstraction by coherence-enhancing filtering" (smoothing along stream lines, a shock across them).

use std::ops::Range;

use rayon::prelude::*;

use super::{
    blend::light,
    protect::ramp,
    structure::{self, Cells, Structure, Tensor, gaussian},
};

/// Coherence up to which a place has no lines, and from which it has nothing else.
const COHERENT: (f32, f32) = (0.3, 0.7);
/// Standard deviation of the weights along a line, in steps of half a cell, and the steps to each side at which they are cut.
const STEP_DEVIATION: f32 = 2.5;
const STEPS: usize = (2.0 * STEP_DEVIATION) as usize;
/// How much steeper the lines become: strength of an unsharp mask across them that stays within what it sees.
const SHOCK: f32 = 0.4;
/// What smooths the tensors before a line is told from them.
const BINOMIAL: [f32; 5] = [1.0 / 16.0, 4.0 / 16.0, 6.0 / 16.0, 4.0 / 16.0, 1.0 / 16.0];

/// The filter of an output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coherence {
    structure: Structure,
    /// Share of the filter's result where all runs in one direction, in 0..=1.
    strength: f32,
}

impl Coherence {
    /// Cells on each side of one on which its line depends: two for the smoothing, one for differences.
    pub const CELLS: usize = BINOMIAL.len() / 2 + 1;

    /// For an input and an output of these widths and heights; `None` where nothing is filtered. `amount` is the strength, in
    /// 0..=1, as far as the output is larger than the input ([`Structure::new`]).
    pub fn new(input: (usize, usize), output: (usize, usize), amount: f64) -> Option<Self> {
        let (structure, share) = Structure::new(input, output);
        let strength = (amount * share) as f32;
        (strength > 0.0).then_some(Self { structure, strength })
    }

    /// Pixels of the picture within which a pixel is looked at.
    pub fn radius(self) -> usize {
        let along = (STEPS * self.structure.cell).div_ceil(2) + 1;
        let across = self.structure.cell + 1;
        along + across
    }

    /// The lines of the pixels in these columns and rows of the output, from the input's tensors, of which those are right that
    /// lie [`CELLS`](Self::CELLS) around them.
    pub fn lines(self, tensors: &Cells<4>, columns: &Range<usize>, rows: &Range<usize>) -> Lines {
        let tensors = tensors.map(|[across, mixed, down, _]| [across, mixed, down]);
        let tensors = tensors.smoothed(&BINOMIAL);
        let line = |tensor| Line::of(tensor, self.strength);
        let of_pixels = self.structure.at_pixels(&tensors, columns, rows, line);
        Lines { width: columns.len(), of_pixels }
    }

    /// Filters `picture`, `[rows, columns, 3]` in −1…1, along the lines of its pixels. The result is invalid within
    /// [`radius`](Self::radius) of a border past which the picture goes on.
    pub fn apply(self, picture: &mut [f32], lines: &Lines) {
        if lines.of_pixels.is_empty() {
            return;
        }
        let cell = self.structure.cell;
        let step = cell as f32 / 2.0;
        let weights = gaussian(STEP_DEVIATION);
        let weights = &weights[STEPS..];
        lines.each(picture, |window, at, line| window.along(at, line, step, weights));
        let weights = gaussian(step);
        let weights = &weights[cell..];
        lines.each(picture, |window, at, line| window.across(at, line, weights));
    }
}

/// The line through a pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Line {
    /// Its direction, of length 1: across and down.
    x: f32,
    y: f32,
    /// Share of the filter's result here, in 0..=1.
    share: f32,
}

impl Line {
    /// The direction in which the differences are least, and how much less they are there than in the other.
    fn of(tensor: Tensor, strength: f32) -> Self {
        let ([across, mixed, down], spread) = (tensor, structure::spread(tensor));
        // Of both forms of the eigenvector the one without a difference of like numbers.
        let (x, y) = if across >= down {
            (2.0 * mixed, down - across - spread)
        } else {
            (across - down - spread, 2.0 * mixed)
        };
        let length = (x * x + y * y).sqrt();
        if length == 0.0 {
            return Self::default();
        }
        let share = strength * ramp(structure::coherence(tensor), COHERENT);
        Self { x: x / length, y: y / length, share }
    }
}

/// The lines through the pixels of a window.
#[derive(Debug)]
pub(super) struct Lines {
    width: usize,
    /// Row by row; none where the window is smaller than a cell.
    of_pixels: Vec<Line>,
}

/// A picture in the window of its lines, `[height, width, 3]`.
struct Window<'a> {
    lines: &'a Lines,
    values: &'a [f32],
}

impl Lines {
    /// Makes the pixels of `picture` that lie on lines anew, from their place and line.
    fn each(
        &self,
        picture: &mut [f32],
        pixel: impl Fn(&Window<'_>, (usize, usize), Line) -> [f32; 3] + Sync,
    ) {
        let before = picture.to_vec();
        let window = Window { lines: self, values: &before };
        let rows = picture.par_chunks_mut(3 * self.width);
        let rows = rows.zip(self.of_pixels.par_chunks(self.width));
        rows.enumerate().for_each(|(y, (row, lines))| {
            for (x, (out, line)) in row.chunks_exact_mut(3).zip(lines).enumerate() {
                if line.share > 0.0 {
                    out.copy_from_slice(&pixel(&window, (x, y), *line));
                }
            }
        });
    }

    /// The place at this distance of a pixel, or the nearest one of the window.
    fn near(&self, (x, y): (usize, usize), (across, down): (f32, f32)) -> (usize, usize) {
        let kept = |at: usize, by: f32, length: usize| {
            at.saturating_add_signed(by as isize).min(length - 1)
        };
        let height = self.of_pixels.len() / self.width;
        (kept(x, across, self.width), kept(y, down, height))
    }
}

impl Window<'_> {
    fn pixel(&self, (x, y): (usize, usize)) -> [f32; 3] {
        let at = 3 * (y * self.lines.width + x);
        [self.values[at], self.values[at + 1], self.values[at + 2]]
    }

    /// The value at this distance of a pixel, bilinearly. Distances are small numbers wherever the window lies, so that the
    /// value is the same to the bit in each.
    fn sample(&self, at: (usize, usize), (across, down): (f32, f32)) -> [f32; 3] {
        let (left, above) = (across.floor(), down.floor());
        let (share_across, share_down) = (across - left, down - above);
        let near =
            |right: f32, below: f32| self.pixel(self.lines.near(at, (left + right, above + below)));
        let (a, b, c, d) = (near(0.0, 0.0), near(1.0, 0.0), near(0.0, 1.0), near(1.0, 1.0));
        std::array::from_fn(|i| {
            let upper = a[i] + share_across * (b[i] - a[i]);
            let lower = c[i] + share_across * (d[i] - c[i]);
            upper + share_down * (lower - upper)
        })
    }

    /// The pixel with its line's share of the mean along the line, by the weights of this place and of those further away.
    fn along(&self, at: (usize, usize), line: Line, step: f32, weights: &[f32]) -> [f32; 3] {
        let here = self.pixel(at);
        let mut sum = here.map(|value| weights[0] * value);
        for side in [1.0, -1.0] {
            let mut place = (0.0f32, 0.0f32);
            let mut direction = (side * line.x, side * line.y);
            for weight in &weights[1..] {
                place = (place.0 + step * direction.0, place.1 + step * direction.1);
                let value = self.sample(at, place);
                sum.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
                let nearest = ((place.0 + 0.5).floor(), (place.1 + 0.5).floor());
                let (x, y) = self.lines.near(at, nearest);
                let Line { x, y, .. } = self.lines.of_pixels[y * self.lines.width + x];
                // A line has no beginning and no end: on in the direction that turns least.
                let on = if x * direction.0 + y * direction.1 < 0.0 { -1.0 } else { 1.0 };
                direction = (on * x, on * y);
            }
        }
        std::array::from_fn(|i| here[i] + line.share * (sum[i] - here[i]))
    }

    /// The pixel made steeper across its line, within the values that are there; weights as of [`along`](Self::along).
    fn across(&self, at: (usize, usize), line: Line, weights: &[f32]) -> [f32; 3] {
        let here = self.pixel(at);
        let (mut sum, mut least, mut most) = (here.map(|value| weights[0] * value), here, here);
        for (step, weight) in weights.iter().enumerate().skip(1) {
            for far in [step as f32, -(step as f32)] {
                let value = self.sample(at, (-far * line.y, far * line.x));
                for (i, value) in value.into_iter().enumerate() {
                    sum[i] += weight * value;
                    least[i] = least[i].min(value);
                    most[i] = most[i].max(value);
                }
            }
        }
        let more = SHOCK * line.share * (light(here) - light(sum));
        std::array::from_fn(|i| (here[i] + more).clamp(least[i], most[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::reference::{WIDTH, close, tensor};

    /// The lines of a whole picture.
    fn lines(filter: Coherence, source: &[f32], (width, height): (usize, usize)) -> Lines {
        let (columns, rows) = (0..width, 0..height);
        let tensors = filter.structure.tensors(source, &columns, &rows);
        filter.lines(&tensors, &columns, &rows)
    }

    /// Some picture of this width: waves that turn slowly, and noise.
    fn waves(width: usize, height: usize) -> Vec<f32> {
        let pixel = |at: usize| {
            let (x, y) = ((at / 3 % width) as f32, (at / 3 / width) as f32);
            let noise = (at as f32 * 12.9898).sin() * 43758.547;
            0.5 * (0.4 * x + 0.2 * y + 0.005 * x * y).sin() + 0.2 * (noise - noise.floor()) - 0.1
        };
        (0..3 * width * height).map(pixel).collect()
    }

    #[test]
    fn the_filter_is_that_of_the_reference() {
        let (picture, source) = (tensor("picture"), tensor("source"));
        let height = picture.len() / 3 / WIDTH;
        for (scale, name) in [(4, "coherence"), (2, "coherence_of_2")] {
            let input = (WIDTH / scale, height / scale);
            let filter = Coherence::new(input, (WIDTH, height), 0.8).unwrap();
            let mut ours = picture.clone();
            filter.apply(&mut ours, &lines(filter, &source, (WIDTH, height)));
            assert!(ours.iter().zip(&picture).any(|(a, b)| (a - b).abs() > 0.1));
            close(&ours, &tensor(name), 1e-4);
        }
    }

    #[test]
    fn broken_lines_are_joined_and_edges_become_steep_without_a_halo() {
        // Stripes that fall by one in three, as the input has them, and a repaint of it that is broken into pieces.
        let (width, height) = (96, 96);
        let phase = |at: usize| ((at % width) as f32 + 3.0 * (at / width) as f32) * 0.15;
        let source: Vec<f32> =
            (0..width * height).flat_map(|at| [0.5 * phase(at).sin(); 3]).collect();
        let broken = |at: usize| {
            if (at % width / 6 + at / width / 6).is_multiple_of(2) { 0.2 } else { -0.2 }
        };
        let mut picture: Vec<f32> =
            (0..width * height).flat_map(|at| [0.5 * phase(at).sin() + broken(at); 3]).collect();
        let inner = || (24..72).flat_map(|y| (24..72).map(move |x| 3 * (y * width + x)));
        let roughness = |picture: &[f32]| {
            inner().map(|at| (picture[at] - picture[at + 9 - 3 * width]).abs()).sum::<f32>()
        };
        let (before, highest) = (roughness(&picture), 0.7);
        let filter = Coherence::new((24, 24), (width, height), 1.0).unwrap();
        filter.apply(&mut picture, &lines(filter, &source, (width, height)));
        assert!(roughness(&picture) < 0.5 * before, "{} of {before}", roughness(&picture));
        assert!(picture.iter().all(|value| value.abs() <= highest));
    }

    #[test]
    fn what_has_no_lines_stays_to_the_bit() {
        let (width, height) = (40, 40);
        let picture = waves(width, height);
        // Nothing, noise of less than a level, and a dot, whose middle has all directions.
        let mut dot = vec![0.0f32; picture.len()];
        dot[3 * (20 * width + 20)..][..3].fill(0.5);
        let faint = waves(width, height).iter().map(|value| value * 0.002).collect();
        for source in [vec![0.3; picture.len()], faint, dot] {
            let mut filtered = picture.clone();
            let filter = Coherence::new((20, 20), (width, height), 1.0).unwrap();
            filter.apply(&mut filtered, &lines(filter, &source, (width, height)));
            let at = 3 * (20 * width + 20);
            assert_eq!(filtered[at..at + 3], picture[at..at + 3]);
        }
    }

    #[test]
    fn the_strength_falls_to_nothing_at_the_inputs_own_size() {
        let new = |input, output, amount| Coherence::new(input, output, amount);
        for (input, output, amount, cell, strength) in [
            ((10, 10), (40, 40), 0.5, 4, 0.5),
            ((10, 10), (200, 200), 1.0, 4, 1.0),
            ((10, 10), (15, 40), 1.0, 2, 0.5),
        ] {
            let filter = new(input, output, amount).unwrap();
            assert_eq!((filter.structure.cell, filter.strength), (cell, strength));
        }
        assert!(new((10, 10), (10, 40), 1.0).is_none() && new((5, 5), (20, 20), 0.0).is_none());
    }

    #[test]
    fn a_window_with_its_rim_has_the_values_of_the_whole() {
        for (input, output) in [((30, 26), (118, 103)), ((50, 50), (100, 100))] {
            let filter = Coherence::new(input, output, 0.9).unwrap();
            let (width, height) = output;
            let source = waves(width, height);
            let before: Vec<f32> = source.iter().rev().copied().collect();
            let mut expected = before.clone();
            filter.apply(&mut expected, &lines(filter, &source, (width, height)));
            let radius = filter.radius();
            for (columns, rows) in [(9..width, 0..90), (0..91, 27..height), (5..98, 4..99)] {
                let cut = |picture: &[f32], columns: &Range<usize>, rows: &Range<usize>| {
                    let row = |y: usize| &picture[3 * (y * width + columns.start)..];
                    let row = |y: usize| row(y)[..3 * columns.len()].to_vec();
                    rows.clone().flat_map(row).collect::<Vec<f32>>()
                };
                let mut window = cut(&before, &columns, &rows);
                let structure = filter.structure;
                let (across, down) = structure.around(Coherence::CELLS, &columns, &rows);
                let tensors = structure.tensors(&cut(&source, &across, &down), &across, &down);
                filter.apply(&mut window, &filter.lines(&tensors, &columns, &rows));
                let inner = |range: &Range<usize>, end: usize| {
                    let start = if range.start == 0 { 0 } else { range.start + radius };
                    start..if range.end == end { end } else { range.end - radius }
                };
                let mut seen = 0;
                for y in inner(&rows, height) {
                    for x in inner(&columns, width) {
                        let ours = &window
                            [3 * ((y - rows.start) * columns.len() + x - columns.start)..][..3];
                        assert_eq!(ours, &expected[3 * (y * width + x)..][..3], "{x}, {y}");
                        seen += 1;
                    }
                }
                assert!(seen > 50, "{seen}");
            }
        }
    }
}
