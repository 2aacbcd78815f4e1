//! Errors of schedules and samplers, in one line each.

use crate::ranges::OutOfRange;

/// Errors of schedules and samplers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// The scheduler config is not JSON, or says something that has no meaning here.
    #[error("not a scheduler config that can be used: {0}")]
    Config(#[from] serde_json::Error),
    /// A number that no scheduler has.
    #[error("not a scheduler config that can be used: {0}")]
    Range(#[from] OutOfRange),
    /// The scheduler class has no counterpart here.
    #[error("the model's scheduler class {class:?} is not supported; choose a sampler ({known})")]
    UnsupportedScheduler {
        /// `_class_name` of the config.
        class: String,
        /// The names of the samplers there are.
        known: String,
    },
    /// The model was trained on noise levels that no sampler here knows.
    #[error("the model's scheduler {class:?} is of another kind of model ({kind}): not supported")]
    OtherProcess {
        /// `_class_name` of the config.
        class: String,
        /// The kind of model.
        kind: &'static str,
    },
    /// A sampler for models of another noise process than this one.
    #[error(
        "the sampler {sampler} is not for {process}, with which this model was trained: choose {known}"
    )]
    WrongProcess {
        /// The sampler's name.
        sampler: &'static str,
        /// The model's noise process.
        process: &'static str,
        /// The samplers for it.
        known: String,
    },
    /// Levels of another noise process were asked of a schedule.
    #[error("the schedule of {process} has no such levels")]
    NoSuchLevels {
        /// The schedule's noise process.
        process: &'static str,
    },
    /// A shift that follows from the picture's size, without the size.
    #[error(
        "the shift of this schedule follows from the number of a picture's tokens, which was not given"
    )]
    TokensMissing,
    /// A name that nothing has.
    #[error("not one of {known}")]
    Name {
        /// The names there are.
        known: String,
    },
    /// A setting of the config that would need a different algorithm.
    #[error("{setting} in the scheduler config is not supported: {reason}")]
    UnsupportedSetting {
        /// The setting, as the config writes it.
        setting: &'static str,
        /// Reason, or remedy.
        reason: &'static str,
    },
    /// Numbers that do not make a noise schedule.
    #[error("the betas of the scheduler config make no schedule: {reason}")]
    Betas {
        /// Reason why they are refused.
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
    /// More steps to run than there are.
    #[error("{run} steps cannot run: the schedule has {steps} steps")]
    RunCount {
        /// The number to run.
        run: usize,
        /// Number of steps of the whole schedule.
        steps: usize,
    },
    /// A list of timesteps that does not lead from noise to picture.
    #[error("the timesteps {timesteps:?} are not possible: each must be below the one before it")]
    TimestepOrder {
        /// The list.
        timesteps: Vec<usize>,
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
    /// An eta for a sampler that has none.
    #[error("the sampler {sampler} has no eta: {known} have")]
    EtaUnused {
        /// The sampler's name.
        sampler: &'static str,
        /// The names of those that have one.
        known: String,
    },
    /// Noise levels for a sampler that goes from timestep to timestep.
    #[error("the sampler {sampler} has no {sigmas} sigmas: {known} have")]
    SigmasUnused {
        /// The sampler's name.
        sampler: &'static str,
        /// The name of the noise levels.
        sigmas: &'static str,
        /// The names of those that have them.
        known: String,
    },
    /// A timestep beyond the training schedule.
    #[error("timestep {t} is outside the schedule, which has timesteps 0 to {max}")]
    TimestepRange {
        /// The timestep.
        t: f64,
        /// The last one.
        max: usize,
    },
    /// Pure noise: the signal is 0 there, and nothing can be recovered from ε.
    #[error("timestep {t} of this model is pure noise: start lower, with a strength below 1")]
    NoSignal {
        /// The timestep.
        t: f64,
    },
    /// Noise levels between which no step leads, such as two that are the same.
    #[error(
        "no step leads on from timestep {t}: the noise levels of the scheduler config are too close there"
    )]
    NoStep {
        /// The timestep.
        t: f64,
    },
    /// Two slices of different lengths that should match.
    #[error("{what} holds {actual} values where {expected} are needed")]
    Length {
        /// Name of the slice.
        what: &'static str,
        /// Number of values needed.
        expected: usize,
        /// Number of values given.
        actual: usize,
    },
    /// A stochastic step without its noise.
    #[error("this step adds fresh noise, and none was given")]
    NoiseMissing,
    /// A step that clips its x̂0 by a quantile which nobody has found yet.
    #[error("this step needs the quantile of its clean latent, and it was not given")]
    QuantileMissing,
    /// A step of several predictions without the values that earlier steps kept, or without room for its own.
    #[error("this step needs {needed} canvases of history, and {given} were given")]
    HistoryMissing {
        /// Number of canvases that it reads or writes.
        needed: usize,
        /// Number of canvases that it was given.
        given: usize,
    },
}

impl SamplerError {
    /// `true` if the request itself is wrong, and not the model's config or the computation.
    #[must_use]
    pub fn is_wrong_choice(&self) -> bool {
        matches!(
            self,
            Self::StepCount { .. }
                | Self::RunCount { .. }
                | Self::TimestepOrder { .. }
                | Self::TimestepRange { .. }
                | Self::Strength { .. }
                | Self::Eta { .. }
                | Self::EtaUnused { .. }
                | Self::SigmasUnused { .. }
                | Self::WrongProcess { .. }
        )
    }
}

pub(super) fn check_len(
    what: &'static str,
    expected: usize,
    actual: usize,
) -> Result<(), SamplerError> {
    if expected == actual { Ok(()) } else { Err(SamplerError::Length { what, expected, actual }) }
}
