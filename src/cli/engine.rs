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
    pipeline::{Engine, Error, First, FirstEnlarger, LANCZOS},
    weights::{
        CaptionerChoice, ModelChoice,
        registry::{self, Kind, Store},
    },
};

use super::{
    args::ModelArgs,
    error::CliError,
    values::{ControlArg, LoraArg},
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
    let mut choice = args.choice();
    choice.loras = with_tags(args, tags)?.into_iter().map(Into::into).collect();
    choice.controls = controls.iter().map(|control| control.name.clone()).collect();
    let mut chosen = choice.open()?;
    chosen.files = chosen.files.with_precision(precision);
    chosen.files.notes().iter().map(String::as_str).for_each(note);
    Ok(Engine::load_chosen(&chosen, devices)?)
}

/// Checks that an installed model can be run: its configurations, the headers of its weights, what its manifest says of runs.
pub fn check(model: &OsStr) -> Result<(), CliError> {
    match registry::resolve(model)?.kind {
        Some(Kind::Enlarger) => Ok(FirstEnlarger::named(model).map(drop)?),
        Some(Kind::Captioner) => {
            let choice = CaptionerChoice { model: Some(model.to_owned()), ..Default::default() };
            Ok(choice.open().map(drop)?)
        }
        // These cannot be run without the model that they are for.
        Some(Kind::Control | Kind::Lora | Kind::Vae) => Ok(()),
        Some(Kind::Diffusion) | None => {
            let chosen = ModelChoice::of(model.to_owned()).open()?;
            let device = DeviceSpec::Cpu.open().map_err(Error::from)?;
            Ok(Engine::load_chosen(&chosen, &[device]).map(drop)?)
        }
    }
}

/// The first enlarger of that name or in that file.
pub fn first(name: Option<&OsStr>) -> Result<First, CliError> {
    Ok(match name {
        None => First::Own,
        Some(name) if name == LANCZOS => First::Lanczos,
        Some(name) => First::Network(Arc::new(FirstEnlarger::named(name)?)),
    })
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
    let model = args.choice().named()?;
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
