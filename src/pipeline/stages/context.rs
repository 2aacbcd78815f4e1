//! Context of a stage: the one thing that all of them take. No stage knows more of a model than this.

use crate::{
    image::Picture,
    pipeline::{job::JobSpec, runner::Compute},
};

/// What a stage works with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// What computes.
    pub runner: &'a dyn Compute,
    /// The input.
    pub picture: &'a Picture,
    /// The job.
    pub spec: &'a JobSpec,
}
