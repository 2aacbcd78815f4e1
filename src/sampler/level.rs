//! Noise levels are two numbers, signal and spread, so that samplers, priors and the canvas say the same of every noise
//! process (docs/method.md §1).

/// The way in which training mixed pictures with noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoiseProcess {
    /// `signal² + spread² = 1`, by the betas of a training schedule.
    VariancePreserving,
    /// `signal + spread = 1`: straight lines from noise to picture.
    FlowMatching,
}

impl NoiseProcess {
    /// The name that messages print.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::VariancePreserving => "the noise of betas",
            Self::FlowMatching => "flow matching",
        }
    }
}

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

    /// The level of the solvers' σ = spread/signal, 0 and above, of a variance-preserving process.
    #[must_use]
    pub fn of_sigma(sigma: f64) -> Self {
        let signal = 1.0 / (sigma * sigma + 1.0).sqrt();
        Self { signal, spread: sigma * signal }
    }

    /// Half the logarithm of the signal-to-noise ratio, `ln(signal/spread)`: the λ that the solvers of Lu et al. walk
    /// by. Infinite for the clean latent.
    #[must_use]
    pub fn log_snr(self) -> f64 {
        (self.signal / self.spread).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_both_processes_are_the_same() {
        assert_eq!(Level::variance_preserving(1.0), Level::CLEAN);
        assert_eq!(Level::flow(0.0), Level::CLEAN);
        assert_eq!(Level::variance_preserving(0.0), Level::flow(1.0));
        assert_eq!(Level::CLEAN.log_snr(), f64::INFINITY);
        assert_eq!(Level::of_sigma(0.0), Level::CLEAN);
        let Level { signal, spread } = Level::variance_preserving(0.25);
        let same = Level::of_sigma(spread / signal);
        assert!((same.signal - signal).abs() < 1e-15 && (same.spread - spread).abs() < 1e-15);
    }
}
