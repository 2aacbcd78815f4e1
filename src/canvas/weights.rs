//! Fusion weights of the regions' predictions (docs/method.md §2, "Fusion").
//!
//! Weights are separable, `w(y, x) = p(y)·p(x)`, with one profile `p` for every region, wherever it lies: at
//! the picture's border, where a region is alone, dividing by the sum of weights undoes the ramp. So the sum is
//! separable too, `Σw(y, x) = s(y)·s(x)`, and costs two vectors and not a second canvas.

use super::elementary::cos_quarter;

/// Weighting by which overlapping predictions are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fusion {
    /// Every region counts the same everywhere: the paper's plain mean.
    Average,
    /// A raised cosine over the overlap, 1 in the middle, never 0: no region's edge shows as a step.
    #[default]
    Feather,
}

impl Fusion {
    /// The weights along one axis of a region of side `region`, all in (0, 1].
    ///
    /// The feather is `sin²(π(d + ½)/(2·o))` at distance `d` from the nearer edge while `d < o`, then 1. Two of
    /// them that overlap by exactly `o` add up to 1. An overlap above half the side ramps over half the side.
    pub fn profile(self, region: usize, overlap: usize) -> Vec<f32> {
        let ramp = match self {
            Self::Average => 0,
            Self::Feather => overlap.min(region / 2),
        };
        (0..region)
            .map(|i| {
                let d = i.min(region - 1 - i);
                if d >= ramp {
                    return 1.0;
                }
                let sine = cos_quarter(1.0 - (d as f64 + 0.5) / ramp as f64);
                (sine * sine) as f32
            })
            .collect()
    }
}

/// Sum of all regions' weights along one axis of the canvas: `length` values, each above 0 where the regions
/// whose weights begin at `starts`, on the canvas or before it, cover the axis.
pub fn axis_sum(starts: &[isize], profile: &[f32], length: usize) -> Vec<f32> {
    let mut sum = vec![0.0f64; length];
    for &start in starts {
        let before = start.min(0).unsigned_abs().min(profile.len());
        let first = (start.max(0) as usize).min(length);
        for (s, &p) in sum[first..].iter_mut().zip(&profile[before..]) {
            *s += f64::from(p);
        }
    }
    sum.into_iter().map(|s| s as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_feather_is_symmetric_positive_and_one_in_the_middle() {
        for (region, overlap) in
            [(16, 4), (128, 64), (128, 65), (16, 15), (2, 1), (8, 0), (1024, 512)]
        {
            let p = Fusion::Feather.profile(region, overlap);
            assert_eq!(p.len(), region);
            for i in 0..region {
                assert!(p[i] > 0.0 && p[i] <= 1.0, "R {region} o {overlap} at {i}: {}", p[i]);
                assert_eq!(p[i], p[region - 1 - i]);
                if i >= overlap && region - 1 - i >= overlap {
                    assert_eq!(p[i], 1.0);
                }
            }
            assert!(p[..region / 2].is_sorted());
        }
    }

    #[test]
    fn the_feather_is_the_raised_cosine_of_the_textbook() {
        let p = Fusion::Feather.profile(128, 64);
        for (i, &value) in p.iter().take(64).enumerate() {
            let expected = 0.5 * (1.0 - (std::f64::consts::PI * (i as f64 + 0.5) / 64.0).cos());
            assert!((f64::from(value) - expected).abs() < 1e-7);
        }
    }

    #[test]
    fn two_feathers_that_overlap_by_the_ramp_sum_to_one() {
        let p = Fusion::Feather.profile(12, 4);
        let sum = axis_sum(&[0, 8], &p, 20);
        assert!(sum[8..12].iter().all(|s| (s - 1.0).abs() < 1e-6), "{sum:?}");
        assert_eq!(axis_sum(&[0, 8], &Fusion::Average.profile(12, 4), 20)[9], 2.0);
        let moved = axis_sum(&[-6, 2, 10], &p, 20);
        assert!((moved[0] - p[6]).abs() < 1e-6 && moved[19] == p[9], "{moved:?}");
    }
}
