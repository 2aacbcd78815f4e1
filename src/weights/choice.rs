//! Models as a user names them, with what is put in the place of their own parts, and the files that this comes to.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use super::{
    EMBEDDED_MODEL, EnlargerFiles, LlavaFiles, LoraScale, ModelFiles, ModelSource, QuantType,
    WeightsError,
    registry::{Kind, ModelError, ResolvedModel, RunDefaults, Store, resolve, resolve_kind},
};

/// A model and its changes. Where a field is an [`OsString`], it is a path or the name of an installed model; what is chosen here
/// goes before what the manifest of an installed model says, and LoRAs add up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelChoice {
    /// The model; the embedded one where there is none, or where nothing else has its name.
    pub model: Option<OsString>,
    /// Folder or file of another denoiser.
    pub denoiser: Option<PathBuf>,
    /// Folder or file of another large text encoder.
    pub text_encoder: Option<PathBuf>,
    /// Another VAE.
    pub vae: Option<OsString>,
    /// LoRAs, merged in this order after the manifest's.
    pub loras: Vec<(OsString, LoraScale)>,
    /// Files or folders of embeddings, with the names that prompts have for them where they are not the files'.
    pub embeddings: Vec<(PathBuf, Option<String>)>,
    /// ControlNets, to be used by their places in this list.
    pub controls: Vec<OsString>,
    /// Type to which weights are rounded as they are read.
    pub quantize: Option<QuantType>,
}

/// Files of a model that was chosen.
#[derive(Clone, Debug)]
pub struct ChosenModel {
    /// The files, with all changes.
    pub files: ModelFiles,
    /// Of an installed model: its name, and the defaults that its manifest has.
    pub manifest: Option<(String, RunDefaults)>,
}

/// Reason why a choice comes to no model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "a variant's message says what its fields are")]
pub enum ChoiceError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// No model was named, and the program was built without one.
    #[error("this build has no model of its own")]
    NoModel,
    /// No captioner was named, and none is installed.
    #[error("no captioner is installed")]
    NoCaptioner,
    /// No captioner was named, and several are installed.
    #[error("several captioners are installed: {}", .0.join(", "))]
    Captioners(Vec<String>),
}

impl ModelChoice {
    /// A model as it is.
    #[must_use]
    pub fn of(model: OsString) -> Self {
        Self { model: Some(model), ..Self::default() }
    }

    /// The named model; `None` for the embedded one.
    ///
    /// # Errors
    /// As of [`resolve_kind`].
    pub fn named(&self) -> Result<Option<ResolvedModel>, ModelError> {
        let named = self.model.as_deref().filter(|name| !is_embedded(name));
        named.map(|name| resolve_kind(name, Kind::Diffusion)).transpose()
    }

    /// Opens the files of all that is chosen; headers are read, and no weights.
    ///
    /// # Errors
    /// What is not there or not supported, is of another kind, or does not go with the model.
    pub fn open(&self) -> Result<ChosenModel, ChoiceError> {
        let named = self.named()?;
        let own_vae = self.vae.as_deref().map(|name| resolve_kind(name, Kind::Vae)).transpose()?;
        let own_vae = own_vae.map(|vae| vae.weights);
        let (source, manifest) = match &named {
            Some(model) => (ModelSource::Path(model.weights.clone()), Some(model)),
            None => (embedded()?, None),
        };
        let mut files = ModelFiles::open(source)?;
        if let Some(path) = self.denoiser.as_deref().or_else(|| manifest?.denoiser.as_deref()) {
            files = files.with_denoiser(path)?;
        }
        let text_encoder = self.text_encoder.as_deref();
        if let Some(path) = text_encoder.or_else(|| manifest?.text_encoder.as_deref()) {
            files = files.with_text_encoder(path)?;
        }
        if let Some(path) = own_vae.as_deref().or_else(|| manifest?.vae.as_deref()) {
            files = files.with_vae(path)?;
        }
        for (path, scale) in manifest.iter().flat_map(|model| &model.loras) {
            files = files.with_lora(path, scale.clone())?;
        }
        for (name, scale) in &self.loras {
            let lora = resolve_kind(name, Kind::Lora)?;
            files = files.with_lora(&lora.weights, scale.clone())?;
        }
        for (path, name) in &self.embeddings {
            files = files.with_embedding(path, name.as_deref())?;
        }
        for name in &self.controls {
            let control = resolve_kind(name, Kind::Control)?;
            files = files.with_control(&control.weights, control.known_name())?;
        }
        if let Some(quant) = self.quantize {
            files = files.quantized(quant);
        }
        let installed = named.filter(|model| model.kind.is_some());
        Ok(ChosenModel { files, manifest: installed.map(|model| (model.name, model.run)) })
    }
}

/// A captioner and its changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaptionerChoice {
    /// A path or the name of an installed captioner; the only one that is installed where there is none.
    pub model: Option<OsString>,
    /// File with the vision tower of a decoder in a GGUF file, where it is another than the installed captioner's.
    pub mmproj: Option<PathBuf>,
    /// Type to which the decoder's weights are rounded as they are read.
    pub quantize: Option<QuantType>,
}

impl CaptionerChoice {
    /// Opens its files, of which headers are read; with the name that users know it by.
    ///
    /// # Errors
    /// What is not there, is of another kind or not supported, and no name where none or several are installed.
    pub fn open(&self) -> Result<(LlavaFiles, String), ChoiceError> {
        let model = match &self.model {
            Some(name) => resolve_kind(name, Kind::Captioner)?,
            None => only_captioner()?,
        };
        let mut files = match self.mmproj.as_ref().or(model.mmproj.as_ref()) {
            Some(mmproj) => LlavaFiles::open_gguf(&model.weights, mmproj)?,
            None => LlavaFiles::open(&model.weights)?,
        };
        if let Some(quant) = self.quantize {
            files = files.quantized(quant);
        }
        Ok((files, model.known_name()))
    }
}

/// The one captioner that is installed.
fn only_captioner() -> Result<ResolvedModel, ChoiceError> {
    let store = Store::open()?;
    let captioners = store.manifests()?.into_iter().filter(|entry| entry.kind == Kind::Captioner);
    let mut names: Vec<String> = captioners.map(|entry| entry.name).collect();
    match names.len() {
        0 => Err(ChoiceError::NoCaptioner),
        1 => Ok(store.resolve(names.remove(0).as_ref())?),
        _ => Err(ChoiceError::Captioners(names)),
    }
}

/// Files of the enlarging network of that name, or in that file.
///
/// # Errors
/// What is not there, or is no such network.
pub fn named_enlarger(name: &OsStr) -> Result<EnlargerFiles, ChoiceError> {
    let model = resolve_kind(name, Kind::Enlarger)?;
    let files = EnlargerFiles::open(&model.weights)?;
    Ok(if model.kind.is_some() { files.with_name(model.name) } else { files })
}

/// `true` for the name that the embedded model has, unless a model is installed under it.
#[must_use]
pub fn names_embedded(name: &str) -> bool {
    let is_installed = || Store::open().and_then(|store| store.manifest(name));
    cfg!(feature = "embedded-model")
        && name == EMBEDDED_MODEL
        && !is_installed().is_ok_and(|entry| entry.is_some())
}

/// `true` for the embedded model's name, where nothing else has it.
fn is_embedded(name: &OsStr) -> bool {
    cfg!(feature = "embedded-model")
        && name == EMBEDDED_MODEL
        && matches!(resolve(name), Err(ModelError::Unknown { .. }))
}

#[cfg(feature = "embedded-model")]
#[allow(clippy::unnecessary_wraps, reason = "without the model there is an error")]
fn embedded() -> Result<ModelSource, ChoiceError> {
    Ok(ModelSource::Embedded)
}

#[cfg(not(feature = "embedded-model"))]
fn embedded() -> Result<ModelSource, ChoiceError> {
    Err(ChoiceError::NoModel)
}
