//! Colour fixes that compare whole pictures: `adain` gives the repainted picture the mean and the deviation of the resized
//! input, channel by channel, and `lab` its distribution of colours (docs/method.md §6b). Both are first measured, row by
//! row, and then applied to every pixel by itself, so that neither tiles nor bands show and memory stays small.
//!
//! Source: Huang and Belongie 2017 as StableSR's `adaptive_instance_normalization` writes it; the `lab` fix of SeedVR2's
//! upscaler for ComfyUI.

use rayon::prelude::*;

use super::lab::{self, LabHistogram, Matching};

/// Added to a variance, as in StableSR.
const EPSILON: f64 = 1e-5;
/// Share of the repaint's own lightness that `lab` keeps: it holds the detail.
const OWN_LIGHTNESS: f32 = 0.8;

/// Sums over the rows of a picture, in their order: the same whatever the bands and the threads.
#[derive(Clone, Debug, Default)]
pub(super) struct Moments {
    count: f64,
    sum: [f64; 3],
    squares: [f64; 3],
}

impl Moments {
    /// Adds rows of `width` pixels, `[rows, width, 3]` in −1…1.
    pub(super) fn add(&mut self, rows: &[f32], width: usize) {
        let sums: Vec<[[f64; 3]; 2]> = (rows.par_chunks_exact(3 * width))
            .map(|row| {
                let mut sums = [[0.0; 3]; 2];
                for pixel in row.chunks_exact(3) {
                    for (channel, &value) in pixel.iter().enumerate() {
                        sums[0][channel] += f64::from(value);
                        sums[1][channel] += f64::from(value).powi(2);
                    }
                }
                sums
            })
            .collect();
        self.count += (sums.len() * width) as f64;
        for [sum, squares] in sums {
            for channel in 0..3 {
                self.sum[channel] += sum[channel];
                self.squares[channel] += squares[channel];
            }
        }
    }

    /// Mean and deviation of a channel.
    fn of(&self, channel: usize) -> (f64, f64) {
        let mean = self.sum[channel] / self.count;
        let variance =
            (self.squares[channel] - self.sum[channel] * mean) / (self.count - 1.0).max(1.0);
        (mean, (variance.max(0.0) + EPSILON).sqrt())
    }
}

/// What is measured of a picture.
pub(super) enum Measure {
    /// For `adain`.
    Moments(Moments),
    /// For `lab`.
    Histogram(Box<LabHistogram>),
}

impl Measure {
    /// Adds rows of `width` pixels, `[rows, width, 3]` in −1…1.
    pub(super) fn add(&mut self, rows: &[f32], width: usize) {
        match self {
            Self::Moments(moments) => moments.add(rows, width),
            Self::Histogram(histogram) => histogram.add(rows),
        }
    }
}

/// What makes the colours of one picture those of another.
#[derive(Debug)]
pub(super) enum ColourMatch {
    /// Factor and addend of each channel.
    Affine([(f32, f32); 3]),
    /// What each of L\*, a\* and b\* becomes.
    Lab(Box<[Matching; 3]>),
}

impl ColourMatch {
    /// From the measures of the repaint and of the input, which are of the same kind.
    pub(super) fn new(picture: &Measure, source: &Measure) -> Option<Self> {
        match (picture, source) {
            (Measure::Moments(picture), Measure::Moments(source)) => {
                Some(Self::Affine([0, 1, 2].map(|channel| {
                    let ((mean, deviation), (wanted, spread)) =
                        (picture.of(channel), source.of(channel));
                    let factor = spread / deviation;
                    (factor as f32, (wanted - mean * factor) as f32)
                })))
            }
            (Measure::Histogram(picture), Measure::Histogram(source)) => {
                Some(Self::Lab(Box::new(picture.matching(source))))
            }
            _ => None,
        }
    }

    /// Applies it to pixels `[…, 3]` in −1…1.
    pub(super) fn apply(&self, pixels: &mut [f32]) {
        match self {
            Self::Affine(channels) => pixels.par_chunks_exact_mut(3).for_each(|pixel| {
                for (value, (factor, addend)) in pixel.iter_mut().zip(channels) {
                    *value = *value * factor + addend;
                }
            }),
            Self::Lab(matching) => pixels.par_chunks_exact_mut(3).for_each(|pixel| {
                let [light, a, b] = lab::of_pixel(pixel);
                let matched = matching[0].of(light);
                let colour = [
                    matched + OWN_LIGHTNESS * (light - matched),
                    matching[1].of(a),
                    matching[2].of(b),
                ];
                pixel.copy_from_slice(&lab::to_pixel(colour));
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::reference::{WIDTH, close, tensor};

    fn matched(measure: fn() -> Measure, band: usize) -> Vec<f32> {
        let (mut picture, source) = (tensor("picture"), tensor("source"));
        let measured = |values: &[f32]| {
            let mut measure = measure();
            values.chunks(3 * WIDTH * band).for_each(|rows| measure.add(rows, WIDTH));
            measure
        };
        let found = ColourMatch::new(&measured(&picture), &measured(&source)).unwrap();
        found.apply(&mut picture);
        picture
    }

    #[test]
    fn adain_is_that_of_the_reference_and_the_same_to_the_bit_in_any_bands() {
        let measure = || Measure::Moments(Moments::default());
        let whole = matched(measure, 1000);
        close(&whole, &tensor("adain"), 1e-5);
        assert_eq!(matched(measure, 1), whole);
        assert_eq!(matched(measure, 7), whole);
    }

    #[test]
    fn lab_is_that_of_the_reference_and_the_same_to_the_bit_in_any_bands() {
        let measure = || Measure::Histogram(Box::default());
        let whole = matched(measure, 1000);
        // The reference sorts all values. Here those of one bin share what becomes of them, which in a picture of so few
        // pixels are values some bins apart.
        close(&whole, &tensor("lab"), 1e-2);
        assert_eq!(matched(measure, 5), whole);
    }
}
