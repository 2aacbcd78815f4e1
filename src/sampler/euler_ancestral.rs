//! Euler's method with ancestral noise, as diffusers' `scheduling_euler_ancestral_discrete.py`: the "Euler a" of many
//! programs. Each step goes below the next noise level and comes back up to it with fresh noise.

use super::{
    config::SchedulerConfig,
    descriptor::{Descriptor, any_config, none_left_out},
    error::SamplerError,
    euler::Euler,
    interface::Sampler,
    level::{Level, NoiseProcess},
    schedule::Schedule,
    step::{Step, Terms},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "euler-a",
    class: "EulerAncestralDiscreteScheduler",
    stands_in_for: &[],
    process: NoiseProcess::VariancePreserving,
    default_eta: None,
    has_spacing: true,
    has_sigmas: true,
    is_asked_by: any_config,
    left_out: none_left_out,
    build: |config, _| Ok(Box::new(EulerAncestral::new(config)?)),
};

/// The ancestral Euler sampler: [`Euler`]'s steps, with fresh noise in all but the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EulerAncestral(Euler);

impl EulerAncestral {
    /// The sampler with the settings of [`Euler::new`].
    ///
    /// # Errors
    /// Those of [`Euler::new`].
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        Ok(Self(Euler::new(config)?))
    }
}

/// How a step from one σ to another divides: the lower σ that it goes to, and the standard deviation of the noise that it
/// comes back with. `σ↑ = (σ'/σ)·√(σ²−σ'²)` and `σ↓² + σ↑² = σ'²`, so that `σ↓ = σ'²/σ`.
pub(super) fn ancestral(from: Level, to: Level) -> (f64, f64) {
    let (sigma, next) = (from.spread / from.signal, to.spread / to.signal);
    let up = next / sigma * (sigma * sigma - next * next).max(0.0).sqrt();
    (next * next / sigma, up)
}

impl Sampler for EulerAncestral {
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        self.0.steps(schedule, n)
    }

    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        self.0.through(schedule, timesteps)
    }

    fn initial_noise(&self, schedule: &Schedule, first: &Step) -> f64 {
        self.0.initial_noise(schedule, first)
    }

    /// In the reference's `x = z/signal`: `x' = x + (σ↓−σ)·ε + σ↑·n`, which is `z' = signal'·(x̂0 + σ↓·ε + σ↑·n)`.
    fn update(&self, _: &Schedule, _: &[Step], step: &Step) -> Result<Update, SamplerError> {
        if step.level.signal <= 0.0 {
            return Err(SamplerError::NoSignal { t: step.t });
        }
        let (down, up) = ancestral(step.level, step.to);
        let signal = step.to.signal;
        let terms = Terms { z: 0.0, x0: signal, eps: signal * down };
        Update::new(step, terms, signal * up, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_makes_up_for_what_a_step_goes_too_far() {
        let (from, to) = (Level::of_sigma(3.0), Level::of_sigma(1.5));
        let (down, up) = ancestral(from, to);
        assert!((down.hypot(up) - 1.5).abs() < 1e-12 && down < 1.5, "{down} {up}");
        assert_eq!(ancestral(from, Level::CLEAN), (0.0, 0.0));
    }
}
