//! DPM-Solver++ (2M) (Lu et al.: "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", 2022,
//! algorithm 2), as diffusers' `scheduling_dpmsolver_multistep.py` with `algorithm_type = "dpmsolver++"`, order 2 and the
//! midpoint rule: a multistep solver, each step of which also reads the clean latent of the step before it.

use super::{
    config::{FinalSigmas, SchedulerConfig, TimestepSpacing},
    descriptor::{Descriptor, first_wanted, other_sigmas},
    error::SamplerError,
    level::Level,
    schedule::Schedule,
    step::{Sampler, Step, steps_through},
    update::{Kept, Update},
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "dpmpp-2m",
    class: "DPMSolverMultistepScheduler",
    stands_in_for: &[],
    default_eta: None,
    has_spacing: true,
    left_out: |config| {
        let differs = |setting: &Option<String>, ours: &str| {
            setting.as_deref().is_some_and(|setting| setting != ours)
        };
        other_sigmas(config).or(first_wanted([
            ("thresholding", config.thresholding),
            ("use_lu_lambdas", config.use_lu_lambdas == Some(true)),
            ("an algorithm_type of its own", differs(&config.algorithm_type, "dpmsolver++")),
            ("a solver_type of its own", differs(&config.solver_type, "midpoint")),
            ("a solver_order of its own", config.solver_order.is_some_and(|order| order != 2)),
            ("a variance_type", config.variance_type.is_some()),
        ]))
    },
    build: |config, _| Ok(Box::new(Dpmpp2m::new(config))),
};

/// Schedules of fewer steps than this end with a step of first order (`lower_order_final`).
const FEW_STEPS: usize = 15;

/// The second-order multistep sampler of DPM-Solver++.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpmpp2m {
    final_sigmas: FinalSigmas,
    lower_order_final: bool,
    euler_at_final: bool,
}

impl Dpmpp2m {
    /// DPM-Solver++ (2M) with the config's final σ and order of the last step, through the noise levels of the training.
    #[must_use]
    pub fn new(config: &SchedulerConfig) -> Self {
        Self {
            final_sigmas: config.final_sigmas_type,
            lower_order_final: config.lower_order_final.unwrap_or(true),
            euler_at_final: config.euler_at_final.unwrap_or(false),
        }
    }

    /// `true` if the last of all steps is of first order.
    fn ends_lower(&self, step: &Step) -> bool {
        self.final_sigmas == FinalSigmas::Zero
            || self.euler_at_final
            || self.lower_order_final && step.index + 1 < FEW_STEPS
    }
}

impl Sampler for Dpmpp2m {
    /// The reference spreads `n + 1` timesteps and leaves out the last, except with trailing spacing, which never
    /// reaches 0.
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        let timesteps = match schedule.spacing() {
            TimestepSpacing::Trailing => schedule.timesteps(n)?,
            TimestepSpacing::Leading | TimestepSpacing::Linspace => {
                let max = schedule.train_timesteps() - 1;
                if n == 0 || n > max {
                    return Err(SamplerError::StepCount { steps: n, max });
                }
                let mut timesteps = schedule.timesteps(n + 1)?;
                timesteps.pop();
                timesteps
            }
        };
        Ok(steps_through(&timesteps.into_iter().map(|t| t as f64).collect::<Vec<_>>()))
    }

    /// With `h = λ'−λ` and `r = (λ−λ₋₁)/h` (λ₋₁ that of the step before),
    /// `z' = (spread'/spread)·z − signal'·(e⁻ʰ−1)·D`, `D = x̂0 + (x̂0 − x̂0₋₁)/(2r)`, and `D = x̂0` in a step of first
    /// order: the first of a run, and the last where [`Dpmpp2m::new`] says so.
    fn update(
        &self,
        schedule: &Schedule,
        earlier: &[Step],
        step: &Step,
    ) -> Result<Update, SamplerError> {
        let level = schedule.level_with_signal(step.t)?;
        let to = match (step.t_prev, self.final_sigmas) {
            (Some(t), _) => schedule.level(t)?,
            (None, FinalSigmas::Zero) => Level::CLEAN,
            (None, FinalSigmas::SigmaMin) => schedule.level(0.0)?,
        };
        // −signal'·(e⁻ʰ−1), without the exponential, which for the clean latent is that of minus infinity.
        let ratio = to.spread / level.spread;
        let weight = to.signal - level.signal * ratio;
        let (x0_z, x0_eps) = level.x0();
        let kept = Some(Kept { z: x0_z as f32, eps: x0_eps as f32 });
        let before = match earlier.last() {
            Some(before) if !(step.last && self.ends_lower(step)) => before,
            _ => {
                let (z, eps) = level.towards(to, to.spread);
                return Ok(Update { kept, ..Update::one_step(z, eps, 0.0) });
            }
        };
        let before = schedule.level_with_signal(before.t)?;
        let h = to.log_snr() - level.log_snr();
        let half = weight * h / (2.0 * (level.log_snr() - before.log_snr()));
        let (z, eps) = (ratio + (weight + half) * x0_z, (weight + half) * x0_eps);
        let history = vec![-half as f32];
        Ok(Update { kept, history, ..Update::one_step(z, eps, 0.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(settings: &str) -> (Dpmpp2m, Schedule) {
        let text = format!(r#"{{"_class_name": "DPMSolverMultistepScheduler" {settings}}}"#);
        let config = SchedulerConfig::from_json(&text).unwrap();
        (Dpmpp2m::new(&config), Schedule::new(&config).unwrap())
    }

    #[test]
    fn a_run_reads_the_step_before_but_at_its_beginning_and_end_and_keeps_only_what_is_read() {
        let (sampler, schedule) = sampler("");
        let steps = sampler.steps(&schedule, 8).unwrap().split_off(3);
        let updates = super::super::updates(&sampler, &schedule, &steps).unwrap();
        let reads: Vec<usize> = updates.iter().map(|update| update.history.len()).collect();
        assert_eq!(reads, [0, 1, 1, 1, 0]);
        let keeps: Vec<bool> = updates.iter().map(|update| update.kept.is_some()).collect();
        assert_eq!(keeps, [true, true, true, false, false]);
    }

    #[test]
    fn a_step_whose_clean_latent_stays_the_same_is_ddims() {
        let (sampler, schedule) = sampler(r#", "timestep_spacing": "trailing""#);
        let steps = sampler.steps(&schedule, 8).unwrap();
        let update = sampler.update(&schedule, &steps[..3], &steps[3]).unwrap();
        let (x0, eps) = (0.75f32, -0.5f32);
        let at = |t: f64| {
            let level = schedule.level(t).unwrap();
            level.signal as f32 * x0 + level.spread as f32 * eps
        };
        let mut z = [at(steps[3].t)];
        let mut kept = [0.0];
        update.apply_with(&mut z, &[eps], None, &[&[x0]], Some(&mut kept)).unwrap();
        assert!((z[0] - at(steps[4].t)).abs() < 1e-6 && (kept[0] - x0).abs() < 1e-6);
    }

    #[test]
    fn numbers_of_steps_that_would_repeat_a_timestep_are_refused() {
        let (sampler, schedule) = sampler("");
        for n in [0, 1000] {
            let error = sampler.steps(&schedule, n).unwrap_err();
            assert!(matches!(error, SamplerError::StepCount { max: 999, .. }), "{n}: {error}");
        }
        assert_eq!(sampler.steps(&schedule, 999).unwrap().len(), 999);
    }
}
