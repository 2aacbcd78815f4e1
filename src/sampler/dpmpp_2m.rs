//! DPM-Solver++ (2M) (Lu et al.: "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", 2022,
//! algorithm 2), as diffusers' `scheduling_dpmsolver_multistep.py` with `algorithm_type = "dpmsolver++"` and order 2: a multistep solver, each step of which also reads the clean latent of the step before it.

use super::{
    clip::Limit,
    config::{BetaSchedule, FinalSigmas, SchedulerConfig, TimestepSpacing},
    descriptor::{Descriptor, first_wanted},
    error::SamplerError,
    interface::{Sampler, steps_through},
    level::{Level, NoiseProcess},
    schedule::Schedule,
    sigmas::{SigmaSpread, Sigmas, timestep_of},
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

/// Schedules of fewer steps than this end with a step of first order (`lower_order_final`).
const FEW_STEPS: usize = 15;

/// The second-order multistep sampler of DPM-Solver++.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpmpp2m {
    final_sigmas: FinalSigmas,
    lower_order_final: bool,
    euler_at_final: bool,
    first_order: bool,
    /// Heun's rule in place of the midpoint's.
    heun: bool,
    limit: Option<Limit>,
    sigmas: Sigmas,
    /// Timesteps of levels of their own stay fractions, of which the denoiser is told the whole part.
    cosine: bool,
    lambda_min: f64,
}

impl Dpmpp2m {
    /// DPM-Solver++ (2M) with the config's final σ, order, rule and thresholding, through the noise levels of the
    /// training or those that the config asks for.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedSetting`] for noise levels that cannot be.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        Ok(Self {
            final_sigmas: config.final_sigmas_type,
            lower_order_final: config.lower_order_final.unwrap_or(true),
            euler_at_final: config.euler_at_final.unwrap_or(false),
            first_order: config.solver_order == Some(1),
            heun: config.solver_type.as_deref() == Some("heun"),
            limit: Limit::threshold_of(config),
            sigmas: Sigmas::of(config)?,
            cosine: config.beta_schedule == BetaSchedule::SquaredCosine,
            lambda_min: config.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY),
        })
    }

    /// `true` if the step is of first order: by the config, or as the last of all steps.
    fn is_first_order(&self, step: &Step) -> bool {
        let ends_lower = self.final_sigmas == FinalSigmas::Zero
            || self.euler_at_final
            || self.lower_order_final && step.index + 1 < FEW_STEPS;
        self.first_order || step.last && ends_lower
    }

    /// The level after the last step.
    fn end(&self, schedule: &Schedule) -> Result<Level, SamplerError> {
        match self.final_sigmas {
            FinalSigmas::Zero => Ok(Level::CLEAN),
            FinalSigmas::SigmaMin => schedule.level(0.0),
        }
    }

    /// The schedule's timesteps up to `lambda_min_clipped`: their number.
    fn reached(&self, schedule: &Schedule) -> Result<usize, SamplerError> {
        let sigmas = schedule.solvers_sigmas()?;
        let total = sigmas.len();
        let clipped =
            sigmas.iter().rev().take_while(|&&sigma| -f64::from(sigma.ln()) < self.lambda_min);
        Ok(total - clipped.count())
    }

    /// The timesteps of `n` steps. The reference spreads `n + 1` of them and leaves out the last, except with trailing
    /// spacing, which never reaches 0.
    fn timesteps(&self, schedule: &Schedule, n: usize) -> Result<Vec<f64>, SamplerError> {
        let reached = self.reached(schedule)?;
        let trailing = schedule.spacing() == TimestepSpacing::Trailing;
        let max = if trailing { reached } else { reached.saturating_sub(1) };
        if n == 0 || n > max {
            return Err(SamplerError::StepCount { steps: n, max });
        }
        let timesteps = schedule.timesteps_below(reached, if trailing { n } else { n + 1 })?;
        Ok(timesteps.into_iter().take(n).map(|t| t as f64).collect())
    }
}

impl Sampler for Dpmpp2m {
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        let timesteps = self.timesteps(schedule, n)?;
        let Some(spread) = self.sigmas.spread else { return self.through(schedule, &timesteps) };
        let sigmas = schedule.solvers_sigmas()?;
        let logs: Vec<f32> = sigmas.iter().map(|sigma| sigma.ln()).collect();
        let ends = (f64::from(sigmas[sigmas.len() - 1]), f64::from(sigmas[0]));
        let rounds = matches!(spread, SigmaSpread::Karras | SigmaSpread::Lu) && !self.cosine;
        let point = |sigma: f64| {
            let t = timestep_of(sigma, &logs);
            // The reference keeps whole timesteps, some of them rounded before.
            let t = if rounds { t.round_ties_even() } else { t.trunc() };
            (t, Level::of_sigma(f64::from(sigma as f32)))
        };
        let points: Vec<_> = self.sigmas.spread(spread, ends, n).into_iter().map(point).collect();
        Ok(steps_through(schedule, &points, self.end(schedule)?))
    }

    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        self.sigmas.refuse_list()?;
        let point = |&t: &f64| Ok((t, schedule.solvers_level(t)?));
        let points = timesteps.iter().map(point).collect::<Result<Vec<_>, SamplerError>>()?;
        Ok(steps_through(schedule, &points, self.end(schedule)?))
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
        let before = match earlier.last() {
            Some(before) if !self.is_first_order(step) => before.level,
            _ => {
                // Without clipping the same as with z and x̂0, which is how the reference writes it.
                let terms = match self.limit {
                    None => Terms { z: 0.0, x0: to.signal, eps: to.spread },
                    Some(_) => Terms { z: ratio, x0: weight, eps: 0.0 },
                };
                return Ok(Update { kept, ..Update::new(step, terms, 0.0, self.limit)? });
            }
        };
        if level.signal <= 0.0 || before.signal <= 0.0 {
            return Err(SamplerError::NoSignal { t: step.t });
        }
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
