//! Samplers: from a model's scheduler config to the steps that take noise away (METHOD.md, section 2).
//!
//! [`SchedulerConfig`] reads diffusers' `scheduler_config.json`, [`Schedule`] holds ᾱ and spaces timesteps, a
//! [`Sampler`] turns a pair of timesteps into an [`Update`], and [`plan`] says which of the steps an
//! image-to-image run takes.
//!
//! Every one-step sampler (DDIM, TCD, LCM, Euler) is linear: `z' = a·z + b·ε + c·n`, with three numbers per
//! step. So a sampler only computes those numbers, in f64, and the canvas is updated in bands of rows by one
//! loop. All of them work on the noise prediction ε: see [`Schedule::output_to_eps`] for models that predict
//! something else.

mod config;
mod ddim;
mod error;
mod euler;
mod kind;
mod lcm;
mod plan;
mod schedule;
mod tcd;
mod update;

pub use config::{BetaSchedule, FinalSigmas, PredictionType, SchedulerConfig, TimestepSpacing};
pub use ddim::Ddim;
pub use error::SamplerError;
pub use euler::Euler;
pub use kind::{Choice, SamplerKind};
pub use lcm::Lcm;
pub use plan::{Denoise, Timesteps, plan, steps_run};
pub use schedule::Schedule;
pub use tcd::Tcd;
pub use update::Update;

use std::fmt::Debug;

/// One step of a sampler, by its timesteps.
///
/// Timesteps are whole numbers, but for Euler with linspace spacing: there they lie between two of the
/// training's, and the UNet is told the fraction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Position among all `N` steps of the schedule, also where a run takes only the last of them.
    pub index: usize,
    /// The timestep the canvas is at, 0 to T−1.
    pub t: f64,
    /// The timestep the step leads to; `None` past the end of the schedule, where every sampler has its own
    /// idea of what is left.
    pub t_prev: Option<f64>,
    /// Whether this is the last step.
    pub last: bool,
}

/// A way to walk down the noise levels with one noise prediction per step.
pub trait Sampler: Debug + Send + Sync {
    /// Which one it is.
    fn kind(&self) -> SamplerKind;

    /// The `n` steps of the whole schedule, noisiest first.
    ///
    /// # Errors
    /// [`SamplerError::StepCount`] or [`SamplerError::TimestepRange`].
    fn steps(&self, schedule: &Schedule, n: usize) -> Result<Vec<Step>, SamplerError>;

    /// The update for one of those steps.
    ///
    /// # Errors
    /// [`SamplerError::TimestepRange`], or [`SamplerError::NoSignal`] where ᾱ is 0.
    fn update(&self, schedule: &Schedule, step: &Step) -> Result<Update, SamplerError>;
}

/// The steps through these timesteps, each leading to the next.
fn steps_through(timesteps: &[f64]) -> Vec<Step> {
    let step = |(index, &t)| {
        let t_prev = timesteps.get(index + 1).copied();
        Step { index, t, t_prev, last: t_prev.is_none() }
    };
    timesteps.iter().enumerate().map(step).collect()
}

/// Refuses an eta that is no share of fresh noise.
fn check_eta(eta: f64) -> Result<f64, SamplerError> {
    if (0.0..=1.0).contains(&eta) { Ok(eta) } else { Err(SamplerError::Eta { eta }) }
}
