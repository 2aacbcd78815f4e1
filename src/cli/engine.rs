//! The model of a job: from `--model` and the options that change it to an engine on its devices.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
};

use cupscale::{
    backend::{DeviceSpec, MatmulPrecision},
    candle::Device,
    model::text::LoraTag,
    pipeline::{Engine, Error, FirstEnlarger, ModelDefaults},
    weights::{
        EnlargerFiles, ModelFiles, ModelSource,
        registry::{self, Kind, ModelError, RunDefaults, Store, resolve_kind},
    },
};

use super::{
    args::ModelArgs,
    error::CliError,
    values::{self, ControlArg, EmbeddingArg, LoraArg},
};

/// Loads a model with ControlNets onto devices, and the LoRAs that a prompt names; `note` receives warnings.
pub fn load(
    args: &ModelArgs,
    tags: &[LoraTag],
    controls: &[&ControlArg],
    precision: MatmulPrecision,
    devices: &[Device],
    note: impl FnMut(&str),
) -> Result<Engine, CliError> {
    let own = OwnParts {
        unet: args.unet.as_deref(),
        text_encoder: args.text_encoder.as_deref(),
        vae: args.vae.as_deref(),
    };
    let loras = with_tags(args, tags)?;
    let (mut files, manifest) = files(args.model.as_deref(), &own, &loras)?;
    for EmbeddingArg { path, name } in &args.embedding {
        files = files.with_embedding(path, name.as_deref()).map_err(Error::from)?;
    }
    for ControlArg { name, .. } in controls {
        let control = resolve_kind(name, Kind::Control)?;
        files = files.with_control(&control.weights, control.known_name()).map_err(Error::from)?;
    }
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
    if registry::resolve(model)?.kind == Some(Kind::Enlarger) {
        return first(model).map(drop);
    }
    let (files, _) = files(Some(model), &OwnParts::default(), &[])?;
    let device = DeviceSpec::Cpu.open().map_err(Error::from)?;
    Engine::load(&files, &device)?;
    Ok(())
}

/// The first enlarger of that name or in that file; `None` for Lanczos.
pub fn first(name: &OsStr) -> Result<Option<Arc<FirstEnlarger>>, CliError> {
    if name == values::LANCZOS {
        return Ok(None);
    }
    let model = resolve_kind(name, Kind::Enlarger)?;
    let files = EnlargerFiles::open(&model.weights).map_err(Error::from)?;
    let files = if model.kind.is_some() { files.with_name(model.name) } else { files };
    Ok(Some(Arc::new(FirstEnlarger::new(files).map_err(Error::from)?)))
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
    let resolved = model.map(|name| resolve_kind(name, Kind::Diffusion)).transpose()?;
    let own_vae =
        own.vae.map(|name| resolve_kind(name, Kind::Vae)).transpose()?.map(|vae| vae.weights);
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
        let lora = resolve_kind(path.as_os_str(), Kind::Lora)?;
        files = files.with_lora(&lora.weights, scale.clone()).map_err(job)?;
    }
    let named = resolved.filter(|model| model.kind.is_some());
    Ok((files, named.map(|model| (model.name, model.run))))
}

/// The LoRAs of the options and those that a prompt names.
fn with_tags(args: &ModelArgs, tags: &[LoraTag]) -> Result<Vec<LoraArg>, CliError> {
    let mut loras = args.lora.clone();
    for tag in tags {
        if let Some(other) = loras.iter().find(|lora| lora.is_named(&tag.name)) {
            return Err(CliError::Usage(format!(
                "{}: that LoRA is given twice (the other: {}); leave one out",
                tag.tag,
                other.path.display()
            )));
        }
        loras.push(LoraArg { path: tagged(args, tag)?, scale: tag.scale.into() });
    }
    Ok(loras)
}

/// The LoRA that a prompt names: an installed one, or a file of that name in the models folder or beside the model.
fn tagged(args: &ModelArgs, LoraTag { name, tag, .. }: &LoraTag) -> Result<PathBuf, CliError> {
    if name.contains(['/', '\\']) {
        let reason = format!("{tag}: a tag has a name and no path: give the file with --lora");
        return Err(CliError::Usage(reason));
    }
    let store = Store::open()?;
    if store.manifest(name).ok().flatten().is_some_and(|entry| entry.kind == Kind::Lora) {
        return Ok(name.into());
    }
    let model =
        args.model.as_deref().map(|model| resolve_kind(model, Kind::Diffusion)).transpose()?;
    let beside = model.as_ref().and_then(|model| model.weights.parent());
    let beside = beside.map(|folder| match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    });
    let folders = || beside.into_iter().chain([store.root()]);
    let file = format!("{name}.safetensors");
    let found = folders().map(|folder| folder.join(&file)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let folders: Vec<_> = folders().map(|folder| folder.display().to_string()).collect();
        CliError::Usage(format!(
            "{tag}: no installed LoRA has that name, and there is no {file} in {}: put it there, or give it with --lora",
            folders.join(" or ")
        ))
    })
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
