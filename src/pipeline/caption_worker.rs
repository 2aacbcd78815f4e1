//! The captioner of a job that is a process of its own: what that is started with, and that it has the device to
//! itself.

use std::{error, process::Command};

use candle_core::{Device, DeviceLocation};

use crate::{
    caption::{
        CaptionError,
        cache::CaptionCache,
        mistralrs::{VERB, confine, folder_name},
        wording::{Stop, instruction},
        worker::{Patience, WorkerCaptioner, WorkerOptions, protocol::Load},
    },
    model::llava::GenerateOptions,
    weights::folder_fingerprint,
};

use super::{Engine, Error, MistralrsSettings};

/// What users call it.
const ENGINE: &str = "mistralrs";

/// The captioner of a job. Nothing of the engine's own model is loaded when it starts to work.
///
/// # Errors
/// A folder that cannot be named, or tokenizers that cannot be read.
pub(super) fn captioner<'a>(
    engine: &'a Engine,
    settings: &MistralrsSettings,
    stop: Stop<'a>,
) -> Result<WorkerCaptioner<'a>, Error> {
    let load = Load {
        folder: folder_name(&settings.folder).map_err(|error| refused(&error))?,
        quantize: settings.quantize.map(|quant| quant.to_string()),
        cpu: matches!(engine.device, Device::Cpu),
        max_new_tokens: GenerateOptions::default().max_new_tokens,
        try_together: true,
    };
    let gpu = match engine.device.location() {
        DeviceLocation::Cuda { gpu_id } => Some(gpu_id),
        _ => None,
    };
    let program = settings.program.clone();
    let scratch = tempfile::tempdir().map_err(|error| refused(&error))?;
    let free_parts = engine.parts_freer();
    let start = move || {
        free_parts();
        let mut command = Command::new(&program);
        command.arg(VERB);
        confine(&mut command, scratch.path(), gpu);
        command
    };
    Ok(WorkerCaptioner::new(WorkerOptions {
        engine: ENGINE,
        model: settings.name(),
        start: Box::new(start),
        load,
        fingerprint: fingerprint(settings),
        cache: CaptionCache::new(settings.cache.clone()),
        patience: Patience::default(),
        fits: Box::new(engine.fits()?),
        stop,
    }))
}

/// What captions follow from beside the picture, the grid and the prompt.
pub(super) fn identity(settings: &MistralrsSettings) -> String {
    format!("{ENGINE} {} {}", fingerprint(settings), instruction(""))
}

/// Changes with the model and what its weights are rounded to.
fn fingerprint(settings: &MistralrsSettings) -> String {
    folder_fingerprint(&settings.folder, settings.quantize)
}

fn refused(error: &dyn error::Error) -> CaptionError {
    CaptionError::Engine { name: ENGINE.into(), message: error.to_string() }
}
