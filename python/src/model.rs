//! The model of an engine: from its keywords to the library's files. As the program finds models: by name, or at a path.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    sync::Arc,
};

use cupscale::{
    pipeline::{Engine, FirstEnlarger, ModelDefaults},
    weights::{
        EnlargerFiles, LoraScale, ModelFiles, ModelSource, QuantType,
        registry::{self, Kind, ModelError, RunDefaults, resolve_kind},
    },
};
use pyo3::{prelude::*, types::PyDict};

use crate::{
    controls::Controls,
    errors::{Class, Failure},
    keywords::{Fault, Keywords, each, named, path},
    values::{self, EmbeddingArg, LoraArg},
};

/// The model, and what changes it.
#[derive(Debug)]
pub struct Choice {
    model: Option<OsString>,
    unet: Option<PathBuf>,
    text_encoder: Option<PathBuf>,
    vae: Option<OsString>,
    quantize: Option<QuantType>,
    pub loras: Vec<LoraArg>,
    embeddings: Vec<EmbeddingArg>,
    first: Option<OsString>,
}

impl Choice {
    /// Reads the keywords.
    ///
    /// # Errors
    /// A value of another type, or one that names nothing.
    pub fn read(keywords: &Keywords<'_>) -> PyResult<Self> {
        let name = |keyword| keywords.get(keyword, |value| Ok(path(value)?.into_os_string()));
        Ok(Self {
            model: name("model")?,
            unet: keywords.get("unet", path)?,
            text_encoder: keywords.get("text_encoder", path)?,
            vae: name("vae")?,
            quantize: keywords.get("quantize", named)?,
            loras: keywords.get("loras", |value| each(value, lora))?.unwrap_or_default(),
            embeddings: keywords.get("embeddings", embeddings)?.unwrap_or_default(),
            first: name("first")?,
        })
    }

    /// The files of the model with all changes; for an installed model, also its name and its defaults.
    ///
    /// # Errors
    /// What is not there, or is no model of its kind.
    pub fn files(
        &self,
        controls: &Controls,
    ) -> Result<(ModelFiles, Option<(String, RunDefaults)>), Failure> {
        let named = self.model.as_deref().filter(|name| !is_own(name));
        let resolved = named.map(|name| resolve_kind(name, Kind::Diffusion)).transpose()?;
        let own_vae = self.vae.as_deref().map(|name| resolve_kind(name, Kind::Vae)).transpose()?;
        let own_vae = own_vae.map(|vae| vae.weights);
        let (source, manifest) = match &resolved {
            Some(model) => (ModelSource::Path(model.weights.clone()), Some(model)),
            None => (own_model()?, None),
        };
        let mut files = ModelFiles::open(source)?;
        if let Some(path) = self.unet.as_deref().or_else(|| manifest?.denoiser.as_deref()) {
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
        for LoraArg { path, scale } in &self.loras {
            let lora = resolve_kind(path.as_os_str(), Kind::Lora)?;
            files = files.with_lora(&lora.weights, scale.clone())?;
        }
        for EmbeddingArg { path, name } in &self.embeddings {
            files = files.with_embedding(path, name.as_deref())?;
        }
        for name in controls.models() {
            let control = resolve_kind(name, Kind::Control)?;
            files = files.with_control(&control.weights, control.known_name())?;
        }
        if let Some(quant) = self.quantize {
            files = files.quantized(quant);
        }
        let is_installed = resolved.filter(|model| model.kind.is_some());
        Ok((files, is_installed.map(|model| (model.name, model.run))))
    }

    /// What makes the picture that is repainted; `None` for Lanczos.
    ///
    /// # Errors
    /// What is not there, or is no such network.
    pub fn first(&self) -> Result<Option<Arc<FirstEnlarger>>, Failure> {
        let Some(name) = self.first.as_deref().filter(|name| *name != values::LANCZOS) else {
            return Ok(None);
        };
        let model = resolve_kind(name, Kind::Enlarger)?;
        let files = EnlargerFiles::open(&model.weights)?;
        let files = if model.kind.is_some() { files.with_name(model.name) } else { files };
        Ok(Some(Arc::new(FirstEnlarger::new(files)?)))
    }
}

/// An engine with what an installed model's manifest says.
///
/// # Errors
/// A manifest that cannot be read, or does not go with the model.
pub fn with_manifest(
    engine: Engine,
    manifest: Option<(String, RunDefaults)>,
) -> Result<Engine, Failure> {
    let Some((name, run)) = manifest else { return Ok(engine) };
    let defaults = serde_json::to_value(run)
        .and_then(serde_json::from_value::<ModelDefaults>)
        .map_err(|error| ModelError::Manifest { file: name.clone(), reason: error.to_string() })?;
    Ok(engine.with_manifest(name, defaults)?)
}

/// `true` for the embedded model's name, where nothing else has it.
fn is_own(name: &OsStr) -> bool {
    cfg!(feature = "embedded-model")
        && name == "mini"
        && matches!(registry::resolve(name), Err(ModelError::Unknown { .. }))
}

#[cfg(feature = "embedded-model")]
fn own_model() -> Result<ModelSource, Failure> {
    Ok(ModelSource::Embedded)
}

#[cfg(not(feature = "embedded-model"))]
fn own_model() -> Result<ModelSource, Failure> {
    let reason = "this build has no model of its own: name one with model=";
    Err(Failure::new(Class::Model, reason.to_owned()))
}

/// A name or a path as the option takes it (`NAME:0.8`), or a tuple of it, its scale, and perhaps weights of blocks.
fn lora(value: &Bound<'_, PyAny>) -> Result<LoraArg, Fault> {
    if let Ok(path) = path(value) {
        return values::lora(path.into_os_string()).map_err(Fault::Value);
    }
    let wanted =
        |_| Fault::Type("a name, or a tuple (name, scale) or (name, scale, weights of blocks),");
    let (name, scale, blocks): (PathBuf, f64, Vec<f64>) = value
        .extract()
        .or_else(|_| value.extract().map(|(name, scale)| (name, scale, Vec::new())))
        .map_err(wanted)?;
    if !scale.is_finite() || blocks.iter().any(|weight| !weight.is_finite()) {
        return Err(Fault::Value("the scale is not a number".to_owned()));
    }
    Ok(LoraArg { path: name, scale: LoraScale { scale, blocks } })
}

/// A list of paths, or a dict of names and paths.
fn embeddings(value: &Bound<'_, PyAny>) -> Result<Vec<EmbeddingArg>, Fault> {
    if let Ok(named) = value.cast::<PyDict>() {
        return named
            .iter()
            .map(|(name, file)| {
                let name =
                    Some(name.extract().map_err(|_| Fault::Type("a dict of names and paths"))?);
                Ok(EmbeddingArg { path: path(&file)?, name })
            })
            .collect();
    }
    each(value, |item| values::embedding(path(item)?.into_os_string()).map_err(Fault::Value))
}
