//! Context of a stage, the same for all stages; it is their only access to a model.

use crate::{
    image::Picture,
    pipeline::{job::JobSpec, runner::Compute},
};

/// Devices, picture and job of a stage.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The device with the model's parts; of several the first, which computes what is not shared.
    pub runner: &'a dyn Compute,
    /// Further devices with the same model.
    pub others: &'a [&'a dyn Compute],
    /// The input.
    pub picture: &'a Picture,
    /// What a network made of it before all else, of the output's size.
    pub enlarged: Option<&'a Picture>,
    /// The job.
    pub spec: &'a JobSpec,
}

impl<'a> Context<'a> {
    /// The picture that is repainted, and that the result is compared with.
    pub fn source(&self) -> &'a Picture {
        self.enlarged.unwrap_or(self.picture)
    }

    /// The context of each device by itself, the first one's first.
    pub fn on_each(&self) -> impl Iterator<Item = Self> {
        let runners = [self.runner].into_iter().chain(self.others.iter().copied());
        runners.map(|runner| Self { runner, others: &[], ..*self })
    }
}
