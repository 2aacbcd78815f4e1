//! The model of a job: from `--model` and the options that change it to an engine on its devices.

use std::{ffi::OsStr, path::Path};

use cupscale::{
    backend::{DeviceSpec, MatmulPrecision},
    candle::Device,
    pipeline::{Engine, Error, ModelDefaults},
    weights::{
        ModelFiles, ModelSource,
        registry::{self, Kind, ModelError, ResolvedModel, RunDefaults},
    },
};

use super::{args::ModelArgs, error::CliError, values::LoraArg};

/// Loads a model onto devices; `note` receives warnings.
pub fn load(
    args: &ModelArgs,
    precision: MatmulPrecision,
    devices: &[Device],
    note: impl FnMut(&str),
) -> Result<Engine, CliError> {
    let own = OwnParts {
        unet: args.unet.as_deref(),
        text_encoder: args.text_encoder.as_deref(),
        vae: args.vae.as_deref(),
    };
    let (mut files, manifest) = files(args.model.as_deref(), &own, &args.lora)?;
    if let Some(quant) = args.quantize {
        files = files.quantized(quant);
    }
    files = files.with_precision(precision);
    files.notes().iter().map(String::as_str).for_each(note);
    let engine = Engine::load_on(&files, devices)?;
    let Some((name, run)) = manifest else { return Ok(engine) };
    let defaults = serde_json::to_value(run)
        .and_then(serde_json::from_value::<ModelDefaults>)
        .map_err(|error| ModelError::Manifest { file: name.clone(), reason: error.to_string() })?;
    Ok(engine.with_manifest(name, defaults)?)
}

/// Checks a model's configurations and the headers of its weights.
pub fn check(model: &OsStr) -> Result<(), CliError> {
    let (files, _) = files(Some(model), &OwnParts::default(), &[])?;
    let device = DeviceSpec::Cpu.open().map_err(Error::from)?;
    Engine::load(&files, &device)?;
    Ok(())
}

/// Parts that options put in the place of a model's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnParts<'a> {
    pub unet: Option<&'a Path>,
    pub text_encoder: Option<&'a Path>,
    pub vae: Option<&'a OsStr>,
}

/// Files of a model with the changes by options; for an installed model, also its name and run settings. Options
/// take precedence over the manifest; LoRAs accumulate.
pub fn files(
    model: Option<&OsStr>,
    own: &OwnParts<'_>,
    loras: &[LoraArg],
) -> Result<(ModelFiles, Option<(String, RunDefaults)>), CliError> {
    let job = |error| CliError::from(Error::from(error));
    let resolved = model.map(|name| resolve(name, Kind::Diffusion)).transpose()?;
    let own_vae = own.vae.map(|name| resolve(name, Kind::Vae)).transpose()?.map(|vae| vae.weights);
    let (source, manifest) = match &resolved {
        Some(model) => (ModelSource::Path(model.weights.clone()), Some(model)),
        None => (own_model()?, None),
    };
    let mut files = ModelFiles::open(source).map_err(job)?;
    if let Some(path) = own.unet.or_else(|| manifest?.denoiser.as_deref()) {
        files = files.with_denoiser(path).map_err(job)?;
    }
    if let Some(path) = own.text_encoder.or_else(|| manifest?.text_encoder.as_deref()) {
        files = files.with_text_encoder(path).map_err(job)?;
    }
    if let Some(path) = own_vae.as_deref().or_else(|| manifest?.vae.as_deref()) {
        files = files.with_vae(path).map_err(job)?;
    }
    for (path, scale) in manifest.iter().flat_map(|model| &model.loras) {
        files = files.with_lora(path, scale.clone()).map_err(job)?;
    }
    for LoraArg { path, scale } in loras {
        let lora = resolve(path.as_os_str(), Kind::Lora)?;
        files = files.with_lora(&lora.weights, scale.clone()).map_err(job)?;
    }
    let named = resolved.filter(|model| model.kind.is_some());
    Ok((files, named.map(|model| (model.name, model.run))))
}

/// The default model.
#[cfg(feature = "embedded-model")]
fn own_model() -> Result<ModelSource, CliError> {
    Ok(ModelSource::Embedded)
}

/// The default model.
#[cfg(not(feature = "embedded-model"))]
fn own_model() -> Result<ModelSource, CliError> {
    let reason = "this build has no model of its own: name one with --model";
    Err(CliError::Usage(reason.to_owned()))
}

/// Resolves a path or a model name; a named model must be of kind `wanted`.
pub fn resolve(name: &OsStr, wanted: Kind) -> Result<ResolvedModel, CliError> {
    let model = registry::resolve(name)?;
    match model.kind {
        Some(kind) if kind != wanted => Err(CliError::Usage(format!(
            "{}: a model of kind {}, where one of kind {} is wanted",
            model.name,
            kind.name(),
            wanted.name()
        ))),
        _ => Ok(model),
    }
}
