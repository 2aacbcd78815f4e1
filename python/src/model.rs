//! The model of an engine, from its keywords.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    sync::Arc,
};

use cupscale::{
    pipeline::{First, FirstEnlarger, LANCZOS},
    weights::{LoraScale, ModelChoice},
};
use pyo3::{prelude::*, types::PyDict};

use crate::{
    controls::Controls,
    errors::Failure,
    keywords::{Fault, Keywords, each, named, path},
    values::{self, EmbeddingArg, LoraArg},
};

/// The model of an engine, what changes it, and what makes the picture that is repainted.
#[derive(Debug)]
pub struct Choice {
    pub model: ModelChoice,
    /// Those of the model, for prompts that name one.
    pub loras: Vec<LoraArg>,
    first: Option<OsString>,
}

impl Choice {
    /// Reads the keywords.
    ///
    /// # Errors
    /// A value of another type, or one that names nothing.
    pub fn read(keywords: &Keywords<'_>, controls: &Controls) -> PyResult<Self> {
        let name = |keyword| keywords.get(keyword, |value| Ok(path(value)?.into_os_string()));
        let loras = keywords.get("loras", |value| each(value, lora))?.unwrap_or_default();
        let embeddings = keywords.get("embeddings", embeddings)?.unwrap_or_default();
        let model = ModelChoice {
            model: name("model")?,
            denoiser: keywords.get("unet", path)?,
            text_encoder: keywords.get("text_encoder", path)?,
            vae: name("vae")?,
            loras: loras.iter().cloned().map(Into::into).collect(),
            embeddings: embeddings.into_iter().map(Into::into).collect(),
            controls: controls.models().map(OsStr::to_owned).collect(),
            quantize: keywords.get("quantize", named)?,
        };
        Ok(Self { model, loras, first: name("first")? })
    }

    /// What makes the picture that is repainted.
    ///
    /// # Errors
    /// What is not there, or is no such network.
    pub fn first(&self) -> Result<First, Failure> {
        Ok(match self.first.as_deref() {
            None => First::Own,
            Some(name) if name == LANCZOS => First::Lanczos,
            Some(name) => First::Network(Arc::new(FirstEnlarger::named(name)?)),
        })
    }
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
