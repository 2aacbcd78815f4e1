//! A sampler is one interface: the steps of its schedule, and for each of them the numbers of its update.

use std::fmt::Debug;

use super::{error::SamplerError, schedule::Schedule, update::Update};

/// One step of a sampler, by its timesteps.
///
/// Timesteps are whole numbers, but for Euler with linspace spacing: there they lie between two of the
/// training's, and the denoiser is told the fraction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Position among all `N` steps of the schedule, also where a run takes only the last of them.
    pub index: usize,
    /// The timestep the canvas is at, 0 to T−1.
    pub t: f64,
    /// The timestep the step leads to; `None` past the end of the schedule, where every sampler has its own
    /// idea of what is left.
    pub t_prev: Option<f64>,
    /// `true` for the last step.
    pub last: bool,
}

/// A way to walk down the noise levels with one noise prediction per step.
pub trait Sampler: Debug + Send + Sync {
    /// The `n` steps of the whole schedule, noisiest first.
    ///
    /// # Errors
    /// [`SamplerError::StepCount`] or [`SamplerError::TimestepRange`].
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError>;

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

/// The steps through these timesteps, each leading to the next.
pub(super) fn steps_through(timesteps: &[f64]) -> Vec<Step> {
    let step = |(index, &t)| {
        let t_prev = timesteps.get(index + 1).copied();
        Step { index, t, t_prev, last: t_prev.is_none() }
    };
    timesteps.iter().enumerate().map(step).collect()
}

/// The updates of a run that takes these steps one after the other. What no later step reads is not kept.
///
/// # Errors
/// Those of [`Sampler::update`].
pub fn updates(
    sampler: &dyn Sampler,
    schedule: &Schedule,
    steps: &[Step],
) -> Result<Vec<Update>, SamplerError> {
    let update = |(index, step)| sampler.update(schedule, &steps[..index], step);
    let mut updates = steps.iter().enumerate().map(update).collect::<Result<Vec<_>, _>>()?;
    for index in 0..updates.len() {
        let later = &updates[index + 1..];
        if !later.iter().enumerate().any(|(between, update)| update.history.len() > between) {
            updates[index].kept = None;
        }
    }
    Ok(updates)
}
