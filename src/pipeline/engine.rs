//! Engine: one model on one device or several, ready for any number of jobs; the library's entry point.

use std::{fmt, sync::Arc};

use candle_core::{DType, Device};

use crate::{
    backend::{DeviceError, check_devices, place_name, working_dtype},
    sampler::SamplerKind,
    weights::{ChosenModel, ModelFiles},
};

use super::{
    error::Error,
    first::FirstEnlarger,
    model::{Model, ModelShape},
    model_defaults::ModelDefaults,
    profile::Profile,
    runner::{Compute, Runner},
};

/// A model that has been checked and is ready for any number of jobs, on one device or several.
///
/// Parts are loaded when a job first needs them. They stay loaded if the job's plan has memory for all of them;
/// otherwise they are unloaded after each stage.
pub struct Engine {
    pub(crate) model: Model,
    /// The first device's.
    pub(crate) runner: Runner,
    /// Those of further devices of the same kind.
    others: Vec<Runner>,
}

impl Engine {
    /// Prepares the model for `device`: reads its configurations and the headers of its weights, and
    /// checks everything that does not need the weights' values. The parts are loaded by the
    /// first job, in the device's working precision.
    ///
    /// # Errors
    /// A part that is missing, of an architecture that is not supported, or that does not go with
    /// the others; a tensor that is missing, or of another shape or type than it should be.
    pub fn load(files: &ModelFiles, device: &Device) -> Result<Self, Error> {
        Self::load_in(files, device, working_dtype(device))
    }

    /// Prepares the model for `devices`, which share every job: each loads the model's parts and takes captions, VAE
    /// tiles and regions as it gets free. A picture's bytes are those of one such device. GPUs of different models may
    /// round differently, which nobody sees, but then bytes depend on which of them took what.
    ///
    /// The same device may be there more than once: several streams of one GPU, or the CPU, whose threads they share.
    ///
    /// # Errors
    /// No device, or devices of two kinds; those of [`load`](Self::load).
    pub fn load_on(files: &ModelFiles, devices: &[Device]) -> Result<Self, Error> {
        check_devices(devices)?;
        let (first, others) = devices.split_first().ok_or(DeviceError::Missing)?;
        let engine = Self::load(files, first)?;
        let runner = |device: &Device| {
            Runner::new(files.clone(), &engine.model, device.clone(), engine.runner.dtype())
        };
        let others = others.iter().map(runner).collect();
        Ok(Self { others, ..engine })
    }

    /// [`load`](Self::load) in a given working precision.
    pub(crate) fn load_in(
        files: &ModelFiles,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, Error> {
        let model = Model::read(files, device, dtype)?;
        let runner = Runner::new(files.clone(), &model, device.clone(), dtype);
        Ok(Self { model, runner, others: Vec::new() })
    }

    /// The runner of each device.
    pub(crate) fn runners(&self) -> impl Iterator<Item = &Runner> {
        [&self.runner].into_iter().chain(&self.others)
    }

    /// The devices but the first, as stages see them.
    pub(crate) fn others(&self) -> Vec<&dyn Compute> {
        self.others.iter().map(|runner| runner as &dyn Compute).collect()
    }

    /// Unloads all parts of the model from all devices; a part in use is freed after its last use.
    pub(crate) fn free_parts(&self) {
        self.runners().for_each(Runner::free_parts);
    }

    /// Names of the devices, in their order: `cuda:0`, `cuda:1`.
    #[must_use]
    pub fn devices(&self) -> Vec<String> {
        self.runners().map(|runner| place_name(runner.device())).collect()
    }

    /// Loads a model that was chosen, onto devices of which there is at least one. An installed one has the name and the
    /// sampling defaults of its manifest, before those of its files.
    ///
    /// # Errors
    /// As of [`load_on`](Self::load_on), and defaults that the model cannot have.
    pub fn load_chosen(chosen: &ChosenModel, devices: &[Device]) -> Result<Self, Error> {
        let engine = Self::load_on(&chosen.files, devices)?;
        let Some((name, run)) = &chosen.manifest else { return Ok(engine) };
        let defaults = ModelDefaults::try_from(run).map_err(|reason| Error::Model {
            model: name.clone(),
            reason: format!("its manifest: {reason}"),
        })?;
        Ok(Self { model: engine.model.with_manifest(name.clone(), defaults)?, ..engine })
    }

    /// The model's name, as users and metadata see it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// The network of the model's own that enlarges the input before the model repaints it.
    #[must_use]
    pub fn first(&self) -> Option<&Arc<FirstEnlarger>> {
        self.model.first.as_ref()
    }

    /// The profile that the model's manifest or files recommend.
    #[must_use]
    pub fn profile(&self) -> Option<Profile> {
        self.model.defaults.profile
    }

    /// Steps of the whole schedule that the model's manifest or files recommend; `None` where they say nothing of it.
    #[must_use]
    pub fn steps(&self) -> Option<usize> {
        let ModelDefaults { timesteps, steps, .. } = &self.model.defaults;
        timesteps.as_ref().map(Vec::len).or(*steps)
    }

    /// `true` if the sampler is for models like this one: a model of flow matching takes others than the rest.
    #[must_use]
    pub fn takes(&self, sampler: SamplerKind) -> bool {
        self.model.scheduler.process().is_ok_and(|process| process == sampler.process())
    }

    /// Names of the controls beside the denoiser, which jobs use by their number ([`ControlUse`](super::ControlUse)).
    #[must_use]
    pub fn controls(&self) -> &[String] {
        self.model.controls()
    }

    /// Sizes of the model that decide the shape of a job.
    #[must_use]
    pub fn shape(&self) -> ModelShape {
        self.model.shape()
    }

    /// Bytes of all loaded weights, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.model.weight_bytes()
    }

    /// True if norms or attention of the autoencoder see the whole picture, so that several tiles must agree on what they
    /// see.
    #[must_use]
    pub fn vae_sees_the_whole(&self) -> bool {
        self.model.blueprints.vae.has_global_state()
    }

    /// Backend, precision, and on the CPU the instruction set of its matrix products.
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
