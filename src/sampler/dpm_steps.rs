//! The steps of the solvers of Lu et al. and of Zhao et al.: whole timesteps at the training's noise levels or at a spread of
//! their own, as the `set_timesteps` of diffusers' `scheduling_dpmsolver_multistep.py`, its `singlestep` sibling and
//! `scheduling_unipc_multistep.py` choose them.

use super::{
    config::{BetaSchedule, FinalSigmas, SchedulerConfig, TimestepSpacing},
    error::SamplerError,
    interface::steps_through,
    level::Level,
    schedule::Schedule,
    sigmas::{SigmaSpread, Sigmas, timestep_of},
    step::Step,
};

/// How the steps of such a solver are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct DpmSteps {
    /// Where the last step leads.
    pub final_sigmas: FinalSigmas,
    sigmas: Sigmas,
    /// Timesteps of levels of their own stay fractions, of which the denoiser is told the whole part.
    truncates: bool,
    lambda_min: f64,
}

impl DpmSteps {
    /// The config's final σ, its spread of noise levels and its `lambda_min_clipped`.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedSetting`] for noise levels that cannot be.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        Ok(Self {
            final_sigmas: config.final_sigmas_type,
            sigmas: Sigmas::of(config)?,
            truncates: config.beta_schedule == BetaSchedule::SquaredCosine,
            lambda_min: config.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY),
        })
    }

    /// The same with Karras' timesteps rounded on every schedule of betas: only the multistep solver leaves those of the
    /// cosine schedule alone.
    #[must_use]
    pub fn rounded(self) -> Self {
        Self { truncates: false, ..self }
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

    /// The `n` steps of the whole schedule: [`Sampler::steps`](super::Sampler::steps).
    ///
    /// # Errors
    /// [`SamplerError::StepCount`] or [`SamplerError::TimestepRange`].
    pub fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        let timesteps = self.timesteps(schedule, n)?;
        let Some(spread) = self.sigmas.spread else { return self.through(schedule, &timesteps) };
        let sigmas = schedule.solvers_sigmas()?;
        let logs: Vec<f32> = sigmas.iter().map(|sigma| sigma.ln()).collect();
        let ends = (f64::from(sigmas[sigmas.len() - 1]), f64::from(sigmas[0]));
        let rounds = matches!(spread, SigmaSpread::Karras | SigmaSpread::Lu) && !self.truncates;
        let point = |sigma: f64| {
            let t = timestep_of(sigma, &logs);
            // The reference keeps whole timesteps, some of them rounded before.
            let t = if rounds { t.round_ties_even() } else { t.trunc() };
            (t, Level::of_sigma(f64::from(sigma as f32)))
        };
        let points: Vec<_> = self.sigmas.spread(spread, ends, n).into_iter().map(point).collect();
        Ok(steps_through(schedule, &points, self.end(schedule)?))
    }

    /// The steps through given timesteps: [`Sampler::through`](super::Sampler::through).
    ///
    /// # Errors
    /// [`SamplerError::TimestepRange`], or [`SamplerError::UnsupportedSetting`] with noise levels that are not the
    /// training's.
    pub fn through(
        &self,
        schedule: &Schedule,
        timesteps: &[f64],
    ) -> Result<Vec<Step>, SamplerError> {
        self.sigmas.refuse_list()?;
        let point = |&t: &f64| Ok((t, schedule.solvers_level(t)?));
        let points = timesteps.iter().map(point).collect::<Result<Vec<_>, SamplerError>>()?;
        Ok(steps_through(schedule, &points, self.end(schedule)?))
    }
}
