//! The Global Structure Prior, GSP: the low band of x̂0 is drawn towards that of the input (docs/method.md §3).
//!
//! The paper (equations 4 and 5) takes a gradient step on the canvas at every timestep,
//!
//! ```text
//! L = ‖LL(x̂0) − LL(zL)‖²,   z_t ← z_t − η_t·∇_z L,   x̂0 = (z_t − spread·ε)/signal,
//! ```
//!
//! with LL the low-low band of one orthonormal Haar level, and signal and spread those of the timestep's [`Level`].
//! ε is held constant, so `∂x̂0/∂z = 1/signal` and
//!
//! ```text
//! ∇_z L = (2/signal)·LLᵀ(LL(x̂0) − LL(zL)) = (2/signal)·P(x̂0 − zL),
//! ```
//!
//! because `LLᵀLL = P`, the mean over each 2 × 2 block: LL is half the sum of a block, its transpose puts half of
//! that into each of the four places, and a quarter of the sum is the mean. With `λ = 2·η_t/signal²`, which is at most 1
//! where the step does not overshoot,
//!
//! ```text
//! z_t ← z_t − signal·λ·P(x̂0 − zL),   that is   x̂0 ← x̂0 − λ·P(x̂0 − zL),
//! ```
//!
//! and any sampler may then step from the new `z_t` with the old ε. Since `signal·x̂0 = z_t − spread·ε`, no division
//! is left:
//!
//! ```text
//! z_t ← z_t − λ·P(z_t − spread·ε − signal·zL).
//! ```
//!
//! One pass, no back-propagation, no memory beyond the band of rows at hand. It acts on the fused canvas. Under
//! plain averaging with even region starts that equals acting on every region, for P then commutes with the fusion
//! (a feather changes within a block, so there the two differ a little).

use rayon::prelude::*;

use crate::sampler::Level;

/// Errors of the structure prior: all of them a caller's mistakes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StructureError {
    /// A weight outside [0, 1].
    #[error("a structure weight of {weight} is not possible: it must be 0 to 1")]
    Weight {
        /// The weight asked for.
        weight: f64,
    },
    /// Slices that are not the same number of whole rows.
    #[error("{what} holds {actual} values where {expected} are needed")]
    Length {
        /// Name of the slice.
        what: &'static str,
        /// Number of values needed.
        expected: usize,
        /// Number of values given.
        actual: usize,
    },
}

/// The prior with its settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StructurePrior {
    weight: f64,
    levels: u32,
}

impl StructurePrior {
    /// A prior of weight λ, 0 (off) to 1 (the first step takes the input's low band as it is), with one Haar level.
    ///
    /// # Errors
    /// [`StructureError::Weight`].
    pub fn new(weight: f64) -> Result<Self, StructureError> {
        if (0.0..=1.0).contains(&weight) {
            Ok(Self { weight, levels: 1 })
        } else {
            Err(StructureError::Weight { weight })
        }
    }

    /// Side of the blocks, in latent pixels. Bands must start at a multiple of it.
    pub fn block(&self) -> usize {
        1 << self.levels
    }

    /// `λ_i = λ·½(1 + cos(π·i/K))` for step `i` of the `K` that are run: λ at first, falling towards 0. Never
    /// above 1; 0 from step `K` on.
    pub fn lambda(&self, i: usize, k: usize) -> f32 {
        if i >= k {
            return 0.0;
        }
        let cosine = (std::f64::consts::PI * i as f64 / k as f64).cos();
        (self.weight * 0.5 * (1.0 + cosine)).clamp(0.0, 1.0) as f32
    }

    /// Pulls a band of the canvas: `z ← z − λ·P(z − spread·ε − signal·zL)`, in place.
    ///
    /// `z`, `eps` and `zl` are the same rows of `z_t`, of the fused noise prediction and of the input's latent,
    /// `[rows, width, channels]`, with `row` giving width and channels; `level` is that of the timestep that `z` is at;
    /// `lambda` is in [0, 1], from [`StructurePrior::lambda`]. The band starts at a multiple of [`StructurePrior::block`] and holds a multiple
    /// of it, but for the last band of the canvas: there, as on the right edge, a block that is cut short counts
    /// with what it has. The result does not depend on how the canvas is cut into bands or on threads.
    ///
    /// # Errors
    /// [`StructureError::Length`]; nothing is changed then.
    pub fn apply(
        &self,
        z: &mut [f32],
        eps: &[f32],
        zl: &[f32],
        level: Level,
        lambda: f32,
        row: (usize, usize),
    ) -> Result<(), StructureError> {
        let (width, channels) = row;
        let row_len = width * channels;
        let whole_rows = z.len().checked_div(row_len).unwrap_or(0) * row_len;
        for (what, expected, actual) in [
            ("a band of whole rows", whole_rows, z.len()),
            ("the band of the noise prediction", z.len(), eps.len()),
            ("the band of the input's latent", z.len(), zl.len()),
        ] {
            if expected != actual {
                return Err(StructureError::Length { what, expected, actual });
            }
        }
        if lambda == 0.0 || z.is_empty() {
            return Ok(());
        }
        let terms = Terms {
            spread: level.spread as f32,
            signal: level.signal as f32,
            lambda,
            block: self.block(),
            row_len,
            channels,
        };
        let strip = self.block() * row_len;
        z.par_chunks_mut(strip)
            .zip(eps.par_chunks(strip))
            .zip(zl.par_chunks(strip))
            .for_each(|((z, eps), zl)| terms.pull_strip(z, eps, zl));
        Ok(())
    }
}

/// The constants of one application.
struct Terms {
    spread: f32,
    signal: f32,
    lambda: f32,
    block: usize,
    row_len: usize,
    channels: usize,
}

impl Terms {
    /// One strip of blocks: `block` rows, or fewer at the bottom edge.
    fn pull_strip(&self, z: &mut [f32], eps: &[f32], zl: &[f32]) {
        let rows = z.len() / self.row_len;
        let block_len = self.block * self.channels;
        for start in (0..self.row_len).step_by(block_len) {
            let end = (start + block_len).min(self.row_len);
            let share = self.lambda / (rows * (end - start) / self.channels) as f32;
            for c in 0..self.channels {
                let places = (0..rows).flat_map(|y| {
                    (y * self.row_len + start + c..y * self.row_len + end).step_by(self.channels)
                });
                let sum: f32 =
                    places.clone().map(|i| z[i] - self.spread * eps[i] - self.signal * zl[i]).sum();
                places.for_each(|i| z[i] -= share * sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use safetensors::SafeTensors;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Case {
        height: usize,
        width: usize,
        channels: usize,
        /// Of betas, or σ of flow matching.
        abar: Option<f32>,
        sigma: Option<f64>,
        eta: f64,
        levels: u32,
    }

    impl Case {
        fn level(&self) -> Level {
            match (self.abar, self.sigma) {
                (Some(abar), _) => level(abar),
                (None, sigma) => Level::flow(sigma.unwrap()),
            }
        }
    }

    fn values(file: &SafeTensors, name: &str) -> Vec<f32> {
        let data = file.tensor(name).unwrap().data();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn level(abar: f32) -> Level {
        Level::variance_preserving(f64::from(abar))
    }

    /// Numbers without a pattern, about -2 to 2.
    fn wave(len: usize, k: f64) -> Vec<f32> {
        (0..len).map(|i| ((i as f64 * k).sin() * 2.0) as f32).collect()
    }

    #[test]
    fn the_closed_form_equals_autograd_through_an_explicit_haar_transform() {
        let file = include_bytes!("../../tests/fixtures/structure/gsp.safetensors");
        equals_autograd(file, include_str!("../../tests/fixtures/structure/gsp.json"), 5);
    }

    #[test]
    fn the_closed_form_equals_autograd_in_flow_matching_too() {
        let file = include_bytes!("../../tests/fixtures/structure/flow.safetensors");
        equals_autograd(file, include_str!("../../tests/fixtures/structure/flow.json"), 4);
    }

    /// Holds the prior against the cases of a fixture, this many.
    fn equals_autograd(file: &[u8], cases: &str, count: usize) {
        let file = SafeTensors::deserialize(file).unwrap();
        let cases: BTreeMap<String, Case> = serde_json::from_str(cases).unwrap();
        assert_eq!(cases.len(), count);
        for (name, case) in &cases {
            let of = |part: &str| values(&file, &format!("{name}.{part}"));
            let (before, eps, zl, expected) = (of("z"), of("eps"), of("zl"), of("after"));
            assert_eq!(before.len(), case.height * case.width * case.channels);
            let mut z = before.clone();
            let prior = StructurePrior { weight: 1.0, levels: case.levels };
            let (level, row) = (case.level(), (case.width, case.channels));
            let lambda = (2.0 * case.eta / (level.signal * level.signal)) as f32;
            prior.apply(&mut z, &eps, &zl, level, lambda, row).unwrap();
            // The change itself, not only the sum it is a small part of.
            let change =
                |after: &[f32]| after.iter().zip(&before).map(|(a, b)| a - b).collect::<Vec<f32>>();
            let (ours, theirs) = (change(&z), change(&expected));
            let scale = theirs.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let error =
                ours.iter().zip(&theirs).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / scale;
            assert!(error <= 1e-5, "{name}: relative error {error}");
            assert!(scale > 1e-3, "{name}: the prior did nothing");
        }
    }

    #[test]
    fn a_weight_of_one_gives_x0_the_low_band_of_the_input_and_keeps_its_details() {
        let (height, width, channels, abar) = (6, 8, 3, 0.46671f32);
        let len = height * width * channels;
        let (before, eps, zl) = (wave(len, 0.73), wave(len, 1.91), wave(len, 0.31));
        let mut z = before.clone();
        let prior = StructurePrior::new(1.0).unwrap();
        let row = (width, channels);
        prior.apply(&mut z, &eps, &zl, level(abar), prior.lambda(0, 4), row).unwrap();
        let x0 = |z: &[f32], i: usize| (z[i] - (1.0 - abar).sqrt() * eps[i]) / abar.sqrt();
        for y in (0..height).step_by(2) {
            for x in (0..width).step_by(2) {
                for c in 0..channels {
                    let at = |dy: usize, dx: usize| ((y + dy) * width + x + dx) * channels + c;
                    let block = [at(0, 0), at(0, 1), at(1, 0), at(1, 1)];
                    let low =
                        |v: &dyn Fn(usize) -> f32| block.iter().map(|&i| v(i)).sum::<f32>() / 2.0;
                    assert!((low(&|i| x0(&z, i)) - low(&|i| zl[i])).abs() < 1e-5);
                    for &i in &block {
                        let detail = |z: &[f32]| x0(z, i) - x0(z, block[0]);
                        assert!((detail(&z) - detail(&before)).abs() < 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_cut_short_at_odd_edges_count_with_what_they_have() {
        for (height, width, channels, levels) in
            [(1, 1, 2, 1), (3, 5, 2, 1), (5, 1, 1, 1), (7, 10, 3, 2), (3, 3, 1, 3)]
        {
            let len = height * width * channels;
            let (before, eps, zl) = (wave(len, 0.73), wave(len, 1.91), wave(len, 0.31));
            let (abar, lambda) = (0.6f32, 0.7f32);
            let prior = StructurePrior { weight: 1.0, levels };
            let mut z = before.clone();
            prior.apply(&mut z, &eps, &zl, level(abar), lambda, (width, channels)).unwrap();
            let block = prior.block();
            for (i, &ours) in z.iter().enumerate() {
                let (y, x, c) = (i / channels / width, i / channels % width, i % channels);
                let (mut sum, mut count) = (0.0, 0.0);
                for yy in (y / block * block..height).take(block) {
                    for xx in (x / block * block..width).take(block) {
                        let j = (yy * width + xx) * channels + c;
                        let (signal, spread) =
                            (f64::from(abar).sqrt(), (1.0 - f64::from(abar)).sqrt());
                        sum += f64::from(before[j])
                            - spread * f64::from(eps[j])
                            - signal * f64::from(zl[j]);
                        count += 1.0;
                    }
                }
                let expected = f64::from(before[i]) - f64::from(lambda) * sum / count;
                assert!(
                    (f64::from(ours) - expected).abs() < 1e-5,
                    "{height} x {width}, level {levels}, at {i}"
                );
            }
        }
    }

    #[test]
    fn bands_and_threads_do_not_change_a_bit() {
        let (height, width, channels) = (22, 13, 4);
        let len = height * width * channels;
        let (before, eps, zl) = (wave(len, 0.73), wave(len, 1.91), wave(len, 0.31));
        let prior = StructurePrior::new(0.4).unwrap();
        let run = |threads: usize, band_rows: usize| {
            let mut z = before.clone();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let band = band_rows * width * channels;
            pool.install(|| {
                for ((z, eps), zl) in z.chunks_mut(band).zip(eps.chunks(band)).zip(zl.chunks(band))
                {
                    prior.apply(z, eps, zl, level(0.5), 0.4, (width, channels)).unwrap();
                }
            });
            z.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        let whole = run(1, height);
        assert_ne!(whole, before.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        assert_eq!(run(3, height), whole);
        assert_eq!(run(2, 4), whole);
    }

    #[test]
    fn lambda_falls_along_a_cosine_from_the_weight_towards_zero() {
        let prior = StructurePrior::new(0.2).unwrap();
        let lambdas: Vec<f32> = (0..5).map(|i| prior.lambda(i, 4)).collect();
        // 0.2 times 1, (1 + cos 45°)/2, 1/2, (1 + cos 135°)/2; nothing after the last step.
        let expected = [0.2, 0.170_710_68, 0.1, 0.029_289_32, 0.0];
        assert!(lambdas.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7), "{lambdas:?}");
        assert_eq!(StructurePrior::new(1.0).unwrap().lambda(0, 1), 1.0);
        assert_eq!(prior.lambda(0, 0), 0.0);
    }

    #[test]
    fn mistakes_are_typed_errors_and_leave_the_canvas_alone() {
        for weight in [-0.1, 1.5, f64::NAN] {
            assert!(matches!(StructurePrior::new(weight), Err(StructureError::Weight { .. })));
        }
        let prior = StructurePrior::new(0.5).unwrap();
        let mut z = vec![1.0f32; 12];
        for (len, width) in [(11, 3), (12, 5), (12, 0)] {
            let rest = vec![0.0; len];
            let result = prior.apply(&mut z, &rest, &rest, level(0.5), 0.5, (width, 2));
            assert!(matches!(result, Err(StructureError::Length { .. })), "{len} {width}");
        }
        assert!(z.iter().all(|&v| v == 1.0));
    }
}
