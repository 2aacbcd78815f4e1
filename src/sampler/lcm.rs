//! LCM (Luo et al.: "Latent Consistency Models", 2023), as diffusers' `scheduling_lcm.py`: what Hyper-SDXL's one-step
//! model is sampled with, at the one timestep 800.

use super::{
    clip::Limit,
    config::SchedulerConfig,
    descriptor::{Descriptor, any_config, none_left_out},
    error::SamplerError,
    interface::{Sampler, steps_at},
    level::{Level, NoiseProcess},
    schedule::Schedule,
    step::{Step, Terms},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "lcm",
    class: "LCMScheduler",
    stands_in_for: &[],
    process: NoiseProcess::VariancePreserving,
    default_eta: None,
    has_spacing: false,
    has_sigmas: false,
    is_asked_by: any_config,
    left_out: none_left_out,
    build: |config, _| Ok(Box::new(Lcm::new(config)?)),
};

/// σ_data of the boundary condition: the spread that the consistency models' authors take data to have.
const SIGMA_DATA: f64 = 0.5;

/// The LCM sampler: each step predicts the clean latent and noises it to the next timestep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lcm {
    origin_steps: usize,
    timestep_scaling: f64,
    limit: Option<Limit>,
}

impl Lcm {
    /// LCM for a model distilled at the config's `original_inference_steps`, with its `timestep_scaling` and its clipping
    /// of x̂0 (`thresholding`, else `clip_sample`).
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedSetting`] for a scaling that is not a number above 0.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        let timestep_scaling = config.timestep_scaling;
        if !(timestep_scaling > 0.0 && timestep_scaling.is_finite()) {
            return Err(SamplerError::UnsupportedSetting {
                setting: "timestep_scaling",
                reason: "it must be a number above 0 (the usual one is 10)",
            });
        }
        let origin_steps = config.original_inference_steps;
        Ok(Self { origin_steps, timestep_scaling, limit: Limit::of(config) })
    }
}

impl Sampler for Lcm {
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        self.through(schedule, &schedule.distilled_timesteps(self.origin_steps, n)?)
    }

    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        steps_at(schedule, timesteps, Level::CLEAN)
    }

    /// `x = c_skip·z + c_out·x̂0` with `c_skip = σ²/(s²+σ²)`, `c_out = s/√(s²+σ²)`, s the scaled timestep (Luo et al.,
    /// section 3.2, as the reference has it), and `z' = signal'·x + spread'·n`; the last step gives x itself.
    fn update(&self, _: &Schedule, _: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let scaled = step.t * self.timestep_scaling;
        let power = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        let (c_skip, c_out) = (SIGMA_DATA * SIGMA_DATA / power, scaled / power.sqrt());
        let Level { signal, spread } = step.to;
        let terms = Terms { z: signal * c_skip, x0: signal * c_out, eps: 0.0 };
        Update::new(step, terms, spread, self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaling_that_makes_no_boundary_condition_is_refused() {
        for scaling in ["0", "-1"] {
            let text =
                format!(r#"{{"_class_name": "LCMScheduler", "timestep_scaling": {scaling}}}"#);
            let error = Lcm::new(&SchedulerConfig::from_json(&text).unwrap()).unwrap_err();
            assert!(error.to_string().contains("timestep_scaling"), "{error}");
        }
    }
}
