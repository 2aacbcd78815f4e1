//! Euler's method (Karras et al.: "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022), as
//! diffusers' `scheduling_euler_discrete.py`: what SDXL's own folder asks for.
//!
//! The reference walks in `x = z/√ā` by the noise level `σ = √((1−ā)/ā)`: `x' = x + (σ'−σ)·ε`, and scales x back to z for
//! the UNet. Our canvas stays z. Multiplied by √ā' the step is `z' = √ā'·x̂0 + √(1−ā')·ε`: DDIM's without noise. What
//! sets Euler apart is where it goes: to the next timestep of its list, to σ = 0 in the end, and with linspace
//! spacing through fractions of timesteps.

use super::{
    FinalSigmas, Sampler, SamplerError, SamplerKind, Schedule, SchedulerConfig, Step,
    TimestepSpacing, Update, steps_through, update,
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
    fn kind(&self) -> SamplerKind {
        SamplerKind::Euler
    }

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

    fn update(&self, schedule: &Schedule, step: &Step) -> Result<Update, SamplerError> {
        let abar_prev = match (step.t_prev, self.final_sigmas) {
            (Some(t), _) => f64::from(schedule.abar(t)?),
            (None, FinalSigmas::Zero) => 1.0,
            (None, FinalSigmas::SigmaMin) => f64::from(schedule.abar(0.0)?),
        };
        let direction = (1.0 - abar_prev).sqrt();
        let (z, eps) = update::towards(schedule.abar_with_signal(step.t)?, abar_prev, direction);
        Ok(Update { z: z as f32, eps: eps as f32, noise: 0.0 })
    }
}
