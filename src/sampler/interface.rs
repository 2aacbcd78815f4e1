//! A sampler is one interface: the steps of its schedule, and for each of them the numbers of its update.

use std::fmt::Debug;

use super::{error::SamplerError, level::Level, schedule::Schedule, step::Step, update::Update};

/// A way to walk down the noise levels.
pub trait Sampler: Debug + Send + Sync {
    /// The `n` steps of the whole schedule, noisiest first; as many [`Step`]s as the denoiser predicts
    /// ([`Sampler::predictions`]).
    ///
    /// # Errors
    /// [`SamplerError::StepCount`] or [`SamplerError::TimestepRange`].
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError>;

    /// The steps through given timesteps, the highest first, each leading to the next.
    ///
    /// # Errors
    /// [`SamplerError::TimestepRange`], or [`SamplerError::UnsupportedSetting`] for a sampler whose noise levels are not
    /// the training's.
    fn through(&self, schedule: &Schedule, timesteps: &[f64]) -> Result<Vec<Step>, SamplerError>;

    /// Predictions of the denoiser for each step of the schedule, each of which is a [`Step`] of its own: 1, or 2 for a
    /// singlestep sampler of second order, whose last step has 1.
    fn predictions(&self) -> usize {
        1
    }

    /// Standard deviation of the noise that a picture made from noise alone begins with, at the first of the steps:
    /// diffusers' `init_noise_sigma`, on a canvas that is z.
    fn initial_noise(&self, _: &Schedule, _: &Step) -> f64 {
        1.0
    }

    /// The update for one of those steps; `earlier` are the steps of the run before it, in the order in which they
    /// were taken. A multistep sampler says in [`Update::kept`] what later steps may read, and in [`Update::history`]
    /// how much of what the latest of `earlier` kept it reads.
    ///
    /// # Errors
    /// [`SamplerError::TimestepRange`], or [`SamplerError::NoSignal`] where the signal is 0.
    fn update(
        &self,
        schedule: &Schedule,
        earlier: &[Step],
        step: &Step,
    ) -> Result<Update, SamplerError>;
}

/// The steps through timesteps and their levels, each leading to the next and the last one to `end`.
pub(super) fn steps_through(schedule: &Schedule, points: &[(f64, Level)], end: Level) -> Vec<Step> {
    let step = |(index, &(t, level)): (usize, &(f64, Level))| {
        let next = points.get(index + 1);
        Step {
            index,
            t,
            t_prev: next.map(|&(t, _)| t),
            level,
            to: next.map_or(end, |&(_, level)| level),
            form: schedule.form(level),
            last: next.is_none(),
        }
    };
    points.iter().enumerate().map(step).collect()
}

/// As [`steps_through`], at the training's own levels.
///
/// # Errors
/// [`SamplerError::TimestepRange`].
pub(super) fn steps_at(
    schedule: &Schedule,
    timesteps: &[f64],
    end: Level,
) -> Result<Vec<Step>, SamplerError> {
    let point = |&t: &f64| Ok((t, schedule.level(t)?));
    let points = timesteps.iter().map(point).collect::<Result<Vec<_>, SamplerError>>()?;
    Ok(steps_through(schedule, &points, end))
}

/// The updates of a run that takes these steps one after the other. What no later step reads is not kept.
///
/// # Errors
/// Those of [`Sampler::update`], or [`SamplerError::NoStep`] where the levels make none.
pub fn updates(
    sampler: &dyn Sampler,
    schedule: &Schedule,
    steps: &[Step],
) -> Result<Vec<Update>, SamplerError> {
    let update = |(index, step): (usize, &Step)| {
        let update = sampler.update(schedule, &steps[..index], step)?;
        if update.is_finite() { Ok(update) } else { Err(SamplerError::NoStep { t: step.t }) }
    };
    let mut updates = steps.iter().enumerate().map(update).collect::<Result<Vec<_>, _>>()?;
    for index in 0..updates.len() {
        let later = &updates[index + 1..];
        if !later.iter().enumerate().any(|(between, update)| update.history.len() > between) {
            updates[index].kept = None;
        }
    }
    Ok(updates)
}
