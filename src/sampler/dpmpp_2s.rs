//! DPM-Solver++ (2S) (Lu et al. 2022, algorithm 1), as diffusers' `scheduling_dpmsolver_singlestep.py` with
//! `algorithm_type = "dpmsolver++"` and order 2: pairs of steps, the second of which is taken again from where the first
//! began, with both predictions.

use super::{
    clip::Limit,
    config::{FinalSigmas, SchedulerConfig, TimestepSpacing},
    descriptor::{Descriptor, any_config, first_wanted},
    dpm_steps::DpmSteps,
    error::SamplerError,
    interface::Sampler,
    level::NoiseProcess,
    schedule::Schedule,
    step::{Step, Terms},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "dpmpp-2s",
    class: "DPMSolverSinglestepScheduler",
    stands_in_for: &[],
    process: NoiseProcess::VariancePreserving,
    default_eta: None,
    has_spacing: false,
    has_sigmas: true,
    is_asked_by: any_config,
    left_out: |config| {
        let algorithm = config.algorithm_type.as_deref().unwrap_or("dpmsolver++");
        first_wanted([
            // The reference takes DEIS' name for its own.
            ("an algorithm_type of its own", !["dpmsolver++", "deis"].contains(&algorithm)),
            ("a solver_order of its own", config.solver_order.is_some_and(|order| order > 2)),
        ])
    },
    build: |config, _| Ok(Box::new(Dpmpp2s::new(config)?)),
};

/// The second-order singlestep sampler of DPM-Solver++.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpmpp2s {
    walk: DpmSteps,
    ends_lower: bool,
    first_order: bool,
    /// Heun's rule in place of the midpoint's.
    heun: bool,
    limit: Option<Limit>,
}

impl Dpmpp2s {
    /// DPM-Solver++ (2S) with the config's final σ, order, rule and thresholding, through the noise levels of the
    /// training or those that the config asks for.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedSetting`] for noise levels that cannot be.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        Ok(Self {
            walk: DpmSteps::new(config)?.rounded(),
            ends_lower: config.lower_order_final.unwrap_or(false)
                || config.final_sigmas_type == FinalSigmas::Zero,
            first_order: config.solver_order == Some(1),
            heun: config.solver_type.as_deref() == Some("heun"),
            limit: Limit::threshold_of(config),
        })
    }
}

impl Sampler for Dpmpp2s {
    /// The reference has linspace spacing alone.
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        self.walk.steps(&schedule.clone().with_spacing(TimestepSpacing::Linspace), n)
    }

    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        self.walk.through(schedule, timesteps)
    }

    /// Every other step is of second order: with λ₋₁, x̂0₋₁ and z₋₁ of the step before, `h = λ'−λ₋₁` and
    /// `r = (λ−λ₋₁)/h`, `z' = (spread'/spread₋₁)·z₋₁ − signal'·(e⁻ʰ−1)·(x̂0₋₁ + (x̂0 − x̂0₋₁)/(2r))`. The step
    /// before led from z₋₁ to z by a combination with x̂0₋₁, so that this is `(spread'/spread)·z + (signal' −
    /// signal·spread'/spread)·x̂0₋₁` and the difference: what moved z in between counts.
    fn update(&self, _: &Schedule, earlier: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let Step { level, to, .. } = *step;
        let ratio = to.spread / level.spread;
        let weight = to.signal - level.signal * ratio;
        let kept = Some(step.x0()?);
        let ends = to.spread <= 0.0 || step.last && self.ends_lower;
        let second = !(step.index.is_multiple_of(2) || self.first_order || ends);
        let Some(before) = earlier.last().filter(|_| second) else {
            let terms = Terms { z: ratio, x0: weight, eps: 0.0 };
            return Ok(Update { kept, ..Update::new(step, terms, 0.0, self.limit)? });
        };
        let before = before.level;
        if level.signal <= 0.0 || before.signal <= 0.0 {
            return Err(SamplerError::NoSignal { t: step.t });
        }
        let whole = to.signal - before.signal * to.spread / before.spread;
        let lambda = before.log_snr();
        let (h, h_before) = (to.log_snr() - lambda, level.log_snr() - lambda);
        let rule = if self.heun { to.signal - whole / h } else { whole / 2.0 };
        let difference = rule * h / h_before;
        let terms = Terms { z: ratio, x0: difference, eps: 0.0 };
        let history = vec![(weight - difference) as f32];
        Ok(Update { kept, history, ..Update::new(step, terms, 0.0, self.limit)? })
    }
}
