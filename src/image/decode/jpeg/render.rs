//! Pixels from coefficients, for the kinds of JPEG that the fast decoder gets wrong: scans of single
//! components with subsampling, unusual sampling factors, 12 bits, and files that end early. Chroma is enlarged as libjpeg
//! does it: linearly by factors of two, in blocks by others.
//! Source: ITU-T T.81, A.3.3 (inverse transform); JFIF 1.02 (colour); libjpeg's jdsample.c.

use std::collections::VecDeque;

use super::entropy::ZIGZAG;
use super::frame::{Colour, Frame};
use super::walk::Coefficients;
use crate::image::error::Result;

/// A decoder of rows.
pub(super) struct Render<'a> {
    frame: &'a Frame,
    coefficients: &'a Coefficients<[i16; 64]>,
    colour: Colour,
    basis: [[f32; 8]; 8],
    windows: Vec<Window>,
}

/// Rows of blocks of one component, as samples, that are needed next.
struct Window {
    /// Samples are enlarged linearly.
    linear: bool,
    first: usize,
    rows: VecDeque<Vec<f32>>,
    /// For each pixel across: two samples, and the share of the second.
    taps: Vec<(usize, usize, f32)>,
}

impl<'a> Render<'a> {
    pub(super) fn new(
        frame: &'a Frame,
        coefficients: &'a Coefficients<[i16; 64]>,
        colour: Colour,
    ) -> Self {
        let windows = (0..frame.components.len()).map(|c| {
            let linear = is_linear(frame, c);
            let (h, across) = (frame.components[c].h, frame.samples(c).0);
            let taps = (0..frame.width).map(|x| tap(x, (h, frame.h_max), across, linear));
            Window { linear, first: 0, rows: VecDeque::new(), taps: taps.collect() }
        });
        Self { frame, coefficients, colour, basis: basis(), windows: windows.collect() }
    }

    /// The first `rows` rows, one after the other, interleaved, in [0, 1].
    pub(super) fn rows(
        mut self,
        rows: usize,
        take: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let channels = self.frame.components.len();
        let mut out = vec![0.0; self.frame.width * channels];
        for y in 0..rows {
            for c in 0..channels {
                self.channel(y, c, rows, &mut out);
            }
            self.colour(&mut out);
            take(&out)?;
        }
        Ok(())
    }

    /// Samples of component `c` in row `y` of a picture that ends after `rows`, into every n-th place of `out`.
    fn channel(&mut self, y: usize, c: usize, rows: usize, out: &mut [f32]) {
        let frame = self.frame;
        let v = frame.components[c].v;
        let down = (rows * v).div_ceil(frame.v_max);
        let (upper, lower, share) = tap(y, (v, frame.v_max), down, self.windows[c].linear);
        self.load(c, upper / 8, lower / 8);
        let window = &self.windows[c];
        let stride = frame.stored_blocks(c).0 * 8;
        let line = |y: usize| &window.rows[y / 8 - window.first][y % 8 * stride..][..stride];
        let (upper, lower) = (line(upper), line(lower));
        let places = out.iter_mut().skip(c).step_by(frame.components.len());
        for (place, &(left, right, part)) in places.zip(&window.taps) {
            let column = |x: usize| upper[x] + (lower[x] - upper[x]) * share;
            let (left, right) = (column(left), column(right));
            *place = left + (right - left) * part;
        }
    }

    /// Makes the window of `c` hold the rows of blocks from `first` to `last`.
    fn load(&mut self, c: usize, first: usize, last: usize) {
        while self.windows[c].first < first {
            self.windows[c].rows.pop_front();
            self.windows[c].first += 1;
        }
        while self.windows[c].first + self.windows[c].rows.len() <= last {
            let next = self.windows[c].first + self.windows[c].rows.len();
            let row = self.block_row(c, next);
            self.windows[c].rows.push_back(row);
        }
    }

    /// Samples of a row of blocks, eight lines of them.
    fn block_row(&self, c: usize, row: usize) -> Vec<f32> {
        let across = self.frame.stored_blocks(c).0;
        let table = &self.coefficients.tables[c];
        let blocks = &self.coefficients.blocks[c][row * across..][..across];
        let mut samples = vec![0.0; across * 64];
        let maximum = self.maximum();
        let middle = (maximum + 1.0) / 2.0;
        for (x, block) in blocks.iter().enumerate() {
            let mut scaled = [[0.0f32; 8]; 8];
            for ((&place, &value), &scale) in ZIGZAG.iter().zip(block).zip(table) {
                scaled[usize::from(place / 8)][usize::from(place % 8)] =
                    f32::from(value) * f32::from(scale);
            }
            let pixels = self.inverse(&scaled);
            for (y, line) in pixels.iter().enumerate() {
                let out = &mut samples[y * across * 8 + x * 8..][..8];
                for (out, value) in out.iter_mut().zip(line) {
                    *out = (value + middle).round().clamp(0.0, maximum);
                }
            }
        }
        samples
    }

    fn inverse(&self, block: &[[f32; 8]; 8]) -> [[f32; 8]; 8] {
        let mut half = [[0.0f32; 8]; 8];
        for (out, line) in half.iter_mut().zip(block) {
            for (value, basis) in line.iter().zip(&self.basis).filter(|(value, _)| **value != 0.0) {
                for (out, b) in out.iter_mut().zip(basis) {
                    *out += value * b;
                }
            }
        }
        let mut whole = [[0.0f32; 8]; 8];
        for (line, basis) in half.iter().zip(&self.basis) {
            for (out, b) in whole.iter_mut().zip(basis) {
                for (out, value) in out.iter_mut().zip(line) {
                    *out += value * b;
                }
            }
        }
        whole
    }

    fn maximum(&self) -> f32 {
        ((1u32 << self.frame.precision) - 1) as f32
    }

    /// Stored channels to grey, RGB or amounts of ink, in [0, 1].
    fn colour(&self, row: &mut [f32]) {
        let maximum = self.maximum();
        for pixel in row.chunks_exact_mut(self.frame.components.len()) {
            pixel.iter_mut().for_each(|v| *v /= maximum);
            if matches!(self.colour, Colour::YCbCr | Colour::Ycck) {
                let middle = (maximum + 1.0) / 2.0 / maximum;
                let (y, cb, cr) = (pixel[0], pixel[1] - middle, pixel[2] - middle);
                let rgb = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
                for (out, v) in pixel.iter_mut().zip(rgb) {
                    *out = v.clamp(0.0, 1.0);
                }
            }
            match self.colour {
                Colour::Cmyk => pixel.iter_mut().for_each(|v| *v = 1.0 - *v),
                // The colours are complements of inverted inks: they are the inks.
                Colour::Ycck => pixel[3] = 1.0 - pixel[3],
                _ => {}
            }
        }
    }
}

/// Cosines of the transform by frequency and place.
fn basis() -> [[f32; 8]; 8] {
    std::array::from_fn(|frequency| {
        let scale = if frequency == 0 { 0.125f64.sqrt() } else { 0.5 };
        std::array::from_fn(|place| {
            let angle = (2 * place + 1) as f64 * frequency as f64 * std::f64::consts::PI / 16.0;
            (scale * angle.cos()) as f32
        })
    })
}

/// `true` if the samples of component `c` are enlarged linearly.
fn is_linear(frame: &Frame, c: usize) -> bool {
    let component = &frame.components[c];
    let twice = |factor: usize, most: usize| factor == most || 2 * factor == most;
    let blocks = frame.h_max.is_multiple_of(component.h) && frame.v_max.is_multiple_of(component.v);
    let wide = component.h == frame.h_max || frame.samples(c).0 > 2;
    // What is no whole number of times smaller, libjpeg does not read.
    !blocks || wide && twice(component.h, frame.h_max) && twice(component.v, frame.v_max)
}

/// The two samples, of `count`, nearest to pixel `at` of a channel that has so many samples for so many pixels, and
/// the share of the second; without `linear`, the sample whose block the pixel is in.
fn tap(
    at: usize,
    (samples, pixels): (usize, usize),
    count: usize,
    linear: bool,
) -> (usize, usize, f32) {
    let last = count.saturating_sub(1);
    if !linear {
        let only = (at * samples / pixels).min(last);
        return (only, only, 0.0);
    }
    let place = (at as f64 + 0.5) * samples as f64 / pixels as f64 - 0.5;
    let first = place.floor().max(0.0);
    let lower = (first as usize).min(last);
    (lower, (lower + 1).min(last), (place - first).clamp(0.0, 1.0) as f32)
}
