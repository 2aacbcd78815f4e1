//! One job from picture to picture: plan it, describe and encode the input, denoise the canvas,
//! decode it into the output (METHOD §2).

#[cfg(feature = "llava")]
mod caption_memory;
#[cfg(feature = "llava")]
mod caption_model;
#[cfg(feature = "mistralrs")]
mod caption_worker;
mod captions;
mod colour_fix;
mod condition;
mod decode;
mod denoise;
mod encode;
mod engine;
mod error;
mod history;
mod job;
mod journal;
mod memory;
mod plan;
mod progress;
mod retry;
mod sampling;
mod settings;
mod slot;
mod statistics;
mod tiles;
mod work;

#[cfg(feature = "llava")]
pub use caption_model::CaptionModel;
pub use engine::{Engine, ModelShape};
pub use error::Error;
pub use memory::{CaptionBatch, MemoryPlan, MemoryStage, StageMemory};
pub use plan::Plan;
pub use progress::{Progress, Silent, Stage};
pub use sampling::{ModelDefaults, Sampling};
#[cfg(feature = "llava")]
pub use settings::LlavaSettings;
#[cfg(feature = "mistralrs")]
pub use settings::MistralrsSettings;
pub use settings::{CaptionerChoice, ColourFix, Defaults, Settings};
pub use work::{Resume, Work};

use std::cell::Cell;

use crate::{
    backend::give_back_freed,
    caption::document::Document,
    image::{EncodeOptions, Encoder, Format, Output, Picture},
};
use journal::Done;
use work::WorkFolder;

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
/// backend the result depends neither on batch size nor on the number of threads, nor on how often
/// the job was killed and taken up again (see [`Work`]).
///
/// # Errors
/// See [`Error`]; whatever it is, nothing half-written is left, and what was finished is kept.
pub fn upscale(
    engine: &Engine,
    picture: &Picture,
    output: &Output,
    format: Format,
    settings: &Settings,
    work: &Work,
    progress: &mut dyn Progress,
) -> Result<Report, Error> {
    let plan = Plan::new(engine, (picture.width, picture.height), settings)?;
    let size = plan.canvas;
    // What an earlier job left loaded.
    end_stage(engine, &plan);
    format.check_size(&output.name(), size.width as u32, size.height as u32)?;
    let source = captions::Source::open(settings, settings.rsp > 0.0)?;
    let record = settings.record(engine, &plan, source.prompt(settings));
    let captions = source.identity(engine)?;
    let job = job::identity(engine, picture, format, settings, &plan, &record, &captions);
    let options = EncodeOptions { quality: settings.jpeg_quality, ..EncodeOptions::like(picture) };
    let encoder =
        Encoder::new(&output.name(), format, size.width as u32, size.height as u32, options)?;
    for note in &plan.sampling.notes {
        progress.note(note);
    }
    if let Some(note) = plan.memory.note(settings, (engine.default_batch(), engine.default_tile()))
    {
        progress.note(&note);
    }
    for warning in picture.warnings.iter().chain(encoder.warnings()) {
        progress.note(&warning.to_string());
    }
    let mut folder = WorkFolder::open(work, output, &job, &plan.layout(encoder.row_bytes()))?;
    if folder.journal.done() != Done::default() {
        progress.note(&format!("going on with what is done in {}", folder.path().display()));
    }
    let run = Run { engine, picture, output, settings, plan: &plan, source: &source };
    match run.stages(encoder, &mut folder, progress) {
        Ok(()) => folder.remove(),
        // Whoever closes a pipe wants no more of it.
        Err(error) if error.is_broken_pipe() => {
            folder.remove();
            return Err(error);
        }
        Err(Error::Interrupted(_)) => {
            return Err(Error::Interrupted(Some(folder.path().to_owned())));
        }
        Err(error) => return Err(error),
    }
    Ok(Report {
        width: size.width as u32,
        height: size.height as u32,
        regions: plan.grid.len(),
        steps: plan.sampling.steps.len(),
    })
}

/// Frees after a stage what is loaded of the model, unless the plan holds all of it at once, and what the
/// allocator kept of the stage's activations: in their holes those of the next would lie anyhow.
fn end_stage(engine: &Engine, plan: &Plan) {
    if plan.memory.keeps_parts {
        give_back_freed();
    } else {
        engine.free_parts();
    }
}

/// A job that is under way.
struct Run<'a> {
    engine: &'a Engine,
    picture: &'a Picture,
    output: &'a Output,
    settings: &'a Settings,
    plan: &'a Plan,
    source: &'a captions::Source,
}

impl Run<'_> {
    /// Everything that the work folder does not have yet, and then the output.
    fn stages(
        &self,
        encoder: Encoder,
        work: &mut WorkFolder,
        progress: &mut dyn Progress,
    ) -> Result<(), Error> {
        let Self { engine, picture, output, settings, plan, .. } = *self;
        let described = self.described(work, progress)?;
        let record = settings.record(engine, plan, &described.prompt);
        let encoder = encoder.with_settings(record.to_string());
        if progress.interrupted() {
            return Err(Error::Interrupted(None));
        }
        if work.journal.done().steps < plan.sampling.steps.len() {
            let conditions = condition::Conditions::new(
                engine,
                &described.prompt,
                &described.texts,
                settings.rsp,
                plan.sampling.guidance.map(|_| settings.negative_prompt.as_str()),
            )?;
            for note in &conditions.notes {
                progress.note(note);
            }
            end_stage(engine, plan);
            encode::canvas(engine, picture, plan, work, progress)?;
            encode::low_resolution(engine, picture, plan, work)?;
            end_stage(engine, plan);
            let batch = Cell::new(plan.memory.batch);
            let denoise = denoise::Denoise {
                engine,
                plan,
                settings,
                conditions: &conditions,
                batch,
                redone: Cell::new(0),
            };
            denoise.run(work, progress)?;
            end_stage(engine, plan);
        }
        decode::canvas(engine, picture, plan, settings, &encoder, work, progress)?;
        end_stage(engine, plan);
        decode::write(encoder, output, plan, work, progress)
    }

    /// What is said of the regions: what the work folder has of it, or else what the captioner says now.
    fn described(
        &self,
        work: &WorkFolder,
        progress: &mut dyn Progress,
    ) -> Result<captions::Described, Error> {
        let Self { engine, picture, settings, plan, source, .. } = *self;
        let kept = work.captions().filter(|_| source.is_costly());
        if let Some(kept) = kept.and_then(|text| captions::Described::kept(&text, engine, plan)) {
            return Ok(kept);
        }
        let described = source.describe(engine, picture, plan, settings, progress)?;
        free_captioner(engine, plan);
        if source.is_costly() {
            work.keep_captions(&described.document.to_json())?;
        }
        Ok(described)
    }
}

/// Frees the captioner's model, unless the plan holds it beside the other one.
fn free_captioner(engine: &Engine, plan: &Plan) {
    if plan.memory.captions.is_some_and(|batch| !batch.stays) {
        engine.free_captioner();
    }
}

/// Describes a picture whose job comes later, so that the captioner's model is loaded once for several
/// pictures and not in turn with the other one; [`end_describing`] ends that. False where it is not worth
/// it: the model stays loaded, or there is none.
///
/// # Errors
/// See [`Error`].
pub fn describe_ahead(
    engine: &Engine,
    picture: &Picture,
    settings: &Settings,
    progress: &mut dyn Progress,
) -> Result<bool, Error> {
    let plan = Plan::new(engine, (picture.width, picture.height), settings)?;
    if plan.memory.captions.is_none_or(|batch| batch.stays) {
        return Ok(false);
    }
    let source = captions::Source::open(settings, settings.rsp > 0.0)?;
    source.describe(engine, picture, &plan, settings, progress)?;
    Ok(true)
}

/// Frees what [`describe_ahead`] has loaded.
pub fn end_describing(engine: &Engine) {
    engine.free_captioner();
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
    let source = captions::Source::open(settings, true)?;
    Ok(source.describe(engine, picture, &plan, settings, progress)?.document)
}
