//! LCM (Luo et al.: "Latent Consistency Models", 2023), as diffusers' `scheduling_lcm.py`: what Hyper-SDXL's one-step
//! model is sampled with, at the one timestep 800.

use super::{
    config::SchedulerConfig,
    descriptor::{Descriptor, clipping},
    error::SamplerError,
    level::Level,
    schedule::Schedule,
    step::{Sampler, Step, steps_through},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "lcm",
    class: "LCMScheduler",
    stands_in_for: &[],
    default_eta: None,
    has_spacing: false,
    left_out: clipping,
    build: |config, _| Ok(Box::new(Lcm::new(config)?)),
};

/// σ_data of the boundary condition: the spread that the consistency models' authors take data to have.
const SIGMA_DATA: f64 = 0.5;

/// The LCM sampler: each step predicts the clean latent and noises it to the next timestep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lcm {
    origin_steps: usize,
    timestep_scaling: f64,
}

impl Lcm {
    /// LCM for a model distilled at the config's `original_inference_steps`, with its `timestep_scaling`.
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
        Ok(Self { origin_steps: config.original_inference_steps, timestep_scaling })
    }
}

impl Sampler for Lcm {
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        Ok(steps_through(&schedule.distilled_timesteps(self.origin_steps, n)?))
    }

    /// `x = c_skip·z + c_out·x̂0` with `c_skip = σ²/(s²+σ²)`, `c_out = s/√(s²+σ²)`, s the scaled timestep (Luo et al.,
    /// section 3.2, as the reference has it), and `z' = signal'·x + spread'·n`; the last step gives x itself.
    fn update(&self, schedule: &Schedule, _: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let level = schedule.level_with_signal(step.t)?;
        let scaled = step.t * self.timestep_scaling;
        let power = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        let (c_skip, c_out) = (SIGMA_DATA * SIGMA_DATA / power, scaled / power.sqrt());
        let to = step.t_prev.map_or(Ok(Level::CLEAN), |t| schedule.level(t))?;
        let z = to.signal * (c_skip + c_out / level.signal);
        let eps = -to.signal * c_out * level.spread / level.signal;
        Ok(Update::one_step(z, eps, to.spread))
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
