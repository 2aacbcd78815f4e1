//! TCD (Zheng et al.: "Trajectory Consistency Distillation", 2024), as diffusers' `scheduling_tcd.py`: what Hyper-SDXL's
//! unified LoRA is sampled with.

use super::{
    config::SchedulerConfig,
    descriptor::{Descriptor, any_config, check_eta, none_left_out},
    error::SamplerError,
    interface::{Sampler, steps_at},
    level::NoiseProcess,
    schedule::Schedule,
    step::{Step, Terms},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "tcd",
    class: "TCDScheduler",
    stands_in_for: &[],
    process: NoiseProcess::VariancePreserving,
    default_eta: Some(Tcd::DEFAULT_ETA),
    has_spacing: false,
    has_sigmas: false,
    // The reference's step does not look at `clip_sample` and `thresholding`, though its class has them.
    is_asked_by: any_config,
    left_out: none_left_out,
    build: |config, eta| Ok(Box::new(Tcd::new(config, eta)?)),
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
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        self.through(schedule, &schedule.distilled_timesteps(self.origin_steps, n)?)
    }

    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        steps_at(schedule, timesteps, schedule.level(0.0)?)
    }

    /// `u = ⌊(1−η)·t'⌋`, `z_u = signal_u·x̂0 + spread_u·ε`, and
    /// `z' = k·z_u + √(spread'² − k²·spread_u²)·n`, `k = signal'/signal_u`, unless it is the last step or η is 0 (for a
    /// variance-preserving process the root is `√(1−ā'/ā_u)`). The last step leads to timestep 0, whatever the config
    /// says of the final level.
    fn update(&self, schedule: &Schedule, _: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let t_prev = step.t_prev.unwrap_or(0.0);
        // The reference multiplies in f32, and the floor of a product is not forgiving.
        let u = f64::from(((1.0 - self.eta) as f32 * t_prev as f32).floor());
        let below = schedule.level(u)?;
        if self.eta == 0.0 || step.last {
            let terms = Terms { z: 0.0, x0: below.signal, eps: below.spread };
            return Update::new(step, terms, 0.0, None);
        }
        let back = step.to.signal / below.signal;
        let left = back * below.spread;
        let noise = (step.to.spread * step.to.spread - left * left).max(0.0).sqrt();
        Update::new(step, Terms { z: 0.0, x0: step.to.signal, eps: left }, noise, None)
    }
}
