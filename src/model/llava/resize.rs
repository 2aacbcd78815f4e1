//! Resizing as Pillow does it on 8-bit pictures (`src/libImaging/Resample.c`): a filter
//! that is widened where the picture shrinks, weights rounded to 22 bits, columns first, and
//! 8 bits between the two passes. The vision towers have seen pictures that were resized so, and
//! nothing else gives the same bytes. (Since version 13 Pillow takes rows first where that is less work,
//! which changes a pixel by a level here and there; the towers are older.)

use std::f64::consts::PI;

/// A filter of Pillow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// The pixel that the middle of the new one lies in (`src/libImaging/Geometry.c`).
    Nearest,
    Lanczos,
    Bilinear,
    /// A cubic of a = -0.5.
    Bicubic,
    Box,
    Hamming,
}

impl Filter {
    /// The filter of this number in Pillow and in configuration files.
    pub(super) fn of_pillow(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Nearest,
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            4 => Self::Box,
            5 => Self::Hamming,
            _ => return None,
        })
    }

    /// Reach on either side.
    fn support(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// Weight at a distance.
    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
        match self {
            Self::Nearest | Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Hamming if x.abs() >= 1.0 => 0.0,
            Self::Hamming => sinc(x) * (0.54 + 0.46 * (PI * x).cos()),
            Self::Bicubic => cubic(x),
            Self::Lanczos if !(-3.0..3.0).contains(&x) => 0.0,
            Self::Lanczos => sinc(x) * sinc(x / 3.0),
        }
    }
}

/// Bits behind the point of a weight: 32 less 8 of the value less 2 for sums beyond it.
const PRECISION: u32 = 32 - 8 - 2;

/// The pixels that one output pixel is made of.
struct ResampleTaps {
    first: usize,
    weights: Vec<i32>,
}

/// `rgb`, `height` × `width` × 3 → `new_height` × `new_width` × 3. All sizes are at least 1.
pub(super) fn resize(
    rgb: &[u8],
    (width, height): (usize, usize),
    (new_width, new_height): (usize, usize),
    filter: Filter,
) -> Vec<u8> {
    if filter == Filter::Nearest {
        return nearest(rgb, (width, height), (new_width, new_height));
    }
    let mut picture = rgb.to_vec();
    if new_width != width {
        let taps = taps(width, new_width, filter);
        let mut wide = vec![0; new_width * height * 3];
        let rows = picture.chunks_exact(width * 3).zip(wide.chunks_exact_mut(new_width * 3));
        for (row, out) in rows {
            for (out, taps) in out.as_chunks_mut::<3>().0.iter_mut().zip(&taps) {
                *out = mix(&taps.weights, |tap| &row[(taps.first + tap) * 3..]);
            }
        }
        picture = wide;
    }
    if new_height != height {
        let mut tall = vec![0; new_width * new_height * 3];
        let rows = tall.chunks_exact_mut(new_width * 3).zip(taps(height, new_height, filter));
        for (out, taps) in rows {
            for (column, out) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                *out = mix(&taps.weights, |tap| {
                    &picture[((taps.first + tap) * new_width + column) * 3..]
                });
            }
        }
        picture = tall;
    }
    picture
}

/// The pixels in which the middles of the new ones lie.
fn nearest(
    rgb: &[u8],
    (width, height): (usize, usize),
    (new_width, new_height): (usize, usize),
) -> Vec<u8> {
    let places = |from: usize, to: usize| -> Vec<usize> {
        let scale = from as f64 / to as f64;
        // Pillow adds up the scale, with its rounding.
        let mut at = scale * 0.5;
        let mut place = |_| {
            let place = (at as usize).min(from - 1);
            at += scale;
            place
        };
        (0..to).map(&mut place).collect()
    };
    let columns = places(width, new_width);
    let rows = places(height, new_height);
    let pixels = rows.iter().flat_map(|row| columns.iter().map(move |column| row * width + column));
    pixels.flat_map(|pixel| rgb[3 * pixel..3 * pixel + 3].iter().copied()).collect()
}

/// One pixel: the weighted sum of others.
fn mix<'a>(weights: &[i32], pixel: impl Fn(usize) -> &'a [u8]) -> [u8; 3] {
    let mut sums = [1i32 << (PRECISION - 1); 3];
    for (tap, &weight) in weights.iter().enumerate() {
        for (sum, &value) in sums.iter_mut().zip(pixel(tap)) {
            *sum += i32::from(value) * weight;
        }
    }
    sums.map(|sum| (sum >> PRECISION).clamp(0, 255) as u8)
}

fn taps(from: usize, to: usize, filter: Filter) -> Vec<ResampleTaps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let (support, shrink) = (filter.support() * stretch, 1.0 / stretch);
    (0..to)
        .map(|index| {
            let centre = (index as f64 + 0.5) * scale;
            // Casts of negative numbers give 0.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weights: Vec<f64> = (first..end)
                .map(|pixel| filter.weight((pixel as f64 - centre + 0.5) * shrink))
                .collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: &f64| {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                let scaled = weight * f64::from(1u32 << PRECISION);
                (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
            };
            ResampleTaps { first, weights: weights.iter().map(fixed).collect() }
        })
        .collect()
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
