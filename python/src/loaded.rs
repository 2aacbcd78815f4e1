//! An engine of the library with what its jobs have in common.

use std::sync::Arc;

use cupscale::{
    caption::Captioner,
    pipeline::{self, ControlUse, First, Settings},
};

use crate::values::LoraArg;

/// An engine with what its jobs have in common.
pub struct Loaded {
    pub engine: pipeline::Engine,
    pub loras: Vec<LoraArg>,
    pub controls: Vec<ControlUse>,
    pub first: First,
    pub captioner: Arc<dyn Captioner>,
    pub describes_with_a_model: bool,
    /// What a job takes of the machine where its own keywords say nothing.
    pub defaults: Settings,
}
