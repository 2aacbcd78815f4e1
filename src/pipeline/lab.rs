//! CIELAB for the colour fix `lab`: pixels there and back, and histograms of whole pictures that are matched.
//!
//! A pixel is taken for sRGB. What is matched are differences between two pictures in the same numbers, so that a wider
//! gamut, whose numbers mean stronger colours, is served as well.
//!
//! Source: CIE 15 and IEC 61966-2-1, D65; as scikit-image computes them.

use rayon::prelude::*;

/// Bins of a channel's histogram.
const BINS: usize = 1 << 14;
/// Lowest value of a channel and its range: of L\*, a\* and b\*.
const RANGES: [(f32, f32); 3] = [(0.0, 100.0), (-128.0, 256.0), (-128.0, 256.0)];
const WHITE: [f32; 3] = [0.95047, 1.0, 1.08883];
/// Where the cube root ends and the straight line of dark colours begins.
const DARK: f32 = 0.008856;

/// L\*, a\* and b\* of a pixel in −1…1, cut to that.
pub(super) fn of_pixel(pixel: &[f32]) -> [f32; 3] {
    let linear = |value: f32| {
        let value = (value * 0.5 + 0.5).clamp(0.0, 1.0);
        if value > 0.04045 { ((value + 0.055) / 1.055).powf(2.4) } else { value / 12.92 }
    };
    let [r, g, b] = [linear(pixel[0]), linear(pixel[1]), linear(pixel[2])];
    let x = 0.412_453 * r + 0.357_580 * g + 0.180_423 * b;
    let y = 0.212_671 * r + 0.715_160 * g + 0.072_169 * b;
    let z = 0.019_334 * r + 0.119_193 * g + 0.950_227 * b;
    let f = |value: f32, white: f32| {
        let value = value / white;
        if value > DARK { value.cbrt() } else { 7.787 * value + 16.0 / 116.0 }
    };
    let (x, y, z) = (f(x, WHITE[0]), f(y, WHITE[1]), f(z, WHITE[2]));
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// The pixel of these L\*, a\* and b\*, cut to −1…1.
pub(super) fn to_pixel([light, a, b]: [f32; 3]) -> [f32; 3] {
    let y = (light + 16.0) / 116.0;
    let (x, z) = (a / 500.0 + y, (y - b / 200.0).max(0.0));
    let f = |value: f32, white: f32| {
        white * if value > 0.206_893 { value.powi(3) } else { (value - 16.0 / 116.0) / 7.787 }
    };
    let (x, y, z) = (f(x, WHITE[0]), f(y, WHITE[1]), f(z, WHITE[2]));
    let linear = [
        3.240_481_3 * x - 1.537_151_5 * y - 0.498_536_3 * z,
        -0.969_254_9 * x + 1.875_99 * y + 0.041_555_9 * z,
        0.055_646_6 * x - 0.204_041_3 * y + 1.057_311 * z,
    ];
    linear.map(|value| {
        let value =
            if value > 0.003_130_8 { 1.055 * value.powf(1.0 / 2.4) - 0.055 } else { 12.92 * value };
        2.0 * value.clamp(0.0, 1.0) - 1.0
    })
}

/// How often each value of L\*, a\* and b\* occurs in a picture.
#[derive(Debug)]
pub(super) struct LabHistogram {
    counts: [Vec<u64>; 3],
}

impl Default for LabHistogram {
    fn default() -> Self {
        Self { counts: [(); 3].map(|()| vec![0; BINS]) }
    }
}

impl LabHistogram {
    /// Adds pixels `[…, 3]` in −1…1.
    pub(super) fn add(&mut self, pixels: &[f32]) {
        let colours: Vec<[f32; 3]> = pixels.par_chunks_exact(3).map(of_pixel).collect();
        for colour in colours {
            for (channel, value) in colour.into_iter().enumerate() {
                self.counts[channel][bin(value, RANGES[channel]).0] += 1;
            }
        }
    }

    /// What the values of this picture become, so that they are distributed as those of another one.
    pub(super) fn matching(&self, other: &Self) -> [Matching; 3] {
        [0, 1, 2].map(|channel| {
            Matching::new(&self.counts[channel], &other.counts[channel], RANGES[channel])
        })
    }
}

/// Bin of a value, and the place in it, 0…1.
fn bin(value: f32, (lowest, range): (f32, f32)) -> (usize, f32) {
    let place = ((value - lowest) / range * BINS as f32).clamp(0.0, BINS as f32 - 0.5);
    (place as usize, place.fract())
}

/// What each value of a channel becomes: for each bin what its first value becomes, and what its last one does. Bins
/// beside each other may be apart, where the other picture has no values.
#[derive(Debug)]
pub(super) struct Matching {
    ends: Vec<(f32, f32)>,
    range: (f32, f32),
}

impl Matching {
    fn new(own: &[u64], other: &[u64], range: (f32, f32)) -> Self {
        let share = |counts: &[u64]| counts.iter().sum::<u64>().max(1) as f64;
        let (own_sum, other_sum) = (share(own), share(other));
        let (lowest, width) = (range.0, range.1 / BINS as f32);
        let mut ends = vec![(0.0, 0.0); BINS];
        // The value below which so many of the other picture's lie; of a gap its upper or its lower end. Both pictures
        // are walked through once, because neither ever goes back.
        let (mut before, mut at, mut done) = (0u64, 0usize, 0u64);
        let mut value = |wanted: f64, upper: bool| -> f32 {
            let reached = |before: u64, count: u64| {
                let end = (before + count) as f64;
                if upper { end > wanted } else { end >= wanted }
            };
            while at + 1 < BINS && (other[at] == 0 || !reached(before, other[at])) {
                // What lies behind the last value of the other picture has nothing to become.
                if before + other[at] == other_sum as u64 {
                    break;
                }
                before += other[at];
                at += 1;
            }
            let inside =
                if other[at] == 0 { 0.0 } else { (wanted - before as f64) / other[at] as f64 };
            lowest + width * (at as f32 + inside.clamp(0.0, 1.0) as f32)
        };
        for (ends, &count) in ends.iter_mut().zip(own) {
            if count == 0 {
                continue;
            }
            let scale = other_sum / own_sum;
            let first = value(done as f64 * scale, true);
            done += count;
            *ends = (first, value(done as f64 * scale, false).max(first));
        }
        Self { ends, range }
    }

    /// What a value of the picture becomes.
    pub(super) fn of(&self, value: f32) -> f32 {
        let (bin, place) = bin(value, self.range);
        let (first, last) = self.ends[bin];
        first + place * (last - first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_comes_back_from_lab_and_the_known_ones_have_their_values() {
        for (pixel, expected) in [
            ([1.0, 1.0, 1.0], [100.0, 0.0, 0.0]),
            ([1.0, -1.0, -1.0], [53.24, 80.09, 67.20]),
            ([-1.0, -1.0, 1.0], [32.30, 79.19, -107.86]),
            ([-0.9, -0.9, -0.9], [3.56, 0.0, 0.0]),
        ] {
            let lab = of_pixel(&pixel);
            for (value, expected) in lab.iter().zip(expected) {
                assert!((value - expected).abs() < 0.05, "{lab:?} {expected:?}");
            }
            for (value, expected) in to_pixel(lab).iter().zip(pixel) {
                assert!((value - expected).abs() < 1e-3, "{pixel:?}");
            }
        }
    }

    #[test]
    fn a_picture_matched_to_itself_stays_and_gaps_are_jumped() {
        let pixels: Vec<f32> = (0..3000).map(|at| (at as f32 * 0.37).sin()).collect();
        let mut own = LabHistogram::default();
        own.add(&pixels);
        let same = own.matching(&own);
        for pixel in pixels.chunks_exact(3) {
            for (channel, value) in of_pixel(pixel).into_iter().enumerate() {
                let width = RANGES[channel].1 / BINS as f32;
                assert!(
                    (same[channel].of(value) - value).abs() <= 2.0 * width,
                    "{channel} {value}"
                );
            }
        }
        // Two values here, two far apart there.
        let (mut own, mut other) = (vec![0; BINS], vec![0; BINS]);
        (own[10], own[11]) = (5, 5);
        (other[100], other[9000]) = (3, 3);
        let matching = Matching::new(&own, &other, (0.0, BINS as f32));
        assert!((100.0..=101.0).contains(&matching.of(10.5)));
        assert!((9000.0..=9001.0).contains(&matching.of(11.5)));
    }
}
