//! Colour fix: the low-frequency band of the output, its tone and colour, is replaced by that of the resized input; the
//! detail stays (docs/method.md §2, step 4). It is the "wavelet"
//! fix that diffusion upscalers commonly have (StableSR's `wavelet_reconstruction`), on four levels
//! of the à trous transform instead of five, because a wider filter needs more padding
//! around every VAE tile.

use rayon::prelude::*;

/// Levels of the à trous transform; structures coarser than about `2^LEVELS` pixels are corrected.
const LEVELS: u32 = 4;

/// Radius of the filter in image pixels: 1 + 2 + 4 + 8.
pub(super) const RADIUS: usize = (1 << LEVELS) - 1;

/// Corrects `picture` towards `source` in its low band: both are `[height, width, 3]`.
///
/// The filter mirrors what it sees at a border, so that the sum over the picture is the source's, however thin it is. The
/// result is invalid within [`RADIUS`] of a border past which the picture goes on.
pub(super) fn apply(picture: &mut [f32], source: &[f32], width: usize) {
    let difference: Vec<f32> =
        source.iter().zip(&*picture).map(|(source, ours)| source - ours).collect();
    for (value, correction) in picture.iter_mut().zip(low_band(difference, width, LEVELS)) {
        *value += correction;
    }
}

/// Convolves `[height, width, 3]` with `[1, 2, 1]/4`, dilated by 1, 2, 4, … up to so many `levels`, along both axes. The sum
/// of the values stays.
pub(super) fn low_band(mut plane: Vec<f32>, width: usize, levels: u32) -> Vec<f32> {
    let row = 3 * width;
    let height = plane.len() / row;
    for level in 0..levels {
        let step = 1usize << level;
        let mut across = vec![0.0; plane.len()];
        across.par_chunks_mut(row).zip(plane.par_chunks(row)).for_each(|(out, line)| {
            for x in 0..width {
                let (left, right) = (before(x, step, width), after(x, step, width));
                for c in 0..3 {
                    out[3 * x + c] =
                        0.25 * (line[3 * left + c] + line[3 * right + c]) + 0.5 * line[3 * x + c];
                }
            }
        });
        plane.par_chunks_mut(row).enumerate().for_each(|(y, out)| {
            let line = |y: usize| &across[y * row..][..row];
            let (up, here, down) =
                (line(before(y, step, height)), line(y), line(after(y, step, height)));
            for (i, out) in out.iter_mut().enumerate() {
                *out = 0.25 * (up[i] + down[i]) + 0.5 * here[i];
            }
        });
    }
    plane
}

/// The place `step` before `at` on a line of so many places, mirrored with its ends.
fn before(at: usize, step: usize, length: usize) -> usize {
    if at >= step { at - step } else { mirrored(step - at - 1, length) }
}

/// The place `step` behind `at`.
fn after(at: usize, step: usize, length: usize) -> usize {
    if at + step < length { at + step } else { mirrored(at + step, length) }
}

/// Where the place `at` lies on a line that goes on as its own mirror image, again and again.
fn mirrored(at: usize, length: usize) -> usize {
    let at = at % (2 * length);
    at.min(2 * length - 1 - at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A centre pixel of a picture large enough that no border plays a part.
    fn centre(picture: &[f32], side: usize) -> f32 {
        picture[3 * (side / 2 * side + side / 2)]
    }

    #[test]
    fn a_cast_vanishes_and_fine_texture_stays() {
        let side = 4 * RADIUS;
        let texture = |i: usize| if (i / 3).is_multiple_of(2) { 0.1 } else { -0.1 };
        let source = vec![0.5; 3 * side * side];
        let mut picture: Vec<f32> = (0..source.len()).map(|i| 0.7 + texture(i)).collect();
        let before = centre(&picture, side) - 0.7;
        apply(&mut picture, &source, side);
        assert!((centre(&picture, side) - 0.5 - before).abs() < 1e-5);
    }

    #[test]
    fn the_fix_is_that_of_the_reference() {
        use crate::pipeline::reference::{WIDTH, close, tensor};
        let mut picture = tensor("picture");
        apply(&mut picture, &tensor("source"), WIDTH);
        close(&picture, &tensor("wavelet"), 1e-5);
    }

    #[test]
    fn the_filter_looks_no_farther_than_its_radius() {
        let side = 2 * RADIUS + 3;
        let mut plane = vec![0.0; 3 * side * side];
        plane[3 * (side / 2 * side + side / 2)] = 1.0;
        let band = low_band(plane, side, LEVELS);
        let reached = |x: usize| band[3 * (side / 2 * side + x)] != 0.0;
        assert!(!reached(0) && reached(1) && reached(side - 2) && !reached(side - 1));
        assert!((band.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn the_mean_becomes_the_sources_on_pictures_thinner_than_the_filter() {
        for (width, height) in [(1, 1), (1, 50), (2, 3), (100, 2), (7, 40)] {
            let of = |step: f32| (0..3 * width * height).map(|i| (i as f32 * step).sin()).collect();
            let (mut picture, source): (Vec<f32>, Vec<f32>) = (of(0.37), of(0.11));
            apply(&mut picture, &source, width);
            for channel in 0..3 {
                let mean = |values: &[f32]| {
                    let sum: f32 = values.iter().skip(channel).step_by(3).sum();
                    sum / (width * height) as f32
                };
                let far = mean(&picture) - mean(&source);
                assert!(far.abs() < 1e-5, "{width} × {height}: {far}");
            }
        }
    }
}
