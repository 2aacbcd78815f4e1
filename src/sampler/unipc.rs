//! UniPC (Zhao et al.: "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models", NeurIPS 2023),
//! as diffusers' `scheduling_unipc_multistep.py` up to order 2: each prediction first corrects the step that led to it, then
//! takes the next one.

use super::{
    clip::Limit,
    config::SchedulerConfig,
    descriptor::{Descriptor, any_config, first_wanted},
    dpm_steps::DpmSteps,
    error::SamplerError,
    interface::Sampler,
    level::{Level, NoiseProcess},
    schedule::Schedule,
    step::{Step, Terms},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "unipc",
    class: "UniPCMultistepScheduler",
    stands_in_for: &[],
    process: NoiseProcess::VariancePreserving,
    default_eta: None,
    has_spacing: true,
    has_sigmas: true,
    is_asked_by: any_config,
    left_out: |config| {
        first_wanted([
            ("predict_x0 = false", config.predict_x0 == Some(false)),
            ("a solver_order of its own", config.solver_order.is_some_and(|order| order > 2)),
        ])
    },
    build: |config, _| Ok(Box::new(UniPc::new(config)?)),
};

/// The predictor-corrector sampler.
#[derive(Debug, Clone, PartialEq)]
pub struct UniPc {
    walk: DpmSteps,
    lower_order_final: bool,
    first_order: bool,
    /// The first form of B(h), h itself; the second one is `eʰ−1`.
    bh1: bool,
    /// Steps of the whole schedule that are not corrected.
    uncorrected: Vec<usize>,
    limit: Option<Limit>,
}

impl UniPc {
    /// UniPC with the config's final σ, order, B(h), thresholding and steps without a corrector, through the noise levels of
    /// the training or those that the config asks for.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedSetting`] for noise levels that cannot be.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        Ok(Self {
            walk: DpmSteps::new(config)?.rounded(),
            lower_order_final: config.lower_order_final.unwrap_or(true),
            first_order: config.solver_order == Some(1),
            bh1: config.solver_type.as_deref() == Some("bh1"),
            uncorrected: config.disable_corrector.clone().unwrap_or_default(),
            limit: Limit::threshold_of(config),
        })
    }

    /// The weight of the differences in a step: −signal'·B(h).
    fn weight(&self, from: Level, to: Level) -> f64 {
        if self.bh1 { to.signal * (to.log_snr() - from.log_snr()) } else { clean_weight(from, to) }
    }

    /// What the corrector adds to z, as factors of the step's own x̂0 and of those of the two steps before: the difference of
    /// UniC (algorithm 1 of the paper) and UniP, which begin at the same z₋₁.
    fn correction(&self, earlier: &[Step], level: Level) -> [f64; 3] {
        let Some((last, rest)) = earlier.split_last() else { return [0.0; 3] };
        if self.uncorrected.contains(&last.index) {
            return [0.0; 3];
        }
        let weight = self.weight(last.level, level);
        let Some(before) = rest.last().filter(|_| !self.first_order) else {
            return [0.5 * weight, -0.5 * weight, 0.0];
        };
        let h = level.log_snr() - last.level.log_snr();
        let r = (before.level.log_snr() - last.level.log_snr()) / h;
        let b = self.moments(h);
        // The two equations of order 2: a + c = b₀, r·a + c = b₁.
        let a = (b[1] - b[0]) / (r - 1.0);
        let c = b[0] - a;
        // UniP's own share of the difference D₁ = (x̂0₋₂ − x̂0₋₁)/r is ½.
        let of_before = (a - 0.5) / r;
        [c * weight, -(c + of_before) * weight, of_before * weight]
    }

    /// φ₂(−h)·1!/B and φ₃(−h)·2!/B: the right side of the equations for the coefficients.
    fn moments(&self, h: f64) -> [f64; 2] {
        let first = (-h).exp_m1() / -h - 1.0;
        let second = first / -h - 0.5;
        let over = if self.bh1 { -h } else { (-h).exp_m1() };
        [first / over, 2.0 * second / over]
    }
}

/// −signal'·(e⁻ʰ−1), without the exponential, which for the clean latent is that of minus infinity.
fn clean_weight(from: Level, to: Level) -> f64 {
    to.signal - from.signal * to.spread / from.spread
}

impl Sampler for UniPc {
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        self.walk.steps(schedule, n)
    }

    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        self.walk.through(schedule, timesteps)
    }

    /// The corrected latent is z and the correction; from there the predictor's step is
    /// `z' = (spread'/spread)·z − signal'·(e⁻ʰ−1)·x̂0 − ½·signal'·B(h)·(x̂0₋₁ − x̂0)/r`, `r = (λ₋₁−λ)/h`. The last term
    /// is there in steps of second order: not in the first of a run, nor in the last.
    fn update(&self, _: &Schedule, earlier: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let Step { level, to, .. } = *step;
        let no_signal = |level: Level| level.signal <= 0.0;
        if no_signal(level) || earlier.last().is_some_and(|last| no_signal(last.level)) {
            return Err(SamplerError::NoSignal { t: step.t });
        }
        let ratio = to.spread / level.spread;
        let mut factors = self.correction(earlier, level).map(|factor| factor * ratio);
        factors[0] += clean_weight(level, to);
        let is_lower = self.first_order || to.spread <= 0.0 || step.last && self.lower_order_final;
        if let Some(last) = earlier.last().filter(|_| !is_lower) {
            let h = to.log_snr() - level.log_snr();
            let r = (last.level.log_snr() - level.log_snr()) / h;
            let half = 0.5 * self.weight(level, to) / r;
            factors[0] -= half;
            factors[1] += half;
        }
        let [own, before @ ..] = factors;
        // As many canvases as the highest of both orders reads.
        let reads = before.iter().rposition(|&factor| factor != 0.0).map_or(0, |last| last + 1);
        let history = before[..reads].iter().map(|&factor| factor as f32).collect();
        let kept = Some(step.x0()?);
        let terms = Terms { z: ratio, x0: own, eps: 0.0 };
        Ok(Update { kept, history, ..Update::new(step, terms, 0.0, self.limit)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_reads_up_to_two_steps_and_its_last_one_corrects_though_it_does_not_extrapolate() {
        let config = SchedulerConfig::from_json(r#"{"_class_name": "UniPCMultistepScheduler"}"#);
        let config = config.unwrap();
        let (schedule, sampler) = (Schedule::new(&config).unwrap(), UniPc::new(&config).unwrap());
        let steps = sampler.steps(&schedule, 8).unwrap().split_off(3);
        let updates = super::super::updates(&sampler, &schedule, &steps).unwrap();
        let reads: Vec<usize> = updates.iter().map(|update| update.history.len()).collect();
        // The last step leads to the clean latent, of which the corrected z is no part.
        assert_eq!(reads, [0, 1, 2, 2, 0]);
    }
}
