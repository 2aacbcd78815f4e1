//! Euler's method along the velocity of flow matching (Lipman et al.: "Flow Matching for Generative Modeling", ICLR 2023), as
//! diffusers' `FlowMatchEulerDiscreteScheduler`: what Stable Diffusion 3 is sampled with.

use super::{
    config::SchedulerConfig,
    descriptor::{Descriptor, any_config, none_left_out},
    error::SamplerError,
    interface::{Sampler, steps_through},
    level::{Level, NoiseProcess},
    schedule::Schedule,
    step::{Step, Terms},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "flow-euler",
    class: "FlowMatchEulerDiscreteScheduler",
    // It takes a second prediction for each step, at the same levels.
    stands_in_for: &["FlowMatchHeunDiscreteScheduler"],
    process: NoiseProcess::FlowMatching,
    default_eta: None,
    has_spacing: false,
    has_sigmas: true,
    is_asked_by: any_config,
    left_out: none_left_out,
    build: |config, _| Ok(Box::new(FlowEuler::new(config))),
};

/// The Euler sampler of flow matching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEuler {
    stochastic: bool,
}

impl FlowEuler {
    /// Euler's method, with fresh noise in every step where the config asks for it (`stochastic_sampling`).
    #[must_use]
    pub fn new(config: &SchedulerConfig) -> Self {
        Self { stochastic: config.flow.stochastic_sampling }
    }
}

impl Sampler for FlowEuler {
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        Ok(steps_through(schedule, &schedule.flow()?.points(n)?, Level::CLEAN))
    }

    /// Timesteps of a list are what the denoiser is told, σ·T: nothing shifts them.
    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        let flow = schedule.flow()?;
        flow.refuse_list()?;
        let point = |&t: &f64| Ok((t, flow.level(t)?));
        let points = timesteps.iter().map(point).collect::<Result<Vec<_>, SamplerError>>()?;
        Ok(steps_through(schedule, &points, Level::CLEAN))
    }

    /// `z' = z + (σ'−σ)·v`, which is `signal'·x̂0 + spread'·ε`; with fresh noise n in the place of ε where the sampling
    /// is stochastic.
    fn update(&self, _: &Schedule, _: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let Level { signal, spread } = step.to;
        let (eps, noise) = if self.stochastic { (0.0, spread) } else { (spread, 0.0) };
        Update::new(step, Terms { z: 0.0, x0: signal, eps }, noise, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(settings: &str) -> Result<Schedule, SamplerError> {
        let text = format!(r#"{{"_class_name": "FlowMatchEulerDiscreteScheduler" {settings}}}"#);
        Schedule::new(&SchedulerConfig::from_json(&text).unwrap())
    }

    const SAMPLER: FlowEuler = FlowEuler { stochastic: false };

    #[test]
    fn steps_begin_at_pure_noise_and_end_at_the_clean_latent() {
        for settings in ["", r#", "shift": 3.0"#, r#", "shift": 3.0, "use_karras_sigmas": true"#] {
            let schedule = schedule(settings).unwrap();
            for n in [1, 2, 28] {
                let steps = SAMPLER.steps(&schedule, n).unwrap();
                assert_eq!((steps.len(), steps[0].t, steps[0].level.spread), (n, 1000.0, 1.0));
                assert_eq!((steps[n - 1].to, steps[n - 1].last), (Level::CLEAN, true));
                assert!(steps.windows(2).all(|pair| pair[0].to == pair[1].level));
                assert!(steps.iter().all(|step| SAMPLER.update(&schedule, &[], step).is_ok()));
            }
        }
    }

    #[test]
    fn timesteps_of_a_list_are_the_levels_themselves() {
        let levels = schedule(r#", "shift": 3.0"#).unwrap();
        let steps = SAMPLER.through(&levels, &[1000.0, 750.0, 250.0]).unwrap();
        let spreads: Vec<f64> = steps.iter().map(|step| step.level.spread).collect();
        assert_eq!(spreads, [1.0, 0.75, 0.25]);
        let past = SAMPLER.through(&levels, &[1001.0]).unwrap_err();
        assert!(matches!(past, SamplerError::TimestepRange { max: 1000, .. }), "{past}");
        let karras = schedule(r#", "use_karras_sigmas": true"#).unwrap();
        let error = SAMPLER.through(&karras, &[500.0]).unwrap_err().to_string();
        assert!(error.contains("use_karras_sigmas"), "{error}");
    }

    #[test]
    fn settings_that_make_no_schedule_are_refused_by_name() {
        for (settings, name) in [
            (r#", "invert_sigmas": true"#, "invert_sigmas"),
            (r#", "shift_terminal": 1"#, "shift_terminal"),
            (r#", "num_train_timesteps": 0"#, "num_train_timesteps"),
            (r#", "base_image_seq_len": 64, "max_image_seq_len": 64"#, "base_image_seq_len"),
            (r#", "use_karras_sigmas": true, "use_beta_sigmas": true"#, "more than one"),
            (r#", "use_lu_lambdas": true"#, "use_lu_lambdas"),
        ] {
            let error = schedule(settings).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        let dynamic = schedule(r#", "use_dynamic_shifting": true"#).unwrap();
        let error = SAMPLER.steps(&dynamic, 4).unwrap_err();
        assert!(matches!(error, SamplerError::TokensMissing), "{error}");
        assert!(SAMPLER.steps(&dynamic.with_tokens(1024), 4).is_ok());
        let down =
            r#", "use_dynamic_shifting": true, "time_shift_type": "linear", "base_shift": -1"#;
        let error = SAMPLER.steps(&schedule(down).unwrap().with_tokens(16), 4).unwrap_err();
        assert!(error.to_string().contains("base_shift"), "{error}");
        for n in [0, 1001] {
            let error = SAMPLER.steps(&schedule("").unwrap(), n).unwrap_err();
            assert!(matches!(error, SamplerError::StepCount { max: 1000, .. }), "{n}: {error}");
        }
    }
}
