//! Heun's method (Karras et al. 2022, algorithm 1), as diffusers' `scheduling_heun_discrete.py`: Euler's step, then a second
//! prediction where it ended, and the mean of both directions. Each of the two is a step of its own here, so that every
//! prediction is journaled and an interrupted run goes on between them.

use super::{
    clip::Limit,
    config::SchedulerConfig,
    descriptor::{Descriptor, any_config, none_left_out},
    error::SamplerError,
    euler::Euler,
    interface::{Sampler, steps_through},
    level::{Level, NoiseProcess},
    schedule::Schedule,
    step::{Step, Terms},
    update::Update,
};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "heun",
    class: "HeunDiscreteScheduler",
    stands_in_for: &[],
    process: NoiseProcess::VariancePreserving,
    default_eta: None,
    has_spacing: true,
    has_sigmas: true,
    is_asked_by: any_config,
    left_out: none_left_out,
    build: |config, _| Ok(Box::new(Heun::new(config)?)),
};

/// Heun's sampler: [`Euler`]'s timesteps, two predictions for each step but the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heun {
    euler: Euler,
    limit: Option<Limit>,
}

impl Heun {
    /// The sampler with the settings of [`Euler::new`] and the config's clipping of x̂0 (`clip_sample`).
    ///
    /// # Errors
    /// Those of [`Euler::new`].
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        let range = Limit::Range(config.clip_sample_range as f32);
        Ok(Self { euler: Euler::new(config)?, limit: config.clip_sample.then_some(range) })
    }
}

/// Euler's steps, each but the last followed by one that stays at its end.
fn with_corrections(schedule: &Schedule, steps: &[Step]) -> Vec<Step> {
    let begin = |step: &Step| (step.t, step.level);
    let again = steps.iter().skip(1).flat_map(|step| [begin(step); 2]);
    let points: Vec<_> = steps.first().map(begin).into_iter().chain(again).collect();
    steps_through(schedule, &points, steps.last().map_or(Level::CLEAN, |step| step.to))
}

impl Sampler for Heun {
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError> {
        Ok(with_corrections(schedule, &self.euler.steps(schedule, n)?))
    }

    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError> {
        Ok(with_corrections(schedule, &self.euler.through(schedule, timesteps)?))
    }

    fn predictions(&self) -> usize {
        2
    }

    fn initial_noise(&self, schedule: &Schedule, first: &Step) -> f64 {
        self.euler.initial_noise(schedule, first)
    }

    /// The first prediction takes Euler's step. Where it ended, the reference goes back and takes it again with the mean of
    /// both directions, `x' = x₋₁ + (σ'−σ)·(ε₋₁ + ε)/2`, which is `z' = z + ½·signal'·(σ'−σ)·(ε − ε₋₁)`. With clipping the
    /// direction is `(x − x̂0)/σ'` instead, for both of them, since x is where the first one led:
    /// `z' = z + ½·signal'·(σ/σ' − 1)·(x̂0 − x̂0₋₁)`.
    fn update(&self, _: &Schedule, earlier: &[Step], step: &Step) -> Result<Update, SamplerError> {
        let Step { level, to, .. } = *step;
        let sigma_of = |level: Level| level.spread / level.signal;
        let Some(before) = earlier.last().filter(|_| !step.index.is_multiple_of(2)) else {
            let ratio = to.spread / level.spread;
            let (terms, kept) = match self.limit {
                None => (
                    Terms { z: 0.0, x0: to.signal, eps: to.spread },
                    step.combination(Terms::NOISE)?,
                ),
                Some(_) => {
                    let x0 = to.signal - level.signal * ratio;
                    (Terms { z: ratio, x0, eps: 0.0 }, step.x0()?)
                }
            };
            return Ok(Update { kept: Some(kept), ..Update::new(step, terms, 0.0, self.limit)? });
        };
        if before.level.signal <= 0.0 {
            return Err(SamplerError::NoSignal { t: before.t });
        }
        let half = 0.5 * to.signal * (sigma_of(to) - sigma_of(before.level));
        let (terms, of_before) = match self.limit {
            None => (Terms { z: 1.0, x0: 0.0, eps: half }, -half),
            Some(_) => {
                let of_x0 = -half / sigma_of(to);
                (Terms { z: 1.0, x0: of_x0, eps: 0.0 }, -of_x0)
            }
        };
        let history = vec![of_before as f32];
        Ok(Update { history, ..Update::new(step, terms, 0.0, self.limit)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{Denoise, Timesteps, plan, updates};

    #[test]
    fn a_run_begins_with_a_whole_step_and_keeps_only_what_its_correction_reads() {
        let config = SchedulerConfig::from_json(r#"{"_class_name": "HeunDiscreteScheduler"}"#);
        let config = config.unwrap();
        let (schedule, sampler) = (Schedule::new(&config).unwrap(), Heun::new(&config).unwrap());
        let steps = plan(&sampler, &schedule, &Timesteps::Count(8), Denoise::Steps(3)).unwrap();
        let indices: Vec<usize> = steps.iter().map(|step| step.index).collect();
        assert_eq!(indices, [10, 11, 12, 13, 14]);
        let stays: Vec<bool> = steps.iter().map(|step| step.level == step.to).collect();
        assert_eq!(stays, [false, true, false, true, false]);
        assert!(steps[4].last && steps[4].to == Level::CLEAN);
        let updates = updates(&sampler, &schedule, &steps).unwrap();
        let keeps: Vec<bool> = updates.iter().map(|update| update.kept.is_some()).collect();
        assert_eq!(keeps, [true, false, true, false, false]);
    }
}
