//! Engine: the front of the pipeline for library users, one model on one device, ready for any number of jobs.

use std::fmt;

use candle_core::{DType, Device};

use crate::{backend::working_dtype, weights::ModelFiles};

use super::{
    error::Error,
    model::{Model, ModelShape},
    model_defaults::ModelDefaults,
    runner::Runner,
};

/// A model that has been checked and is ready for any number of jobs.
///
/// Its parts are loaded when a job first needs them; they stay if the job's plan holds them all, and go after
/// each stage if not.
pub struct Engine {
    pub(crate) model: Model,
    pub(crate) runner: Runner,
}

impl Engine {
    /// Makes the model ready for `device`: reads its configurations and the headers of its weights,
    /// and checks all that can be checked without the weights' values. The parts are loaded by the
    /// first job, in the device's working precision.
    ///
    /// # Errors
    /// A part that is missing, of an architecture that is not supported, or that does not go with
    /// the others; a tensor that is missing, or of another shape or type than it should be.
    pub fn load(files: &ModelFiles, device: &Device) -> Result<Self, Error> {
        Self::load_in(files, device, working_dtype(device))
    }

    /// As [`load`](Self::load), in a precision of choice.
    pub(crate) fn load_in(
        files: &ModelFiles,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, Error> {
        let model = Model::read(files, device, dtype)?;
        let runner = Runner::new(files.clone(), &model, device.clone(), dtype);
        Ok(Self { model, runner })
    }

    /// The same model under the name that its user knows, with what its manifest says about how to
    /// run it.
    ///
    /// # Errors
    /// A native size that the model cannot have.
    pub fn with_manifest(self, name: String, defaults: ModelDefaults) -> Result<Self, Error> {
        Ok(Self { model: self.model.with_manifest(name, defaults)?, ..self })
    }

    /// The model's name, as users and metadata see it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// The sizes that jobs of this model have.
    #[must_use]
    pub fn shape(&self) -> ModelShape {
        self.model.shape()
    }

    /// Bytes that all weights take when they are loaded, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.model.weight_bytes()
    }

    /// The backend, the precision, and on the CPU the instructions that it multiplies with.
    #[must_use]
    pub fn computes_on(&self) -> String {
        self.runner.computes_on()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("model", &self.model).finish_non_exhaustive()
    }
}
