//! Context of a stage, the same for all stages; it is their only access to a model.

use crate::{
    image::Picture,
    pipeline::{job::JobSpec, runner::Compute},
};

/// Device, picture and job of a stage.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The device with the model's parts.
    pub runner: &'a dyn Compute,
    /// The input.
    pub picture: &'a Picture,
    /// The job.
    pub spec: &'a JobSpec,
}
