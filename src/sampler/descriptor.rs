//! A descriptor is all that the table of samplers holds of one: each sampler's file has its own, so that a new sampler is
//! one new file and one line in [`super::kind`].

use super::{
    config::SchedulerConfig, error::SamplerError, interface::Sampler, level::NoiseProcess,
};

/// Scheduler configuration and eta → sampler.
pub(super) type BuildSampler = fn(&SchedulerConfig, f64) -> Result<Box<dyn Sampler>, SamplerError>;

/// Static properties of a sampler, known before it is built.
#[derive(Debug)]
pub(super) struct Descriptor {
    /// The name that users type and that messages print.
    pub name: &'static str,
    /// diffusers' class of this very method.
    pub class: &'static str,
    /// diffusers' classes that the sampler stands in for, with a note.
    pub stands_in_for: &'static [&'static str],
    /// The noise process of the models that it samples.
    pub process: NoiseProcess,
    /// The share of fresh noise in each step where nobody chooses; `None` for a sampler without that choice.
    pub default_eta: Option<f64>,
    /// `true` if the config's timestep spacing is used.
    pub has_spacing: bool,
    /// `true` if it walks through noise levels that may be others than the training's.
    pub has_sigmas: bool,
    /// `true` if this is the sampler that a config of `class` means: one class may be several samplers.
    pub is_asked_by: fn(&SchedulerConfig) -> bool,
    /// The first setting of a config of `class` that the sampler runs without, if there is one.
    pub left_out: fn(&SchedulerConfig) -> Option<&'static str>,
    /// Builds the sampler; eta is `default_eta` or the user's, and 0 for a sampler without that choice.
    pub build: BuildSampler,
}

/// For a sampler that has its class to itself.
pub(super) fn any_config(_: &SchedulerConfig) -> bool {
    true
}

/// For a sampler that has every setting of its class.
pub(super) fn none_left_out(_: &SchedulerConfig) -> Option<&'static str> {
    None
}

/// The first setting that is wanted.
pub(super) fn first_wanted<const N: usize>(
    settings: [(&'static str, bool); N],
) -> Option<&'static str> {
    settings.into_iter().find_map(|(setting, wanted)| wanted.then_some(setting))
}

/// Refuses an eta that is no share of fresh noise.
pub(super) fn check_eta(eta: f64) -> Result<f64, SamplerError> {
    if (0.0..=1.0).contains(&eta) { Ok(eta) } else { Err(SamplerError::Eta { eta }) }
}
