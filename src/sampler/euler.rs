//! Euler's method (Karras et al.: "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022), as
//! diffusers' `scheduling_euler_discrete.py`: what SDXL's own folder asks for.
//!
//! The reference walks in `x = z/signal` by the noise level `σ = spread/signal`: `x' = x + (σ'−σ)·ε`, and scales x back to
//! z for the denoiser. Our canvas stays z. Multiplied by signal' the step is `z' = signal'·x̂0 + spread'·ε`: DDIM's without
//! noise. What sets Euler apart is where it goes: to the next timestep of its list, to σ = 0 in the end, and with
//! linspace spacing through fractions of timesteps.

use super::{
    config::{FinalSigmas, SchedulerConfig, TimestepSpacing},
    descriptor::{Descriptor, any_config, none_left_out},
    error::SamplerError,
    interface::{Sampler, steps_through},
    level::{Level, NoiseProcess},
    schedule::Schedule,
    sigmas::{SigmaSpread, Sigmas, timestep_of},
    step::{Step, Terms},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "euler",
    class: "EulerDiscreteScheduler",
    // The solvers in σ integrate the equation that Euler's method integrates, down to σ = 0.
    stands_in_for: &[
        "DEISMultistepScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LMSDiscreteScheduler",
        "SASolverScheduler",
    ],
    process: NoiseProcess::VariancePreserving,
    default_eta: None,
    has_spacing: true,
    has_sigmas: true,
    is_asked_by: any_config,
    left_out: none_left_out,
    build: |config, _| Ok(Box::new(Euler::new(config)?)),
};

/// The Euler sampler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Euler {
    final_sigmas: FinalSigmas,
    sigmas: Sigmas,
    log_linear: bool,
}

impl Euler {
    /// Euler with the config's final σ, through the noise levels of the training or those that the config asks for.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedSetting`] for an interpolation that the reference does not have either, or for noise
    /// levels that cannot be.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        let log_linear = match config.interpolation_type.as_deref() {
            None | Some("linear") => false,
            Some("log_linear") => true,
            Some(_) => {
                return Err(SamplerError::UnsupportedSetting {
                    setting: "interpolation_type",
                    reason: "it must be linear or log_linear",
                });
            }
        };
        let final_sigmas = config.final_sigmas_type;
        Ok(Self { final_sigmas, sigmas: Sigmas::of(config)?, log_linear })
    }

    /// The level after the last step.
    fn end(&self, schedule: &Schedule) -> Result<Level, SamplerError> {
        match self.final_sigmas {
            FinalSigmas::Zero => Ok(Level::CLEAN),
            FinalSigmas::SigmaMin => schedule.level(0.0),
        }
    }

    /// The steps at timesteps whose levels are spread evenly in ln σ over the whole training, one more than there are
    /// timesteps: the last step leads to the lowest of them.
    fn log_linear(
        &self,
        schedule: &Schedule,
        timesteps: &[f64],
    ) -> Result<Vec<Step>, SamplerError> {
        let sigmas = schedule.solvers_sigmas()?;
        let ends = (f64::from(sigmas[sigmas.len() - 1]), f64::from(sigmas[0]));
        let plain = Sigmas { least: None, greatest: None, ..self.sigmas };
        let levels = plain.spread(SigmaSpread::Exponential, ends, timesteps.len() + 1);
        let mut levels = levels.into_iter().map(level_of);
        let points: Vec<_> = timesteps.iter().copied().zip(&mut levels).collect();
        Ok(steps_through(schedule, &points, levels.next().unwrap_or(Level::CLEAN)))
    }
}

/// The level of a σ, which the reference keeps in f32.
fn level_of(sigma: f64) -> Level {
    Level::of_sigma(f64::from(sigma as f32))
}

impl Sampler for Euler {
    /// DDIM's timesteps, except that linspace spacing is not rounded; with levels of their own, the timesteps of these.
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        let mut timesteps: Vec<f64> =
            schedule.timesteps(n)?.into_iter().map(|t| t as f64).collect();
        if schedule.spacing() == TimestepSpacing::Linspace && n > 1 {
            let increment = (schedule.train_timesteps() - 1) as f64 / (n - 1) as f64;
            for (i, t) in timesteps.iter_mut().rev().enumerate() {
                // The reference keeps its timesteps in f32.
                *t = f64::from((i as f64 * increment) as f32);
            }
        }
        let Some(spread) = self.sigmas.spread else { return self.through(schedule, &timesteps) };
        let sigmas = schedule.solvers_sigmas()?;
        // Between the levels of the first and the last timestep.
        let end = |t: f64| -> f64 {
            let (below, above) = (t.floor() as usize, t.ceil() as usize);
            let (low, high) = (f64::from(sigmas[below]), f64::from(sigmas[above]));
            low + t.fract() * (high - low)
        };
        let ends = if self.log_linear {
            (f64::from(sigmas[sigmas.len() - 1]), f64::from(sigmas[0]))
        } else {
            (end(timesteps[0]), end(timesteps[n - 1]))
        };
        let logs: Vec<f32> = sigmas.iter().map(|sigma| sigma.ln()).collect();
        let point = |sigma: f64| (f64::from(timestep_of(sigma, &logs) as f32), level_of(sigma));
        let points: Vec<_> = self.sigmas.spread(spread, ends, n).into_iter().map(point).collect();
        Ok(steps_through(schedule, &points, self.end(schedule)?))
    }

    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        self.sigmas.refuse_list()?;
        if self.log_linear {
            return self.log_linear(schedule, timesteps);
        }
        let point = |&t: &f64| Ok((t, schedule.solvers_level(t)?));
        let points = timesteps.iter().map(point).collect::<Result<Vec<_>, SamplerError>>()?;
        Ok(steps_through(schedule, &points, self.end(schedule)?))
    }

    /// The reference begins at σ·n, and with leading timesteps at √(σ²+1)·n.
    fn initial_noise(&self, schedule: &Schedule, first: &Step) -> f64 {
        match schedule.spacing() {
            TimestepSpacing::Leading => 1.0,
            TimestepSpacing::Trailing | TimestepSpacing::Linspace => first.level.spread,
        }
    }

    fn update(&self, _: &Schedule, _: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let terms = Terms { z: 0.0, x0: step.to.signal, eps: step.to.spread };
        Update::new(step, terms, 0.0, None)
    }
}
