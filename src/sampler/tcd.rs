//! TCD (Zheng et al.: "Trajectory Consistency Distillation", 2024), as diffusers' `scheduling_tcd.py`: what Hyper-SDXL's
//! unified LoRA is sampled with.

use super::{
    Sampler, SamplerError, SamplerKind, Schedule, SchedulerConfig, Step, Update, check_eta,
    steps_through, update,
};

/// The TCD sampler. Each step jumps below the next timestep and comes back up to it with fresh noise; `eta` (γ in
/// the paper) says how far below: 0 not at all, 1 down to the clean picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tcd {
    eta: f64,
    origin_steps: usize,
}

impl Tcd {
    /// The reference's own.
    pub const DEFAULT_ETA: f64 = 0.3;

    /// TCD with this share of fresh noise, for a model distilled at the config's `original_inference_steps`.
    ///
    /// # Errors
    /// [`SamplerError::Eta`] unless `0 <= eta <= 1`.
    pub fn new(config: &SchedulerConfig, eta: f64) -> Result<Self, SamplerError> {
        Ok(Self { eta: check_eta(eta)?, origin_steps: config.original_inference_steps })
    }
}

impl Sampler for Tcd {
    fn kind(&self) -> SamplerKind {
        SamplerKind::Tcd
    }

    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        Ok(steps_through(&schedule.distilled_timesteps(self.origin_steps, n)?))
    }

    /// `s = ⌊(1−η)·t'⌋`, `z_s = √ā_s·x̂0 + √(1−ā_s)·ε`, and `z' = √(ā'/ā_s)·z_s + √(1−ā'/ā_s)·n` unless it is the last
    /// step or η is 0. The last step leads to timestep 0, whatever the config says of the final ᾱ.
    fn update(&self, schedule: &Schedule, step: &Step) -> Result<Update, SamplerError> {
        let t_prev = step.t_prev.unwrap_or(0.0);
        // The reference multiplies in f32, and the floor of a product is not forgiving.
        let s = f64::from(((1.0 - self.eta) as f32 * t_prev as f32).floor());
        let abar_s = f64::from(schedule.abar(s)?);
        let direction = (1.0 - abar_s).sqrt();
        let (z, eps) = update::towards(schedule.abar_with_signal(step.t)?, abar_s, direction);
        if self.eta == 0.0 || step.last {
            return Ok(Update { z: z as f32, eps: eps as f32, noise: 0.0 });
        }
        let kept = f64::from(schedule.abar(t_prev)?) / abar_s;
        let back = kept.sqrt();
        Ok(Update {
            z: (back * z) as f32,
            eps: (back * eps) as f32,
            noise: (1.0 - kept).max(0.0).sqrt() as f32,
        })
    }
}
