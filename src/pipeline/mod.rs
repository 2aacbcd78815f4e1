//! One job from picture to picture: plan it, describe and encode the input, denoise the canvas,
//! decode it into the output (METHOD §2).

mod captions;
mod colour_fix;
mod condition;
mod decode;
mod denoise;
mod encode;
mod engine;
mod error;
mod memory;
mod plan;
mod progress;
mod sampling;
mod settings;
mod tiles;

pub use engine::{Engine, ModelShape};
pub use error::Error;
pub use memory::{MemoryPlan, MemoryStage, StageMemory};
pub use plan::Plan;
pub use progress::{Progress, Silent, Stage};
pub use sampling::{ModelDefaults, Sampling};
pub use settings::{CaptionerChoice, ColourFix, Defaults, Settings};

use std::{cell::Cell, path::Path};

use crate::{
    caption::document::Document,
    image::{EncodeOptions, Encoder, Format, Output, Picture},
};

/// What a finished job has to say for itself.
#[derive(Clone, Debug)]
pub struct Report {
    /// Output size in pixels.
    pub width: u32,
    pub height: u32,
    /// Regions and steps that ran.
    pub regions: usize,
    pub steps: usize,
}

/// Enlarges `picture` into `output`.
///
/// The output appears at its path complete or not at all. Same settings, same bytes: on one
/// backend the result depends neither on batch size nor on the number of threads.
///
/// # Errors
/// See [`Error`]; whatever it is, nothing half-written is left.
pub fn upscale(
    engine: &Engine,
    picture: &Picture,
    output: &Output,
    format: Format,
    settings: &Settings,
    progress: &mut dyn Progress,
) -> Result<Report, Error> {
    let plan = Plan::new(engine, (picture.width, picture.height), settings)?;
    let size = plan.canvas;
    let stage_is_over = || {
        if !plan.memory.keeps_parts {
            engine.free_parts();
        }
    };
    // What an earlier job left loaded.
    stage_is_over();
    format.check_size(&output.name(), size.width as u32, size.height as u32)?;
    let described = captions::describe(engine, picture, &plan, settings, progress)?;
    if progress.interrupted() {
        return Err(Error::Interrupted);
    }
    let options = EncodeOptions {
        quality: settings.jpeg_quality,
        settings: Some(settings.record(engine, &plan, &described.prompt)),
        ..EncodeOptions::like(picture)
    };
    // Opened before the long work: what cannot be written should be known now.
    let mut writer =
        Encoder::create(output, format, size.width as u32, size.height as u32, options)?;
    for note in &plan.sampling.notes {
        progress.note(note);
    }
    if let Some(note) = plan.memory.note(settings, engine.default_batch()) {
        progress.note(&note);
    }
    for warning in picture.warnings.iter().chain(writer.warnings()) {
        progress.note(&warning.to_string());
    }

    // Beside the output there is room for a picture; the system's temporary folder may be memory.
    let folder = match output {
        Output::Path(path) => path.parent().filter(|folder| folder.is_dir()),
        Output::Stdout => None,
    }
    .map_or_else(std::env::temp_dir, Path::to_path_buf);
    let conditions = condition::Conditions::new(
        engine,
        &described.prompt,
        &described.texts,
        settings.rsp,
        plan.sampling.guidance.map(|_| settings.negative_prompt.as_str()),
    )?;
    stage_is_over();
    let zl = encode::canvas(engine, picture, &plan, &folder, progress)?;
    let low_resolution = plan
        .low_resolution
        .map(|size| encode::low_resolution(engine, picture, &plan, size))
        .transpose()?;
    stage_is_over();
    let z = denoise::Denoise {
        engine,
        plan: &plan,
        settings,
        folder: &folder,
        conditions: &conditions,
        zl: &zl,
        low_resolution: low_resolution.as_ref(),
        batch: Cell::new(plan.memory.batch),
    }
    .run(progress)?;
    drop((zl, low_resolution));
    stage_is_over();
    decode::canvas(engine, picture, &plan, settings, &z, &mut writer, progress)?;
    stage_is_over();
    writer.finish()?;
    Ok(Report {
        width: size.width as u32,
        height: size.height as u32,
        regions: plan.grid.len(),
        steps: plan.sampling.steps.len(),
    })
}

/// Describes every region of the job without running it: what `--captions` takes back.
///
/// # Errors
/// See [`Error`].
pub fn describe(
    engine: &Engine,
    picture: &Picture,
    settings: &Settings,
    progress: &mut dyn Progress,
) -> Result<Document, Error> {
    let plan = Plan::new(engine, (picture.width, picture.height), settings)?;
    Ok(captions::describe(engine, picture, &plan, settings, progress)?.document)
}
