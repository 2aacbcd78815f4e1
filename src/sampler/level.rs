//! Noise levels are two numbers, signal and spread, so that samplers, priors and the canvas say the same of every noise
//! process (docs/method.md §1).

/// A noise level: `z = signal·x0 + spread·n`, with n standard normal.
///
/// Both numbers are in 0..=1. The clean latent has signal 1 and spread 0, pure noise the reverse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Factor of the clean latent x0.
    pub signal: f64,
    /// Factor of the noise n: its standard deviation.
    pub spread: f64,
}

impl Level {
    /// The level without noise.
    pub const CLEAN: Self = Self { signal: 1.0, spread: 0.0 };

    /// The level of a variance-preserving process: `signal = √ā`, `spread = √(1−ā)`; `abar` is ᾱ, 0 to 1.
    #[must_use]
    pub fn variance_preserving(abar: f64) -> Self {
        Self { signal: abar.sqrt(), spread: (1.0 - abar).sqrt() }
    }

    /// The level of flow matching: `signal = 1−σ`, `spread = σ`, σ from 0 (clean) to 1 (noise).
    #[must_use]
    pub fn flow(sigma: f64) -> Self {
        Self { signal: 1.0 - sigma, spread: sigma }
    }

    /// Half the logarithm of the signal-to-noise ratio, `ln(signal/spread)`: the λ that the solvers of Lu et al. walk
    /// by. Infinite for the clean latent.
    #[must_use]
    pub fn log_snr(self) -> f64 {
        (self.signal / self.spread).ln()
    }

    /// Factors of z and of ε in the clean latent that they imply, `x̂0 = (z − spread·ε)/signal`.
    pub(super) fn x0(self) -> (f64, f64) {
        (1.0 / self.signal, -self.spread / self.signal)
    }

    /// Factors of z and of ε in `signal'·x̂0 + direction·ε`, `signal'` that of `to`: the clean latent that z (at this
    /// level) and ε imply, noised again with the predicted noise. With `direction = spread'` it lies at `to`.
    pub(super) fn towards(self, to: Self, direction: f64) -> (f64, f64) {
        let z = to.signal / self.signal;
        (z, direction - z * self.spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_either_process_gives_back_what_it_was_made_of() {
        for level in [Level::variance_preserving as fn(f64) -> Level, Level::flow] {
            let (from, to) = (level(0.625), level(0.25));
            let (x0, n) = (1.5, -0.75);
            let at = |level: Level| level.signal * x0 + level.spread * n;
            let (z, eps) = from.x0();
            assert!((z * at(from) + eps * n - x0).abs() < 1e-15);
            let (z, eps) = from.towards(to, to.spread);
            assert!((z * at(from) + eps * n - at(to)).abs() < 1e-15);
        }
    }

    #[test]
    fn a_step_of_flow_matching_is_eulers_along_the_velocity() {
        let (z, eps, sigma, next) = (0.8, -0.3, 0.75, 0.5);
        let (from, to) = (Level::flow(sigma), Level::flow(next));
        // v = ε − x̂0, and z' = z + (σ'−σ)·v.
        let velocity = eps - (z - sigma * eps) / (1.0 - sigma);
        let (of_z, of_eps) = from.towards(to, to.spread);
        assert!((of_z * z + of_eps * eps - (z + (next - sigma) * velocity)).abs() < 1e-15);
    }

    #[test]
    fn the_ends_of_both_processes_are_the_same() {
        assert_eq!(Level::variance_preserving(1.0), Level::CLEAN);
        assert_eq!(Level::flow(0.0), Level::CLEAN);
        assert_eq!(Level::variance_preserving(0.0), Level::flow(1.0));
        assert_eq!(Level::CLEAN.log_snr(), f64::INFINITY);
    }
}
