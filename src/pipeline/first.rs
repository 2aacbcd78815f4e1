//! First enlarger: the network that makes the picture which is repainted, in the place of Lanczos. It is a setting of a job,
//! as the captioner is, and stays loaded for the next one where the plan says so.

use std::{
    ffi::OsStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{Device, DeviceLocation};
use tracing::debug;

use super::error::Error;
use crate::{
    backend::give_back_all,
    model::enlarger::Enlarger,
    weights::{ChoiceError, EnlargerFiles, WeightsError, named_enlarger},
};

/// Name of what is no network, for users and metadata.
pub const LANCZOS: &str = "lanczos";

/// What makes the picture that is repainted.
#[derive(Clone, Debug, Default)]
pub enum First {
    /// The model's own network ([`Engine::first`](super::Engine::first)) where the output is larger than the input; Lanczos where
    /// it has none.
    #[default]
    Own,
    /// Lanczos.
    Lanczos,
    /// A network.
    Network(Arc<FirstEnlarger>),
}

impl First {
    /// The network, where the model has this of its own, for an output that is larger or not.
    pub(crate) fn network(
        &self,
        own: Option<&Arc<FirstEnlarger>>,
        enlarges: bool,
    ) -> Option<Arc<FirstEnlarger>> {
        match self {
            Self::Own => own.filter(|_| enlarges).map(Arc::clone),
            Self::Lanczos => None,
            Self::Network(network) => Some(Arc::clone(network)),
        }
    }
}

/// A network that enlarges pictures, loaded when a job first needs it.
#[derive(Debug)]
pub struct FirstEnlarger {
    files: EnlargerFiles,
    fingerprint: String,
    loaded: Mutex<Option<(DeviceLocation, Arc<Enlarger>)>>,
}

impl FirstEnlarger {
    /// The network in these files, all of whose tensors are looked for.
    ///
    /// # Errors
    /// A tensor that is missing, or of another shape or type than the others imply.
    pub fn new(files: EnlargerFiles) -> Result<Self, WeightsError> {
        files.without_values(&Device::Cpu)?;
        Ok(Self { fingerprint: files.fingerprint(), files, loaded: Mutex::default() })
    }

    /// The network of that name, or in that file.
    ///
    /// # Errors
    /// What is not there, or is no such network.
    pub fn named(name: &OsStr) -> Result<Self, ChoiceError> {
        Ok(Self::new(named_enlarger(name)?)?)
    }

    /// Its name, in the output's metadata.
    #[must_use]
    pub fn name(&self) -> &str {
        self.files.name()
    }

    /// Its files.
    #[must_use]
    pub fn files(&self) -> &EnlargerFiles {
        &self.files
    }

    /// Digest that changes with its files.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The network on a device, loaded if it is not; one on another device is freed.
    pub(crate) fn on(&self, device: &Device) -> Result<Arc<Enlarger>, Error> {
        let mut loaded = self.lock();
        match &*loaded {
            Some((place, network)) if *place == device.location() => Ok(Arc::clone(network)),
            _ => {
                debug!(name = self.name(), "loading the enlarging network");
                *loaded = None;
                let network = Arc::new(self.files.load(device)?);
                *loaded = Some((device.location(), Arc::clone(&network)));
                Ok(network)
            }
        }
    }

    /// Unloads the network; one in use goes when it is no longer.
    pub(crate) fn free(&self, device: &Device) {
        *self.lock() = None;
        give_back_all(device);
    }

    /// Bytes of its weights where they are loaded.
    pub(crate) fn loaded_bytes(&self) -> usize {
        self.lock().as_ref().map_or(0, |(_, network)| network.weight_bytes())
    }

    fn lock(&self) -> MutexGuard<'_, Option<(DeviceLocation, Arc<Enlarger>)>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
