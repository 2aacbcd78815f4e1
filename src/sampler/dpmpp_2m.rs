//! DPM-Solver++ (2M) (Lu et al.: "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", 2022,
//! algorithm 2), as diffusers' `scheduling_dpmsolver_multistep.py` with `algorithm_type = "dpmsolver++"` and order 2: a multistep solver, each step of which also reads the clean latent of the step before it.

use super::{
    clip::Limit,
    config::{FinalSigmas, SchedulerConfig},
    descriptor::{Descriptor, first_wanted},
    dpm_steps::DpmSteps,
    error::SamplerError,
    interface::Sampler,
    level::NoiseProcess,
    schedule::Schedule,
    step::{Step, Terms},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "dpmpp-2m",
    class: "DPMSolverMultistepScheduler",
    stands_in_for: &[],
    process: NoiseProcess::VariancePreserving,
    default_eta: None,
    has_spacing: true,
    has_sigmas: true,
    is_asked_by: |config| !wants_noise(config),
    left_out: |config| {
        let algorithm = config.algorithm_type.as_deref().unwrap_or("dpmsolver++");
        first_wanted([
            // The reference takes DEIS' name for its own.
            ("an algorithm_type of its own", !["dpmsolver++", "deis"].contains(&algorithm)),
            ("a solver_order of its own", config.solver_order.is_some_and(|order| order > 2)),
        ])
    },
    build: |config, _| Ok(Box::new(Dpmpp2m::new(config)?)),
};

/// `true` if a config of the class means the solver of the stochastic equation.
pub(super) fn wants_noise(config: &SchedulerConfig) -> bool {
    config.algorithm_type.as_deref().is_some_and(|algorithm| algorithm.starts_with("sde-"))
}

/// Schedules of fewer steps than this end with a step of first order (`lower_order_final`).
const FEW_STEPS: usize = 15;

/// The second-order multistep sampler of DPM-Solver++.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpmpp2m {
    walk: DpmSteps,
    lower_order_final: bool,
    euler_at_final: bool,
    first_order: bool,
    /// Heun's rule in place of the midpoint's.
    heun: bool,
    limit: Option<Limit>,
}

impl Dpmpp2m {
    /// DPM-Solver++ (2M) with the config's final σ, order, rule and thresholding, through the noise levels of the
    /// training or those that the config asks for.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedSetting`] for noise levels that cannot be.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        Ok(Self {
            walk: DpmSteps::new(config)?,
            lower_order_final: config.lower_order_final.unwrap_or(true),
            euler_at_final: config.euler_at_final.unwrap_or(false),
            first_order: config.solver_order == Some(1),
            heun: config.solver_type.as_deref() == Some("heun"),
            limit: Limit::threshold_of(config),
        })
    }

    /// The step before, if this one is of second order: of first order it is by the config, as the first of a run, or as
    /// the last of all steps.
    ///
    /// # Errors
    /// [`SamplerError::NoSignal`] where either of them is at pure noise.
    fn second_order<'a>(
        &self,
        earlier: &'a [Step],
        step: &Step,
    ) -> Result<Option<&'a Step>, SamplerError> {
        let ends_lower = self.walk.final_sigmas == FinalSigmas::Zero
            || self.euler_at_final
            || self.lower_order_final && step.index + 1 < FEW_STEPS;
        let Some(before) = earlier.last() else { return Ok(None) };
        if self.first_order || step.last && ends_lower {
            return Ok(None);
        }
        if step.level.signal <= 0.0 || before.level.signal <= 0.0 {
            return Err(SamplerError::NoSignal { t: step.t });
        }
        Ok(Some(before))
    }

    /// The step of the stochastic equation (algorithm "SDE-DPM-Solver++(2M)" of the paper's appendix), with `h`, r and D
    /// as in [`Dpmpp2m`]'s own: `z' = (spread'/spread)·e⁻ʰ·z + signal'·(1−e⁻²ʰ)·D + spread'·√(1−e⁻²ʰ)·n`. Heun's rule
    /// has `signal'·(1 − (1−e⁻²ʰ)/2h)` in the place of `½·signal'·(1−e⁻²ʰ)` before the difference.
    pub(super) fn stochastic(&self, earlier: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let Step { level, to, .. } = *step;
        let ratio = to.spread / level.spread;
        // e⁻ʰ, 0 where the step leads to the clean latent.
        let decay = ratio * level.signal / to.signal;
        let fresh = 1.0 - decay * decay;
        let weight = to.signal * fresh;
        let (half, history) = match self.second_order(earlier, step)? {
            None => (0.0, Vec::new()),
            Some(before) => {
                let lambda = level.log_snr();
                let (h, h_before) = (to.log_snr() - lambda, lambda - before.level.log_snr());
                let rule = if self.heun { to.signal - weight / (2.0 * h) } else { weight / 2.0 };
                let half = rule * h / h_before;
                (half, vec![-half as f32])
            }
        };
        let terms = Terms { z: ratio * decay, x0: weight + half, eps: 0.0 };
        let noise = to.spread * fresh.max(0.0).sqrt();
        let kept = Some(step.x0()?);
        Ok(Update { kept, history, ..Update::new(step, terms, noise, self.limit)? })
    }
}

impl Sampler for Dpmpp2m {
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        self.walk.steps(schedule, n)
    }

    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        self.walk.through(schedule, timesteps)
    }

    /// With `h = λ'−λ` and `r = (λ−λ₋₁)/h` (λ₋₁ that of the step before),
    /// `z' = (spread'/spread)·z − signal'·(e⁻ʰ−1)·D`, `D = x̂0 + (x̂0 − x̂0₋₁)/(2r)`, and `D = x̂0` in a step of first
    /// order: the first of a run, and the last where [`Dpmpp2m::new`] says so. Heun's rule has
    /// `signal'·((e⁻ʰ−1)/h + 1)` in the place of `−½·signal'·(e⁻ʰ−1)` before the difference.
    fn update(&self, _: &Schedule, earlier: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let Step { level, to, .. } = *step;
        // −signal'·(e⁻ʰ−1), without the exponential, which for the clean latent is that of minus infinity.
        let ratio = to.spread / level.spread;
        let weight = to.signal - level.signal * ratio;
        let kept = Some(step.x0()?);
        let Some(before) = self.second_order(earlier, step)? else {
            // Without clipping the same as with z and x̂0, which is how the reference writes it.
            let terms = match self.limit {
                None => Terms { z: 0.0, x0: to.signal, eps: to.spread },
                Some(_) => Terms { z: ratio, x0: weight, eps: 0.0 },
            };
            return Ok(Update { kept, ..Update::new(step, terms, 0.0, self.limit)? });
        };
        let before = before.level;
        let (h, h_before) = (to.log_snr() - level.log_snr(), level.log_snr() - before.log_snr());
        let rule = if self.heun { to.signal - weight / h } else { weight / 2.0 };
        let half = rule * h / h_before;
        let terms = Terms { z: ratio, x0: weight + half, eps: 0.0 };
        let history = vec![-half as f32];
        Ok(Update { kept, history, ..Update::new(step, terms, 0.0, self.limit)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(settings: &str) -> (Dpmpp2m, Schedule) {
        let text = format!(r#"{{"_class_name": "DPMSolverMultistepScheduler" {settings}}}"#);
        let config = SchedulerConfig::from_json(&text).unwrap();
        (Dpmpp2m::new(&config).unwrap(), Schedule::new(&config).unwrap())
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
