//! Clipping of the clean latent that a prediction implies, as diffusers' `clip_sample` and `thresholding` do it: made for
//! models of pixels, and honoured where a config asks for it. It is the one thing in a step that is not linear.

use super::{config::SchedulerConfig, step::Combination};

/// Bound of the values of x̂0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// Clipped to ±this.
    Range(f32),
    /// Clipped to ±s and divided by it, s the quantile of all magnitudes below which `share` of them lie, 1 at least and
    /// `most` at most (Saharia et al. 2022, "dynamic thresholding").
    Quantile {
        /// Share of the magnitudes below the quantile, 0 to 1.
        share: f64,
        /// Largest s.
        most: f32,
    },
    /// Clipped to ±this and divided by it: a [`Limit::Quantile`] whose quantile is known.
    Scaled(f32),
}

impl Limit {
    /// The clipping that a config asks for: `thresholding` goes before `clip_sample`.
    pub(super) fn of(config: &SchedulerConfig) -> Option<Self> {
        Self::threshold_of(config)
            .or(config.clip_sample.then_some(Self::Range(config.clip_sample_range as f32)))
    }

    /// The `thresholding` that a config asks for.
    pub(super) fn threshold_of(config: &SchedulerConfig) -> Option<Self> {
        let most = config.sample_max_value as f32;
        let share = config.dynamic_thresholding_ratio;
        config.thresholding.then_some(Self::Quantile { share, most })
    }

    /// The limit of values whose quantile is this.
    pub(super) fn with_quantile(self, quantile: f32) -> Self {
        match self {
            // The larger bound first: where the two cross, the reference lets the upper one win.
            Self::Quantile { most, .. } => Self::Scaled(quantile.max(1.0).min(most)),
            known => known,
        }
    }

    /// A clean latent within the limit; a quantile that is not known yet limits nothing.
    pub(super) fn apply(self, x0: f32) -> f32 {
        match self {
            Self::Range(most) => x0.clamp(-most, most),
            Self::Quantile { .. } => x0,
            Self::Scaled(most) => x0.clamp(-most, most) / most,
        }
    }
}

/// Clipping within a step, which reads x̂0 within the limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clip {
    /// The x̂0 of the step, of z before it.
    pub x0: Combination,
    /// Factor of the clipped x̂0 in the step.
    pub factor: f32,
    /// Its limit.
    pub limit: Limit,
}

/// Bits of a value that one pass over the values decides.
const PASS_BITS: u32 = 16;

/// A quantile of magnitudes, found in two passes over values that come in any pieces and any order: magnitudes sort as
/// their bits do, so the first pass counts the upper half of the bits, and the second one the lower half of those that
/// share the upper half with the quantile. Between two values it is linear, as `torch.quantile`.
#[derive(Debug, Clone)]
pub struct QuantileSearch {
    /// Positions of the values on either side of the quantile, in ascending order.
    ranks: [u64; 2],
    /// Place between the two, 0 to 1.
    between: f64,
    /// Upper bits of those two values, and how many values lie below them: known after the first pass.
    upper: Option<[(usize, u64); 2]>,
    counts: [Vec<u64>; 2],
}

impl QuantileSearch {
    /// Search among `count` values, at least one, for the magnitude below which `share` of them lie, 0 to 1.
    #[must_use]
    pub fn new(count: u64, share: f64) -> Self {
        let last = count.saturating_sub(1);
        let position = share.clamp(0.0, 1.0) * last as f64;
        let below = (position.floor() as u64).min(last);
        Self {
            ranks: [below, (below + 1).min(last)],
            between: position - below as f64,
            upper: None,
            counts: [vec![0; 1 << PASS_BITS], Vec::new()],
        }
    }

    /// Counts values of the pass.
    pub fn count(&mut self, values: impl Iterator<Item = f32>) {
        for value in values {
            let bits = value.abs().to_bits();
            let (high, low) = ((bits >> PASS_BITS) as usize, bits as u16 as usize);
            match self.upper {
                None => self.counts[0][high] += 1,
                Some(upper) => {
                    for (counts, (bin, _)) in self.counts.iter_mut().zip(upper) {
                        counts[low] += u64::from(bin == high);
                    }
                }
            }
        }
    }

    /// Ends the first pass.
    pub fn begin_second(&mut self) {
        self.upper = Some(self.ranks.map(|rank| find(&self.counts[0], rank)));
        self.counts = [vec![0; 1 << PASS_BITS], vec![0; 1 << PASS_BITS]];
    }

    /// The quantile, after the second pass.
    #[must_use]
    pub fn value(&self) -> f32 {
        let upper = self.upper.unwrap_or_default();
        let value = |index: usize| {
            let (high, before) = upper[index];
            let (low, _) = find(&self.counts[index], self.ranks[index] - before);
            f64::from(f32::from_bits((high << PASS_BITS | low) as u32))
        };
        let (below, above) = (value(0), value(1));
        (below + self.between * (above - below)) as f32
    }
}

/// The bin in which the value of this rank lies, and the number of values in the bins before it.
fn find(counts: &[u64], rank: u64) -> (usize, u64) {
    let mut before = 0;
    for (bin, &count) in counts.iter().enumerate() {
        if rank < before + count {
            return (bin, before);
        }
        before += count;
    }
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_found_by_counting_is_that_of_the_sorted_values() {
        let values: Vec<f32> =
            (0..1001).map(|i| ((i * 7919) % 1001) as f32 * 0.01 * (-1f32).powi(i)).collect();
        let mut sorted: Vec<f32> = values.iter().map(|value| value.abs()).collect();
        sorted.sort_by(f32::total_cmp);
        for share in [0.0, 0.25, 0.5, 0.9955, 0.999, 1.0] {
            let mut search = QuantileSearch::new(values.len() as u64, share);
            search.count(values[..300].iter().copied());
            search.count(values[300..].iter().copied());
            search.begin_second();
            search.count(values.iter().copied());
            let position = share * 1000.0;
            let (below, above) =
                (sorted[position as usize], sorted[(position as usize + 1).min(1000)]);
            let expected = below + (position.fract() as f32) * (above - below);
            assert!((search.value() - expected).abs() < 1e-6, "{share}: {}", search.value());
        }
    }

    #[test]
    fn a_threshold_is_at_least_1_and_at_most_the_greatest_that_is_asked_for() {
        let limit = Limit::Quantile { share: 0.995, most: 2.0 };
        for (quantile, scale) in [(0.5, 1.0), (1.5, 1.5), (7.0, 2.0)] {
            assert_eq!(limit.with_quantile(quantile), Limit::Scaled(scale));
        }
        assert_eq!(Limit::Scaled(2.0).apply(-3.0), -1.0);
        assert_eq!(Limit::Range(2.0).apply(-3.0), -2.0);
    }
}
