//! Separable resizing in f32, any band or window of the result at a time.
//!
//! Each output sample depends only on the source, not on the requested band, so that concatenated bands
//! equal the whole bit for bit. Weights are those of Pillow's `Image.resize` (support of 3
//! source pixels, stretched by the scale when reducing so that it antialiases; pixel centres at half
//! coordinates; cut and renormalised at the borders), computed in f64; compared with Pillow in
//! `tests/jobs/resize.rs`. [`Filter::Area`] is the exact mean over each output pixel's footprint.

use std::collections::VecDeque;
use std::ops::Range;

use rayon::prelude::*;

use super::error::{ImageError, Result};
use super::plane::Plane;

/// Samples of rows that are resized horizontally at once, if the result needs no more: a window that shrinks a large
/// picture is made in bands.
const BAND: usize = 1 << 22;

/// The kernel of a resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// sinc(x)·sinc(x/3) on |x| < 3, antialiased when reducing. Overshoots at edges.
    Lanczos3,
    /// A tent over two source pixels, antialiased when reducing. Never overshoots.
    Bilinear,
    /// Exact mean over the footprint of an output pixel; for reducing. Never overshoots.
    Area,
}

/// A resize of one interleaved f32 plane to an exact size.
#[derive(Debug, Clone)]
pub struct Resizer<'a> {
    source: &'a [f32],
    /// The plane of `source`, if it is in a file, of which rows are read.
    plane: Option<&'a Plane>,
    channels: usize,
    source_width: usize,
    width: u32,
    height: u32,
    horizontal: FilterTaps,
    vertical: FilterTaps,
    clamp: bool,
}

impl<'a> Resizer<'a> {
    /// Prepares the resize of `source`, `[from.1, from.0, channels]`, to `to` = (width, height).
    /// Computes nothing until rows are requested.
    ///
    /// # Errors
    /// [`ImageError::ZeroSize`] for a side of zero; [`ImageError::Shape`] when `source` has the wrong length.
    pub fn new(
        source: &'a [f32],
        channels: usize,
        from: (u32, u32),
        to: (u32, u32),
        filter: Filter,
    ) -> Result<Self> {
        for (width, height) in [from, to] {
            if width == 0 || height == 0 {
                return Err(ImageError::ZeroSize { name: "resize".into(), width, height });
            }
        }
        let expected = from.0 as usize * from.1 as usize * channels;
        if source.len() != expected || channels == 0 {
            return Err(ImageError::Shape {
                what: "source of a resize",
                expected,
                got: source.len(),
            });
        }
        Ok(Self {
            source,
            plane: None,
            channels,
            source_width: from.0 as usize,
            width: to.0,
            height: to.1,
            horizontal: FilterTaps::new(from.0, to.0, filter),
            vertical: FilterTaps::new(from.1, to.1, filter),
            clamp: false,
        })
    }

    /// The resize of a picture's plane, in memory or in a file.
    ///
    /// # Errors
    /// Same as [`new`](Self::new).
    pub(crate) fn of_plane(
        plane: &'a Plane,
        channels: usize,
        from: (u32, u32),
        to: (u32, u32),
        filter: Filter,
    ) -> Result<Self> {
        let plane_in_file = plane.is_in_file().then_some(plane);
        Ok(Self { plane: plane_in_file, ..Self::new(plane, channels, from, to, filter)? })
    }

    /// Clamps results to [0, 1], where Lanczos may overshoot.
    #[must_use]
    pub fn clamped(mut self) -> Self {
        self.clamp = true;
        self
    }

    /// Output size: (width, height).
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Rows `y` of the result, `[y.len(), width, channels]`. Parts beyond the bottom are left out.
    pub fn rows(&self, y: Range<u32>) -> Vec<f32> {
        self.window(0..self.width, y)
    }

    /// The window of columns `x` and rows `y` of the result, `[y.len(), x.len(), channels]`, cut to
    /// the result's bounds.
    pub fn window(&self, x: Range<u32>, y: Range<u32>) -> Vec<f32> {
        let columns = x.start.min(self.width) as usize..x.end.min(self.width) as usize;
        let rows = y.start.min(self.height) as usize..y.end.min(self.height) as usize;
        if columns.is_empty() || rows.is_empty() {
            return Vec::new();
        }
        let row_len = columns.len() * self.channels;

        let mut result = vec![0.0f32; rows.len() * row_len];
        let mut rest = &mut result[..];
        let mut first = rows.start;
        while first < rows.end {
            let end = self.band_end(first..rows.end, row_len);
            let (band, after) = rest.split_at_mut((end - first) * row_len);
            self.band(columns.clone(), first..end, band);
            (rest, first) = (after, end);
        }
        result
    }

    /// The end of the band of these rows that is made at once: as many as need [`BAND`] samples of resized source
    /// rows, and enough not to resize most of them twice.
    fn band_end(&self, rows: Range<usize>, row_len: usize) -> usize {
        let top = self.vertical.span(rows.start).start;
        let needs = |end: usize| (self.vertical.span(end - 1).end - top) * row_len;
        if needs(rows.end) <= BAND {
            return rows.end;
        }
        let fits = (rows.start + 1..=rows.end).rev().step_by(8).find(|&end| needs(end) <= BAND);
        fits.unwrap_or(rows.start + 1).max((rows.start + 24).min(rows.end))
    }

    /// Rows of the window of `columns`.
    fn band(&self, columns: Range<usize>, rows: Range<usize>, result: &mut [f32]) {
        let row_len = columns.len() * self.channels;
        // Source rows that any output row of the band needs, resized horizontally first.
        let top = self.vertical.span(rows.start).start;
        let bottom = self.vertical.span(rows.end - 1).end;
        // Columns of the source that the window needs.
        let left = self.horizontal.span(columns.start).start;
        let right = self.horizontal.span(columns.end - 1).end;
        let mut wide = vec![0.0f32; (bottom - top) * row_len];
        wide.par_chunks_mut(row_len).enumerate().for_each_init(Vec::new, |buffer, (i, out)| {
            let start = (top + i) * self.source_width;
            let part = (start + left) * self.channels..(start + right) * self.channels;
            let row = match self.plane {
                Some(plane) => plane.samples(part, buffer),
                None => &self.source[part],
            };
            let taps = &self.horizontal;
            match self.channels {
                3 => taps.apply_across::<3>(row, left, columns.clone(), out),
                1 => taps.apply_across::<1>(row, left, columns.clone(), out),
                _ => taps.apply_across_any(row, left, self.channels, columns.clone(), out),
            }
        });

        result.par_chunks_mut(row_len).enumerate().for_each(|(i, out)| {
            let y = rows.start + i;
            let first = self.vertical.span(y).start - top;
            for (k, &w) in self.vertical.weights(y).iter().enumerate() {
                let row = &wide[(first + k) * row_len..][..row_len];
                for (o, v) in out.iter_mut().zip(row) {
                    *o += w * v;
                }
            }
            if self.clamp {
                out.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
            }
        });
    }
}

/// A resize of rows that come from the top, for a source that is never there as a whole: its rows are those of a clamped
/// [`Resizer`] with [`Filter::Lanczos3`], to the bit.
pub(crate) struct RowResizer {
    channels: usize,
    width: usize,
    height: usize,
    horizontal: FilterTaps,
    vertical: FilterTaps,
    /// rows of the source that rows to come need, resized horizontally
    wide: VecDeque<Vec<f32>>,
    /// place of the first of them in the source
    top: usize,
    /// rows of the result that are made
    done: usize,
}

impl RowResizer {
    /// The resize of `from` = (width, height) to `to`, none of which is zero.
    pub(crate) fn new(channels: usize, from: (u32, u32), to: (u32, u32)) -> Self {
        Self {
            channels,
            width: to.0 as usize,
            height: to.1 as usize,
            horizontal: FilterTaps::new(from.0, to.0, Filter::Lanczos3),
            vertical: FilterTaps::new(from.1, to.1, Filter::Lanczos3),
            wide: VecDeque::new(),
            top: 0,
            done: 0,
        }
    }

    /// Takes the next whole rows, `[rows, width, channels]`, and gives those of the result that depend on no further one.
    pub(crate) fn push(&mut self, rows: &[f32], source_width: usize) -> Vec<f32> {
        let Self { channels, width, ref horizontal, .. } = *self;
        let wide = rows.par_chunks_exact(source_width * channels).map(|row| {
            let mut out = vec![0.0f32; width * channels];
            match channels {
                3 => horizontal.apply_across::<3>(row, 0, 0..width, &mut out),
                _ => horizontal.apply_across_any(row, 0, channels, 0..width, &mut out),
            }
            out
        });
        let wide: Vec<_> = wide.collect();
        self.wide.extend(wide);
        let there = self.top + self.wide.len();
        let ready =
            (self.done..self.height).take_while(|&y| self.vertical.span(y).end <= there).count();
        let row_len = width * channels;
        let mut result = vec![0.0f32; ready * row_len];
        result.par_chunks_mut(row_len).enumerate().for_each(|(i, out)| {
            let y = self.done + i;
            let first = self.vertical.span(y).start - self.top;
            for (k, &w) in self.vertical.weights(y).iter().enumerate() {
                for (o, v) in out.iter_mut().zip(&self.wide[first + k]) {
                    *o += w * v;
                }
            }
            out.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
        });
        self.done += ready;
        if self.done < self.height {
            let gone = self.vertical.span(self.done).start.min(there) - self.top;
            self.wide.drain(..gone);
            self.top += gone;
        }
        result
    }
}

/// Source range and weights of each output position along one axis.
#[derive(Debug, Clone)]
struct FilterTaps {
    first: Vec<u32>,
    /// `ends[i]` is the end of position i's weights in `weights`.
    ends: Vec<usize>,
    weights: Vec<f32>,
}

impl FilterTaps {
    fn new(from: u32, to: u32, filter: Filter) -> Self {
        let mut taps = Self {
            first: Vec::with_capacity(to as usize),
            ends: Vec::with_capacity(to as usize),
            weights: Vec::new(),
        };
        let (from, scale) = (i64::from(from), f64::from(from) / f64::from(to));
        let mut weights = Vec::new();
        for i in 0..to {
            weights.clear();
            let first = match filter {
                Filter::Lanczos3 => windowed(i, from, scale, (3.0, lanczos3), &mut weights),
                Filter::Bilinear => windowed(i, from, scale, (1.0, tent), &mut weights),
                Filter::Area => area(i, from, scale, &mut weights),
            };
            let sum: f64 = weights.iter().sum();
            taps.first.push(first);
            taps.weights.extend(weights.iter().map(|w| (w / sum) as f32));
            taps.ends.push(taps.weights.len());
        }
        taps
    }

    fn weights(&self, i: usize) -> &[f32] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.weights[start..self.ends[i]]
    }

    fn span(&self, i: usize) -> Range<usize> {
        let first = self.first[i] as usize;
        first..first + self.weights(i).len()
    }

    /// Resizes a row that is given from column `left` on.
    fn apply_across<const C: usize>(
        &self,
        row: &[f32],
        left: usize,
        columns: Range<usize>,
        out: &mut [f32],
    ) {
        for (pixel, i) in out.chunks_exact_mut(C).zip(columns) {
            let mut sum = [0.0f32; C];
            let taps = &row[(self.first[i] as usize - left) * C..];
            for (source, w) in taps.chunks_exact(C).zip(self.weights(i)) {
                for (s, v) in sum.iter_mut().zip(source) {
                    *s += w * v;
                }
            }
            pixel.copy_from_slice(&sum);
        }
    }

    fn apply_across_any(
        &self,
        row: &[f32],
        left: usize,
        channels: usize,
        columns: Range<usize>,
        out: &mut [f32],
    ) {
        for (pixel, i) in out.chunks_exact_mut(channels).zip(columns) {
            let taps = &row[(self.first[i] as usize - left) * channels..];
            for (source, w) in taps.chunks_exact(channels).zip(self.weights(i)) {
                for (s, v) in pixel.iter_mut().zip(source) {
                    *s += w * v;
                }
            }
        }
    }
}

/// Weights of output position `i` under a kernel of this support, and its first source sample, as Pillow's
/// `precompute_coeffs`.
fn windowed(
    i: u32,
    from: i64,
    scale: f64,
    (support, kernel): (f64, fn(f64) -> f64),
    weights: &mut Vec<f64>,
) -> u32 {
    let stretch = scale.max(1.0);
    let support = support * stretch;
    let centre = (f64::from(i) + 0.5) * scale;
    let first = ((centre - support + 0.5) as i64).max(0);
    let end = ((centre + support + 0.5) as i64).min(from);
    weights.extend((first..end).map(|k| kernel((k as f64 - centre + 0.5) / stretch)));
    first as u32
}

fn lanczos3(x: f64) -> f64 {
    let sinc = |x: f64| {
        if x == 0.0 {
            1.0
        } else {
            let x = x * std::f64::consts::PI;
            x.sin() / x
        }
    };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn tent(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Overlap of the footprint `[i·scale, (i + 1)·scale)` with each source pixel.
fn area(i: u32, from: i64, scale: f64, weights: &mut Vec<f64>) -> u32 {
    let (low, high) = (f64::from(i) * scale, (f64::from(i) + 1.0) * scale);
    let first = (low.floor() as i64).min(from - 1);
    let end = (high.ceil() as i64).clamp(first + 1, from);
    weights.extend((first..end).map(|k| (high.min(k as f64 + 1.0) - low.max(k as f64)).max(0.0)));
    // Rounding can leave a footprint that ends exactly on a pixel's edge with no weight at all.
    if weights.iter().sum::<f64>() <= 0.0 {
        weights[0] = 1.0;
    }
    first as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_come_one_after_the_other_are_resized_as_a_picture_is() {
        let (from, channels) = ((23u32, 37u32), 3usize);
        let count = from.0 * from.1 * channels as u32;
        let source: Vec<f32> = (0..count).map(|at| (at * 37 % 101) as f32 / 90.0 - 0.05).collect();
        for to in [(23, 37), (11, 9), (70, 90), (5, 100), (1, 1)] {
            let whole = Resizer::new(&source, channels, from, to, Filter::Lanczos3).unwrap();
            let whole = whole.clamped().rows(0..to.1);
            for band in [1, 5, 37] {
                let mut rows = RowResizer::new(channels, from, to);
                let bands = source.chunks(band * from.0 as usize * channels);
                let made: Vec<f32> =
                    bands.flat_map(|band| rows.push(band, from.0 as usize)).collect();
                assert_eq!(made, whole, "{to:?} in bands of {band}");
            }
        }
    }
}
