//! Euler's method (Karras et al.: "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022), as
//! diffusers' `scheduling_euler_discrete.py`: what SDXL's own folder asks for.
//!
//! The reference walks in `x = z/signal` by the noise level `σ = spread/signal`: `x' = x + (σ'−σ)·ε`, and scales x back to
//! z for the denoiser. Our canvas stays z. Multiplied by signal' the step is `z' = signal'·x̂0 + spread'·ε`: DDIM's without
//! noise. What sets Euler apart is where it goes: to the next timestep of its list, to σ = 0 in the end, and with
//! linspace spacing through fractions of timesteps.

use super::{
    config::{FinalSigmas, SchedulerConfig, TimestepSpacing},
    descriptor::{Descriptor, first_wanted, other_sigmas},
    error::SamplerError,
    level::Level,
    schedule::Schedule,
    step::{Sampler, Step, steps_through},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "euler",
    class: "EulerDiscreteScheduler",
    // The solvers in σ integrate the equation that Euler's method integrates, down to σ = 0.
    stands_in_for: &[
        "DEISMultistepScheduler",
        "DPMSolverSDEScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LMSDiscreteScheduler",
        "SASolverScheduler",
        "UniPCMultistepScheduler",
    ],
    default_eta: None,
    has_spacing: true,
    left_out: |config| {
        let interpolation = config.interpolation_type.as_deref();
        let own = interpolation.is_some_and(|kind| kind != "linear");
        other_sigmas(config).or(first_wanted([("an interpolation_type of its own", own)]))
    },
    build: |config, _| Ok(Box::new(Euler::new(config))),
};

/// The Euler sampler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Euler {
    final_sigmas: FinalSigmas,
}

impl Euler {
    /// Euler with the config's final σ, through the noise levels of the training.
    #[must_use]
    pub fn new(config: &SchedulerConfig) -> Self {
        Self { final_sigmas: config.final_sigmas_type }
    }
}

impl Sampler for Euler {
    /// DDIM's timesteps, except that linspace spacing is not rounded.
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
        Ok(steps_through(&timesteps))
    }

    fn update(&self, schedule: &Schedule, _: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let to = match (step.t_prev, self.final_sigmas) {
            (Some(t), _) => schedule.level(t)?,
            (None, FinalSigmas::Zero) => Level::CLEAN,
            (None, FinalSigmas::SigmaMin) => schedule.level(0.0)?,
        };
        let (z, eps) = schedule.level_with_signal(step.t)?.towards(to, to.spread);
        Ok(Update::one_step(z, eps, 0.0))
    }
}
