//! Preview of a job: a small picture of the whole canvas, made of the clean latent that each step implies.
//!
//! A pass through the autoencoder would cost more than some steps and need its weights beside the denoiser's. A linear map
//! from a latent pixel and its four neighbours to colours needs neither; from the pixel alone where it has many channels. It
//! is fitted to the picture itself, whose pixels and latent are both at hand before the first step, so that it suits every
//! autoencoder.

use std::{collections::VecDeque, ops::Range};

use super::{canvased::Canvased, context::Context};
use crate::{
    canvas::Latent,
    image::ScreenColours,
    pipeline::{
        error::Error,
        plan::preview::PreviewScale,
        progress::{Preview, Progress, Stage},
    },
};

/// Cells that the map is fitted to along an axis, and bounds of the windows that they lie in.
const FITTED: usize = 96;
const WINDOWS: Range<usize> = 6..12;

/// A cell and its four neighbours.
const TAPS: usize = 5;

/// The most channels of latents with which neighbours are seen. Those with more hold a square of finer pixels in each of
/// theirs, and a map with five times as many inputs would take longer than a step.
const MOST_CHANNELS: usize = 64;

/// Weight of the condition that the map's factors be small, as a share of the mean square of its inputs.
const RIDGE: f64 = 1e-4;

/// A preview in the making. Rows of latents and of pixels are put into it from top to bottom.
pub struct PreviewCanvas {
    scale: PreviewScale,
    /// Height and width of the canvas in latent pixels, and the channels of one.
    latent: (usize, usize, usize),
    map: ColourMap,
    colours: ScreenColours,
    /// Sums of the latent rows of the line of cells that is not complete yet, `[C, cells]`.
    sums: Vec<f32>,
    /// Latent rows that have been put in.
    rows: usize,
    /// The last lines of cells, `[C, cells + 2]` with the ends repeated: at most three.
    lines: VecDeque<Vec<f32>>,
    rgb8: Vec<u8>,
}

impl PreviewCanvas {
    /// A grey preview of the job, with a map that is fitted to its input and `zl`, the input's latent.
    ///
    /// # Errors
    /// A size that the picture cannot be resized to.
    pub fn new(context: &Context<'_>, zl: &Latent) -> Result<Self, Error> {
        let geometry = &context.spec.plan.geometry;
        let scale = PreviewScale::new(geometry);
        let source =
            Canvased::new(context.source(), geometry.canvas.width, geometry.canvas.height)?;
        let (height, width) = scale.size;
        Ok(Self {
            scale,
            latent: (zl.height(), zl.width(), zl.channels()),
            map: ColourMap::fitted(scale, zl, &source),
            colours: context.picture.screen_colours(),
            sums: vec![0.0; zl.channels() * scale.cells.1],
            rows: 0,
            lines: VecDeque::new(),
            rgb8: vec![128; 3 * height * width],
        })
    }

    /// Puts in the next whole rows of a clean latent, `[rows, width, C]`; after the last one the first is next.
    pub fn put_latent(&mut self, values: impl IntoIterator<Item = f32>) {
        let (height, width, channels) = self.latent;
        let PreviewScale { latents, cells, .. } = self.scale;
        for (at, value) in values.into_iter().enumerate() {
            let (x, channel) = (at / channels % width, at % channels);
            self.sums[channel * cells.1 + x / latents] += value;
            if (x, channel) != (width - 1, channels - 1) {
                continue;
            }
            self.rows += 1;
            if self.rows.is_multiple_of(latents) || self.rows == height {
                self.end_line();
            }
        }
    }

    /// Ends a line of cells. A line is shown when the one below it is there, which its colours depend on.
    fn end_line(&mut self) {
        let (height, width, channels) = self.latent;
        let PreviewScale { latents, cells: (_, cells), .. } = self.scale;
        let index = self.rows.div_ceil(latents) - 1;
        let rows = self.rows - index * latents;
        let mut line = Vec::with_capacity(channels * (cells + 2));
        for sums in self.sums.chunks_exact(cells) {
            let mean = |cell: usize| {
                let columns = latents.min(width - cell * latents);
                sums[cell] / (rows * columns) as f32
            };
            line.push(mean(0));
            line.extend((0..cells).map(mean));
            line.push(mean(cells - 1));
        }
        self.sums.fill(0.0);
        if index == 0 {
            self.lines.clear();
            self.lines.push_back(line.clone());
        }
        self.lines.push_back(line);
        if let [above, line, below] = self.lines.make_contiguous() {
            let pixels = self.map.apply([above, line, below], cells);
            self.show_line(index - 1, pixels);
            self.lines.pop_front();
        }
        if self.rows == height {
            if let [above, line] = self.lines.make_contiguous() {
                let pixels = self.map.apply([above, line, line], cells);
                self.show_line(index, pixels);
            }
            self.rows = 0;
        }
    }

    /// Puts the planes of a line of cells, `[pixels², 3, cells]`, into the picture.
    fn show_line(&mut self, index: usize, planes: Vec<f32>) {
        let PreviewScale { pixels, cells: (_, cells), size: (height, width), .. } = self.scale;
        for sub in 0..pixels.min(height.saturating_sub(index * pixels)) {
            let row = (0..width).flat_map(|x| {
                let plane = (sub * pixels + x % pixels) * 3;
                let cell = x / pixels;
                [0, 1, 2].map(|colour| planes[(plane + colour) * cells + cell])
            });
            let row = row.collect();
            self.show_row(index * pixels + sub, row);
        }
    }

    /// Puts a row of working-space colours into the picture.
    fn show_row(&mut self, y: usize, mut row: Vec<f32>) {
        self.colours.apply(&mut row);
        for (out, value) in self.rgb8[y * row.len()..].iter_mut().zip(row) {
            // A cast from float cuts to the type's range.
            *out = (value * 255.0).round() as u8;
        }
    }

    /// Puts in decoded rows from row `top` of the output, `[rows, width, 3]` in 0..=1.
    pub fn put_pixels(&mut self, top: usize, rgb: &[f32], width: usize) {
        let ratio = self.scale.ratio;
        let columns = self.scale.size.1;
        let rows = rgb.len() / (3 * width);
        for y in top / ratio..(top + rows).div_ceil(ratio) {
            let inside = (y * ratio).max(top) - top..((y + 1) * ratio).min(top + rows) - top;
            let count = inside.len();
            let mut row = vec![0.0; 3 * columns];
            for line in
                rgb[inside.start * 3 * width..inside.end * 3 * width].chunks_exact(3 * width)
            {
                for (x, pixel) in line.chunks_exact(3).enumerate() {
                    let out = &mut row[3 * (x / ratio)..][..3];
                    out.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
                }
            }
            for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                let columns = ratio.min(width - x * ratio);
                pixel.iter_mut().for_each(|sum| *sum /= (count * columns) as f32);
            }
            self.show_row(y, row);
        }
    }

    /// Shows the preview after step `step` of `of`.
    pub fn show(&self, progress: &mut dyn Progress, stage: Stage, (step, of): (usize, usize)) {
        let (height, width) = self.scale.size;
        let (width, height) = (width as u32, height as u32);
        progress.preview(&Preview { stage, step, of, width, height, rgb8: &self.rgb8 });
    }
}

/// A linear map from a cell and its neighbours to the pixels of the preview that it covers.
struct ColourMap {
    /// `[taps · C + 1, outputs]`, a constant last; outputs are the pixels of a cell, row by row, three colours each.
    factors: Vec<f32>,
    outputs: usize,
    taps: usize,
}

impl ColourMap {
    /// The map with the least squared error between the latent `zl` and the picture that it was made of, on windows
    /// that are spread over them.
    fn fitted(scale: PreviewScale, zl: &Latent, source: &Canvased<'_>) -> Self {
        let taps = if zl.channels() > MOST_CHANNELS { 1 } else { TAPS };
        let (inputs, outputs) = (taps * zl.channels() + 1, 3 * scale.pixels.pow(2));
        let mut equations = Equations::new(inputs, outputs);
        let side = scale.window();
        let starts = |cells: usize| {
            let side = side.min(cells);
            let count = (FITTED / side).clamp(WINDOWS.start, WINDOWS.end).min(cells.div_ceil(side));
            let step = move |at: usize| at * (cells - side) / (count - 1).max(1);
            (0..count).map(move |at| step(at)..step(at) + side)
        };
        let means = |x: usize, y: usize| cell(scale, zl, (x, y));
        for ys in starts(scale.cells.0) {
            for xs in starts(scale.cells.1) {
                let in_pixels = |cells: &Range<usize>| {
                    let side = scale.ratio * scale.pixels;
                    cells.start * side..cells.end * side
                };
                let pixels = source.window(in_pixels(&xs), in_pixels(&ys));
                let row = xs.len() * scale.ratio * scale.pixels * 3;
                for (line, y) in ys.clone().enumerate() {
                    for (column, x) in xs.clone().enumerate() {
                        let (last_y, last_x) = (scale.cells.0 - 1, scale.cells.1 - 1);
                        let places = [
                            (x, y),
                            (x.saturating_sub(1), y),
                            ((x + 1).min(last_x), y),
                            (x, y.saturating_sub(1)),
                            (x, (y + 1).min(last_y)),
                        ];
                        let mut input: Vec<f32> =
                            places[..taps].iter().flat_map(|&(x, y)| means(x, y)).collect();
                        input.push(1.0);
                        let output = colours(scale, &pixels, row, (column, line));
                        equations.add(&input, &output);
                    }
                }
            }
        }
        Self { factors: equations.solved(), outputs, taps }
    }

    /// The planes `[outputs, cells]` of a line of cells between two others, each `[C, cells + 2]`.
    fn apply(&self, [above, line, below]: [&[f32]; 3], cells: usize) -> Vec<f32> {
        let mut out = vec![0.0f32; self.outputs * cells];
        let taps = [(line, 1), (line, 0), (line, 2), (above, 1), (below, 1)];
        let inputs = taps.into_iter().take(self.taps).flat_map(|(line, shift)| {
            line.chunks_exact(cells + 2).map(move |plane| &plane[shift..shift + cells])
        });
        let (factors, constant) = self.factors.split_at(self.factors.len() - self.outputs);
        for (plane, constant) in out.chunks_exact_mut(cells).zip(constant) {
            plane.fill(*constant);
        }
        for (input, factors) in inputs.zip(factors.chunks_exact(self.outputs)) {
            for (plane, factor) in out.chunks_exact_mut(cells).zip(factors) {
                plane.iter_mut().zip(input).for_each(|(sum, value)| *sum += factor * value);
            }
        }
        out
    }
}

/// The mean of the latent pixels of cell `(x, y)`.
fn cell(scale: PreviewScale, zl: &Latent, (x, y): (usize, usize)) -> Vec<f32> {
    let (side, channels) = (scale.latents, zl.channels());
    let rows = y * side..((y + 1) * side).min(zl.height());
    let columns = x * side..((x + 1) * side).min(zl.width());
    let count = (rows.len() * columns.len()) as f32;
    let mut mean = vec![0.0; channels];
    for y in rows {
        let row = &zl.rows(y..y + 1)[columns.start * channels..columns.end * channels];
        for pixel in row.chunks_exact(channels) {
            mean.iter_mut().zip(pixel).for_each(|(mean, value)| *mean += value / count);
        }
    }
    mean
}

/// The colours in 0..=1 of the preview's pixels in cell `(x, y)` of a window of the picture, whose values are those of
/// the VAE, −1..=1, and whose rows are `row` long.
fn colours(scale: PreviewScale, window: &[f32], row: usize, (x, y): (usize, usize)) -> Vec<f32> {
    let PreviewScale { pixels, ratio, .. } = scale;
    let mut out = vec![0.5; 3 * pixels * pixels];
    let share = 0.5 / (ratio * ratio) as f32;
    for (at, out) in out.chunks_exact_mut(3).enumerate() {
        let (left, top) = (x * pixels + at % pixels, y * pixels + at / pixels);
        for line in top * ratio..(top + 1) * ratio {
            let line = &window[line * row + left * ratio * 3..][..ratio * 3];
            for pixel in line.chunks_exact(3) {
                out.iter_mut().zip(pixel).for_each(|(mean, value)| *mean += share * value);
            }
        }
    }
    out
}

/// Normal equations of a least-squares problem, in f64.
struct Equations {
    inputs: usize,
    outputs: usize,
    /// `[inputs, inputs]`, of which the lower triangle is kept.
    matrix: Vec<f64>,
    /// `[inputs, outputs]`
    right: Vec<f64>,
}

impl Equations {
    fn new(inputs: usize, outputs: usize) -> Self {
        let (matrix, right) = (vec![0.0; inputs * inputs], vec![0.0; inputs * outputs]);
        Self { inputs, outputs, matrix, right }
    }

    /// Adds a sample.
    fn add(&mut self, input: &[f32], output: &[f32]) {
        let Self { inputs, outputs, .. } = *self;
        for (i, a) in input.iter().map(|&a| f64::from(a)).enumerate() {
            let row = &mut self.matrix[i * inputs..][..=i];
            row.iter_mut().zip(input).for_each(|(sum, &b)| *sum += a * f64::from(b));
            let row = &mut self.right[i * outputs..][..outputs];
            row.iter_mut().zip(output).for_each(|(sum, &b)| *sum += a * f64::from(b));
        }
    }

    /// The factors `[inputs, outputs]`, by Cholesky's decomposition.
    fn solved(mut self) -> Vec<f32> {
        let Self { inputs, outputs, ref mut matrix, ref mut right } = self;
        let trace: f64 = (0..inputs).map(|i| matrix[i * inputs + i]).sum();
        let ridge = RIDGE * trace / inputs as f64;
        for i in 0..inputs {
            matrix[i * inputs + i] += ridge.max(f64::MIN_POSITIVE);
            for j in 0..=i {
                let (row, other) = (&matrix[i * inputs..][..j], &matrix[j * inputs..][..j]);
                let sum: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                let left = matrix[i * inputs + j] - sum;
                matrix[i * inputs + j] =
                    if i == j { left.max(ridge).sqrt() } else { left / matrix[j * inputs + j] };
            }
        }
        // Forwards through the triangle, then backwards through its transpose.
        for output in 0..outputs {
            let at = |i: usize| i * outputs + output;
            for i in 0..inputs {
                let sum: f64 = (0..i).map(|j| matrix[i * inputs + j] * right[at(j)]).sum();
                right[at(i)] = (right[at(i)] - sum) / matrix[i * inputs + i];
            }
            for i in (0..inputs).rev() {
                let sum: f64 = (i + 1..inputs).map(|j| matrix[j * inputs + i] * right[at(j)]).sum();
                right[at(i)] = (right[at(i)] - sum) / matrix[i * inputs + i];
            }
        }
        right.iter().map(|&value| value as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{CHANNELS, FACTOR, Fake, context, job, picture},
        *,
    };
    use crate::pipeline::settings::Settings;

    /// Keeps what is shown.
    #[derive(Default)]
    struct Shown(Vec<(usize, u32, u32, Vec<u8>)>);

    impl Progress for Shown {
        fn begin(&mut self, _: Stage, _: usize) {}
        fn advance(&mut self, _: usize) {}
        fn note(&mut self, _: &str) {}
        fn preview(&mut self, preview: &Preview<'_>) {
            let &Preview { step, width, height, rgb8, .. } = preview;
            self.0.push((step, width, height, rgb8.to_vec()));
        }
    }

    #[test]
    fn equations_with_an_exact_solution_are_solved() {
        let mut equations = Equations::new(3, 2);
        for at in 0..40u16 {
            let (x, y) = (f32::from(at % 7) - 3.0, f32::from(at % 5) - 2.0);
            equations.add(&[x, y, 1.0], &[2.0 * x - y + 0.5, 0.25 * y - 1.0]);
        }
        let expected = [2.0, 0.0, -1.0, 0.25, 0.5, -1.0];
        for (got, want) in equations.solved().iter().zip(expected) {
            assert!((got - want).abs() < 2e-3, "{got} {want}");
        }
    }

    #[test]
    fn nothing_to_fit_gives_numbers_all_the_same() {
        let solved = Equations::new(4, 3).solved();
        assert!(solved.iter().all(|value| value.is_finite()), "{solved:?}");
    }

    #[test]
    fn a_latent_that_is_linear_in_the_picture_is_shown_as_the_picture() {
        // With neighbours, and with more channels than are seen with them.
        for channels in [CHANNELS, MOST_CHANNELS + 1] {
            linear_latents_are_shown(channels);
        }
    }

    fn linear_latents_are_shown(channels: usize) {
        let (picture, spec, runner) = (picture(), job(Settings::default()), Fake::idle());
        let context = context(&runner, &picture, &spec);
        let canvas = spec.plan.geometry.canvas;
        let source = Canvased::new(&picture, canvas.width, canvas.height).unwrap();
        let (height, width) = (canvas.latent_height, canvas.latent_width);
        // Each latent pixel holds the mean colour of its place, and noise in what channels are left.
        let mut zl = Latent::in_memory(height, width, channels).unwrap();
        for (at, pixel) in zl.as_mut_slice().chunks_exact_mut(channels).enumerate() {
            let (x, y) = (at % width * FACTOR, at / width * FACTOR);
            let pixels = source.window(x..x + FACTOR, y..y + FACTOR);
            for (channel, value) in pixel.iter_mut().enumerate() {
                let mean = |colour: usize| {
                    let sum: f32 = pixels.iter().skip(colour).step_by(3).sum();
                    sum / (FACTOR * FACTOR) as f32
                };
                *value = if channel < 3 { mean(channel) } else { (at * 31 % 17) as f32 / 17.0 };
            }
        }
        let mut preview = PreviewCanvas::new(&context, &zl).unwrap();
        let mut shown = Shown::default();
        for _ in 0..2 {
            preview.put_latent(zl.as_slice().iter().copied());
            preview.show(&mut shown, Stage::Denoise, (1, 2));
        }
        let [(step, preview_width, preview_height, first), (.., second)] = &shown.0[..] else {
            panic!("two previews");
        };
        assert_eq!((*step, first), (1, second), "the same latent gives the same picture");
        let ratio = preview.scale.ratio;
        assert_eq!(*preview_width as usize, canvas.width.div_ceil(ratio));
        assert_eq!(*preview_height as usize, canvas.height.div_ceil(ratio));
        // Means over cells are what the latent knows.
        let side = FACTOR / ratio;
        let columns = *preview_width as usize;
        for cell_y in 0..*preview_height as usize / side {
            for cell_x in 0..columns / side {
                for colour in 0..3 {
                    let places = (0..side * side).map(|at| (at / side, at % side));
                    let sum: f32 = places
                        .map(|(y, x)| {
                            let at = (cell_y * side + y) * columns + cell_x * side + x;
                            f32::from(first[3 * at + colour]) / 255.0
                        })
                        .sum();
                    let latent = zl.rows(cell_y..cell_y + 1)[cell_x * channels + colour];
                    let (mean, expected) = (sum / (side * side) as f32, latent * 0.5 + 0.5);
                    assert!(
                        (mean - expected).abs() < 0.06,
                        "{cell_x}, {cell_y}: {mean} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn decoded_rows_are_shown_as_they_are() {
        let (picture, spec, runner) = (picture(), job(Settings::default()), Fake::idle());
        let context = context(&runner, &picture, &spec);
        let canvas = spec.plan.geometry.canvas;
        let zl = Latent::in_memory(canvas.latent_height, canvas.latent_width, CHANNELS).unwrap();
        let mut preview = PreviewCanvas::new(&context, &zl).unwrap();
        let (width, height) = (canvas.width, canvas.height);
        let rgb: Vec<f32> = (0..3 * width * height).map(|at| (at % 256) as f32 / 255.0).collect();
        // In bands that no preview row begins with.
        for top in (0..height).step_by(7) {
            let rows = 3 * width * top..3 * width * (top + 7).min(height);
            preview.put_pixels(top, &rgb[rows], width);
        }
        if preview.scale.ratio == 1 {
            let expected: Vec<u8> = (0..3 * width * height).map(|at| (at % 256) as u8).collect();
            assert_eq!(preview.rgb8, expected);
        } else {
            panic!("so small an output is shown at full size");
        }
    }
}
