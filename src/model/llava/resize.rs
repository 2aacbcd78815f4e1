//! Bicubic resizing as Pillow does it on 8-bit pictures (`src/libImaging/Resample.c`): a cubic of
//! a = -0.5 that is widened where the picture shrinks, weights rounded to 22 bits, columns first, and
//! 8 bits between the two passes. The vision towers have seen pictures that were resized so, and
//! nothing else gives the same bytes. (Since version 13 Pillow takes rows first where that is less work,
//! which changes a pixel by a level here and there; the towers are older.)

/// The cubic's reach on either side.
const SUPPORT: f64 = 2.0;
/// Bits behind the point of a weight: 32 less 8 of the value less 2 for sums beyond it.
const PRECISION: u32 = 32 - 8 - 2;

/// The pixels that one output pixel is made of.
struct ResampleTaps {
    first: usize,
    weights: Vec<i32>,
}

/// `rgb`, `height` × `width` × 3 → `new_height` × `new_width` × 3. All sizes are at least 1.
pub(super) fn bicubic(
    rgb: &[u8],
    (width, height): (usize, usize),
    (new_width, new_height): (usize, usize),
) -> Vec<u8> {
    let mut picture = rgb.to_vec();
    if new_width != width {
        let taps = taps(width, new_width);
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
        let rows = tall.chunks_exact_mut(new_width * 3).zip(taps(height, new_height));
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

fn taps(from: usize, to: usize) -> Vec<ResampleTaps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let (support, shrink) = (SUPPORT * stretch, 1.0 / stretch);
    (0..to)
        .map(|index| {
            let centre = (index as f64 + 0.5) * scale;
            // Casts of negative numbers give 0.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weights: Vec<f64> =
                (first..end).map(|pixel| cubic((pixel as f64 - centre + 0.5) * shrink)).collect();
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
