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
mod plan;
mod schedule;
mod update;

pub use config::{BetaSchedule, PredictionType, SchedulerConfig, TimestepSpacing};
pub use ddim::Ddim;
pub use plan::{Denoise, plan, steps_run};
pub use schedule::Schedule;
pub use update::Update;

use std::fmt::Debug;

/// One step of a sampler, by its timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Position among all `N` steps of the schedule, also where a run takes only the last of them.
    pub index: usize,
    /// The timestep the canvas is at, 0…T−1.
    pub t: usize,
    /// The timestep the step leads to; `None` past the end of the schedule, where ᾱ is
    /// [`Schedule::final_abar`].
    pub t_prev: Option<usize>,
    /// Whether this is the last step.
    pub last: bool,
}

/// A way to walk down the noise levels with one noise prediction per step.
pub trait Sampler: Debug + Send + Sync {
    /// The name that users type and that messages print.
    fn name(&self) -> &'static str;

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

/// The samplers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SamplerKind {
    /// Denoising diffusion implicit models (Song et al. 2021): [`Ddim`].
    Ddim,
}

impl SamplerKind {
    /// The sampler that diffusers' class of this name stands for.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedScheduler`] for a class that has no counterpart here.
    pub fn from_class_name(class: &str) -> Result<Self, SamplerError> {
        match class {
            "DDIMScheduler" => Ok(Self::Ddim),
            _ => Err(SamplerError::UnsupportedScheduler { class: class.to_owned() }),
        }
    }

    /// The sampler itself. `eta` is the share of fresh noise in each step, 0 (none) to 1.
    ///
    /// # Errors
    /// [`SamplerError::Eta`].
    pub fn build(self, eta: f64) -> Result<Box<dyn Sampler>, SamplerError> {
        match self {
            Self::Ddim => Ok(Box::new(Ddim::new(eta)?)),
        }
    }
}

/// Errors of schedules and samplers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// The scheduler config is not JSON, or says something that has no meaning here.
    #[error("not a scheduler config that can be used: {0}")]
    Config(#[from] serde_json::Error),
    /// The scheduler class has no counterpart here.
    #[error(
        "the scheduler class {class:?} is not supported (supported: \"DDIMScheduler\"): put a DDIM scheduler_config.json in its place"
    )]
    UnsupportedScheduler {
        /// `_class_name` of the config.
        class: String,
    },
    /// A setting of the config that would need a different algorithm.
    #[error("{setting} in the scheduler config is not supported: {reason}")]
    UnsupportedSetting {
        /// The setting, as the config writes it.
        setting: &'static str,
        /// Why, or what to do.
        reason: &'static str,
    },
    /// Numbers that do not make a noise schedule.
    #[error("the betas of the scheduler config make no schedule: {reason}")]
    Betas {
        /// What is wrong with them.
        reason: String,
    },
    /// A number of steps that the schedule cannot have.
    #[error("{steps} steps are not possible: it must be 1 to {max}")]
    StepCount {
        /// The number asked for.
        steps: usize,
        /// The most there can be.
        max: usize,
    },
    /// A strength outside (0, 1].
    #[error("a strength of {strength} is not possible: it must be above 0 and at most 1")]
    Strength {
        /// The strength asked for.
        strength: f64,
    },
    /// An eta outside [0, 1].
    #[error("an eta of {eta} is not possible: it must be 0 to 1")]
    Eta {
        /// The eta asked for.
        eta: f64,
    },
    /// A timestep beyond the training schedule.
    #[error("timestep {t} is outside the schedule, which has timesteps 0 to {max}")]
    TimestepRange {
        /// The timestep.
        t: usize,
        /// The last one.
        max: usize,
    },
    /// Pure noise: ᾱ is 0 there, and nothing can be recovered from ε.
    #[error("timestep {t} of this model is pure noise: start lower, with a strength below 1")]
    NoSignal {
        /// The timestep.
        t: usize,
    },
    /// Two slices that should match do not.
    #[error("{what} holds {actual} values where {expected} are needed")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Values needed.
        expected: usize,
        /// Values given.
        actual: usize,
    },
    /// A stochastic step without its noise.
    #[error("this step adds fresh noise, and none was given")]
    NoiseMissing,
}

fn check_len(what: &'static str, expected: usize, actual: usize) -> Result<(), SamplerError> {
    if expected == actual { Ok(()) } else { Err(SamplerError::Length { what, expected, actual }) }
}
