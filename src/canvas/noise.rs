//! One standard-normal field for the whole canvas, as a function of place (docs/method.md §2).
//!
//! A sequential generator would tie the picture to the order in which regions, batches and threads draw
//! from it. Here every number is computed from `(seed, draw, c, y, x)` alone: any window of the field can be
//! drawn at any time, on any thread, and a resumed run draws what the first one did.
//!
//! Generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), key =
//! seed, counter = `(draw, c, y, x)`. The first two words of the block go through Box–Muller, in f64 with
//! our own logarithm and cosine, so the bits are the same on every machine.
//!
//! Draw numbers: 0 is the noise that the picture is diffused with, 1 that of the low-resolution pass; step `i` of
//! a stochastic sampler takes draw `2 + i`. From the other end, `u32::MAX` is for choices that are no field (moved grids),
//! `u32::MAX - 1` for grain and `u32::MAX - 2` for texture.

use std::ops::Range;

use rayon::prelude::*;

use super::elementary::{cos_quarter, ln};
use super::error::{CanvasError, check_len};

/// The noise field of one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoiseField {
    seed: u64,
}

impl NoiseField {
    /// The field of `seed`; every seed gives another field.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The value at one place: a standard normal deviate, at most 6.7 in magnitude.
    pub fn at(&self, draw: u32, c: u32, y: u32, x: u32) -> f32 {
        let block = philox4x32_10([draw, c, y, x], key(self.seed));
        box_muller(block[0], block[1])
    }

    /// Fills `out`, `[rows, columns, channels]`, with the window `rows × cols` of draw number `draw`.
    /// The window may lie anywhere; what it holds does not depend on how the canvas is cut into windows.
    ///
    /// # Errors
    /// [`CanvasError::Length`] if `out` does not fit, [`CanvasError::NoiseRange`] if a coordinate passes 32 bits.
    pub fn fill(
        &self,
        draw: u32,
        rows: Range<usize>,
        cols: Range<usize>,
        channels: usize,
        out: &mut [f32],
    ) -> Result<(), CanvasError> {
        check_len("a window of the noise field", rows.len() * cols.len() * channels, out.len())?;
        if out.is_empty() {
            return Ok(());
        }
        let y0 = coordinate("row", rows.start, rows.end)?;
        let x0 = coordinate("column", cols.start, cols.end)?;
        coordinate("channel", 0, channels)?;
        out.par_chunks_mut(cols.len() * channels).enumerate().for_each(|(dy, row)| {
            let y = y0 + dy as u32;
            for (pixel, x) in row.chunks_exact_mut(channels).zip(x0..) {
                for (value, c) in pixel.iter_mut().zip(0..) {
                    *value = self.at(draw, c, y, x);
                }
            }
        });
        Ok(())
    }
}

impl NoiseField {
    /// One of `count` numbers from 0, for this step and axis: the same at any place and time.
    pub fn choice(&self, step: u32, axis: u32, count: u32) -> u32 {
        // A draw that no canvas has.
        let [word, ..] = philox4x32_10([u32::MAX, axis, step, 0], key(self.seed));
        ((u64::from(word) * u64::from(count)) >> 32) as u32
    }
}

fn coordinate(axis: &'static str, start: usize, end: usize) -> Result<u32, CanvasError> {
    u32::try_from(end).map_err(|_| CanvasError::NoiseRange { axis, value: end })?;
    u32::try_from(start).map_err(|_| CanvasError::NoiseRange { axis, value: start })
}

fn key(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// Philox4x32 with ten rounds: four random words for one counter under one key.
fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const M0: u64 = 0xD251_1F53;
    const M1: u64 = 0xCD9E_8D57;
    const W0: u32 = 0x9E37_79B9;
    const W1: u32 = 0xBB67_AE85;
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = M0 * u64::from(c0);
        let p1 = M1 * u64::from(c2);
        (c0, c1, c2, c3) =
            ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
    }
    [c0, c1, c2, c3]
}

/// `√(−2 ln u₁)·cos(2π u₂)` with `u₁ = (a + ½)/2³²` and `u₂ = (b + ½)/2³²`.
fn box_muller(a: u32, b: u32) -> f32 {
    let u1 = (f64::from(a) + 0.5) / 4_294_967_296.0;
    let radius = (-2.0 * ln(u1)).sqrt();
    // The quadrant is read off the top two bits, exactly; only a quarter turn goes through the series.
    let r = (f64::from(b & 0x3fff_ffff) + 0.5) / 1_073_741_824.0;
    let cosine = match b >> 30 {
        0 => cos_quarter(r),
        1 => -cos_quarter(1.0 - r),
        2 => -cos_quarter(r),
        _ => cos_quarter(1.0 - r),
    };
    (radius * cosine) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers_of_random123() {
        // Random123's kat_vectors, philox4x32 10.
        let cases = [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32_10(counter, key), expected);
        }
    }

    #[test]
    fn choices_are_within_their_count_and_depend_on_seed_step_and_axis() {
        let of = |seed, step, axis| NoiseField::new(seed).choice(step, axis, 1 << 20);
        assert_eq!(of(7, 3, 1), of(7, 3, 1));
        for other in [of(8, 3, 1), of(7, 4, 1), of(7, 3, 0)] {
            assert_ne!(of(7, 3, 1), other);
        }
        let drawn = (0..200).map(|step| NoiseField::new(1).choice(step, 0, 5));
        let mut seen = [0; 5];
        drawn.for_each(|number| seen[number as usize] += 1);
        assert!(seen.iter().all(|&count| count > 20), "{seen:?}");
        assert_eq!(NoiseField::new(1).choice(0, 0, 1), 0);
    }

    #[test]
    fn the_extreme_words_give_finite_deviates() {
        for a in [0, 1, u32::MAX] {
            for b in [0, 1, (1 << 30) - 1, 1 << 30, 1 << 31, 3 << 30, u32::MAX] {
                let value = box_muller(a, b);
                assert!(value.is_finite() && value.abs() < 6.9, "{a} {b}: {value}");
            }
        }
    }

    #[test]
    fn windows_beyond_32_bit_coordinates_are_refused() {
        let far = u32::MAX as usize + 1;
        let mut out = [0.0];
        let result = NoiseField::new(0).fill(0, far..far + 1, 0..1, 1, &mut out);
        assert!(matches!(result, Err(CanvasError::NoiseRange { axis: "row", .. })));
        let result = NoiseField::new(0).fill(0, 0..2, 0..1, 1, &mut out);
        assert!(matches!(result, Err(CanvasError::Length { expected: 2, actual: 1, .. })));
    }
}
