//! Gaussian blur as OpenCV's `GaussianBlur` of floats: a separable kernel that is cut at three standard deviations, and
//! borders that are mirrored without repeating the last pixel.

use rayon::prelude::*;

const CHANNELS: usize = 3;

/// Pixels on each side of one that its blurred value depends on.
#[must_use]
pub fn blur_radius(sigma: f64) -> usize {
    (3.0 * sigma).ceil() as usize
}

/// `rgb`, `[height, width, 3]`, blurred with this standard deviation in pixels.
#[must_use]
pub fn blurred(rgb: &[f32], width: usize, height: usize, sigma: f64) -> Vec<f32> {
    let kernel = kernel(sigma);
    let radius = kernel.len() / 2;
    let row = width * CHANNELS;
    if row == 0 || height == 0 {
        return Vec::new();
    }
    let mut across = vec![0.0f32; rgb.len()];
    let columns: Vec<usize> =
        (0..width + 2 * radius).map(|at| mirrored(at, radius, width) * CHANNELS).collect();
    across.par_chunks_mut(row).zip(rgb.par_chunks(row)).for_each(|(out, line)| {
        for (x, pixel) in out.chunks_exact_mut(CHANNELS).enumerate() {
            for (tap, &from) in kernel.iter().zip(&columns[x..]) {
                for (sum, value) in pixel.iter_mut().zip(&line[from..]) {
                    *sum += tap * value;
                }
            }
        }
    });
    let mut out = vec![0.0f32; rgb.len()];
    out.par_chunks_mut(row).enumerate().for_each(|(y, out)| {
        for (index, tap) in kernel.iter().enumerate() {
            let from = mirrored(y + index, radius, height) * row;
            for (sum, value) in out.iter_mut().zip(&across[from..from + row]) {
                *sum += tap * value;
            }
        }
    });
    out
}

/// e^(−x²/2σ²) at whole pixels, with the sum 1.
fn kernel(sigma: f64) -> Vec<f32> {
    let radius = blur_radius(sigma) as isize;
    let value = |x: isize| (-((x * x) as f64) / (2.0 * sigma * sigma)).exp();
    let values: Vec<f64> = (-radius..=radius).map(value).collect();
    let sum: f64 = values.iter().sum();
    values.iter().map(|value| (value / sum) as f32).collect()
}

/// Place of `at`, which counts from `radius` before the first, on an axis that is mirrored at both ends.
fn mirrored(at: usize, radius: usize, length: usize) -> usize {
    if length == 1 {
        return 0;
    }
    let period = 2 * (length - 1);
    let place = at.abs_diff(radius) % period;
    place.min(period - place)
}
