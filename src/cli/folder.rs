//! Jobs on many pictures, of a folder, named one by one, or pages and frames of a file: the same settings for every picture, with one loaded model.
//! A failed picture is reported and does not stop the others.

mod items;
mod walk;

use std::{fmt, fs};

use cupscale::{
    image::{ImageError, Input, Output},
    pipeline::{self, Engine, Error, Settings},
};

use super::{
    advice,
    error::{CliError, DONE, FAILED, INTERRUPTED, SKIPPED},
    job::Job,
    picture,
    print::complain,
    progress::{FileState, Reporter},
};
pub use items::{Item, Items};

/// Pictures that are captioned ahead as a batch if captioner and diffusion model do not fit in memory together:
/// each is then loaded once per batch.
const AHEAD: usize = 16;

/// Counts of the outcomes so far.
#[derive(Default)]
struct Tally {
    done: usize,
    skipped: usize,
    /// One line for each failure.
    failures: Vec<String>,
    left: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, skipped, failures, left } = self;
        write!(f, "{done} done, {skipped} skipped, {} failed", failures.len())?;
        if *left > 0 { write!(f, ", {left} left") } else { Ok(()) }
    }
}

/// A model, and the settings of the jobs that it is to do.
pub type Loaded = (Engine, Settings);

enum End {
    Finished,
    Interrupted,
}

/// Enlarges every picture of the job's inputs.
pub fn run(job: &Job) -> Result<u8, CliError> {
    let go_on = |_: &[Item]| "the same command with --skip-existing goes on".to_owned();
    all(job, Items::find(job)?, go_on, |item, loaded, reporter| one(job, item, loaded, reporter))
}

/// Does these pictures one by one: `one` does a picture and returns its summary, or `None` where there is nothing to do;
/// `go_on` says how an interrupted run goes on with those that are left.
pub fn all(
    job: &Job,
    items: Items,
    go_on: impl Fn(&[Item]) -> String,
    one: impl Fn(&Item, &mut Option<Loaded>, &mut Reporter) -> Result<Option<String>, CliError>,
) -> Result<u8, CliError> {
    let Items { pictures: items, notes, unreadable, .. } = items;
    let mut reporter = Reporter::new(&job.show);
    let idle = job.idle_quality(items.iter().map(|item| item.format));
    job.notes.iter().chain(&notes).chain(&idle).for_each(|note| reporter.tell(note));
    let mut tally = Tally { failures: unreadable, left: items.len(), done: 0, skipped: 0 };
    let end = every(job, &items, &mut tally, &mut reporter, one);
    match &end {
        Ok(End::Finished) => reporter.finish_job(&tally.to_string()),
        Ok(End::Interrupted) => {
            reporter.clear();
            let left = go_on(&items[items.len() - tally.left..]);
            complain(&format!("interrupted: {tally}; {left}"));
        }
        Err(_) => reporter.clear(),
    }
    tally.failures.iter().for_each(|failure| complain(failure));
    Ok(match end? {
        End::Interrupted => INTERRUPTED,
        End::Finished if !tally.failures.is_empty() => FAILED,
        End::Finished if tally.done == 0 => SKIPPED,
        End::Finished => DONE,
    })
}

/// Processes the pictures until the end, Ctrl-C, or an error that would affect all of them.
fn every(
    job: &Job,
    items: &[Item],
    tally: &mut Tally,
    reporter: &mut Reporter,
    one: impl Fn(&Item, &mut Option<Loaded>, &mut Reporter) -> Result<Option<String>, CliError>,
) -> Result<End, CliError> {
    let mut loaded = None;
    for (index, item) in items.iter().enumerate() {
        if index.is_multiple_of(AHEAD) && job.describes_with_a_model() {
            let ahead = &items[index..items.len().min(index + AHEAD)];
            match describe_ahead(job, (index, items.len()), ahead, &mut loaded, reporter) {
                Err(CliError::Job(Error::Interrupted(_))) => return Ok(End::Interrupted),
                Err(error) if is_every_pictures(&error) => return Err(error),
                // It is reported with that picture.
                _ => {}
            }
        }
        if reporter.is_interrupted() {
            return Ok(End::Interrupted);
        }
        let name = item.name();
        let output = item.output.display().to_string();
        reporter.begin_file(FileState::Begun, (index + 1, items.len()), &name, &output);
        let result = one(item, &mut loaded, reporter);
        match result {
            Ok(Some(summary)) => {
                tally.done += 1;
                reporter.end_file(FileState::Done, &summary);
            }
            Ok(None) => {
                tally.skipped += 1;
                reporter.end_file(FileState::Skipped, "the output exists");
            }
            Err(CliError::Job(Error::Interrupted(_))) => return Ok(End::Interrupted),
            Err(error) if is_every_pictures(&error) => return Err(error),
            Err(error) => {
                let error = advice::line(&error);
                reporter.end_file(FileState::Failed, &error);
                let names_it = error.starts_with(&name);
                tally.failures.push(if names_it { error } else { format!("{name}: {error}") });
            }
        }
        tally.left -= 1;
    }
    Ok(End::Finished)
}

/// Captions these pictures; the first is number `first` (from 0) of `count`.
fn describe_ahead(
    job: &Job,
    (first, count): (usize, usize),
    items: &[Item],
    loaded: &mut Option<Loaded>,
    reporter: &mut Reporter,
) -> Result<(), CliError> {
    for (index, item) in items.iter().enumerate() {
        if reporter.is_interrupted() {
            return Err(Error::Interrupted(None).into());
        }
        let output = Output::Path(item.output.clone());
        if job.skip_existing && item.output.is_file() {
            continue;
        }
        // Errors of a picture are reported when its turn comes.
        let Ok(opened) = item.open(job) else { continue };
        if picture::check_output(job, &opened, &output, item.format).is_err() {
            continue;
        }
        let (engine, settings) = load(job, loaded, reporter)?;
        let Ok(settings) = job.masked(settings, &Input::Path(item.input.clone())) else { continue };
        let decoded = picture::decode((engine, &settings), job, opened, &output);
        let Ok(picture) = decoded else { continue };
        let place = (first + index + 1, count);
        reporter.begin_file(FileState::Captions, place, &item.name(), &output.name());
        match pipeline::describe_ahead(engine, &picture, &settings, reporter) {
            Ok(true) => {}
            // The captioner stays loaded beside the model: captioning ahead gains nothing.
            Ok(false) => break,
            Err(error @ Error::Interrupted(_)) => return Err(error.into()),
            Err(_) => {}
        }
    }
    if let Some((_, settings)) = loaded {
        settings.captioner.free();
    }
    Ok(())
}

/// The model, loaded on first use.
pub fn load<'a>(
    job: &Job,
    loaded: &'a mut Option<Loaded>,
    reporter: &mut Reporter,
) -> Result<&'a Loaded, CliError> {
    match loaded {
        Some(loaded) => Ok(loaded),
        none => Ok(none.insert(job.load(|note| reporter.tell(note))?)),
    }
}

/// Enlarges one picture and returns its summary; `None` if the output exists. The model is loaded for the first
/// picture that needs it.
fn one(
    job: &Job,
    item: &Item,
    loaded: &mut Option<Loaded>,
    reporter: &mut Reporter,
) -> Result<Option<String>, CliError> {
    if job.skip_existing && item.output.is_file() {
        return Ok(None);
    }
    let (input, output) = (Input::Path(item.input.clone()), Output::Path(item.output.clone()));
    let opened = item.open(job)?;
    picture::check_output(job, &opened, &output, item.format)?;
    let (engine, settings) = load(job, loaded, reporter)?;
    let settings = &job.masked(settings, &input)?;
    if let Some(parent) = item.output.parent() {
        fs::create_dir_all(parent).map_err(|error| {
            let reason = format!("the folder {}: {error}", parent.display());
            Error::from(ImageError::Unwritable { name: output.name(), reason })
        })?;
    }
    output.check_writable().map_err(Error::from)?;
    let picture = picture::decode((engine, settings), job, opened, &output)?;
    let files = (&input, &output, item.format);
    picture::enlarge((engine, settings), job, &picture, files, reporter).map(Some)
}

/// `true` if an error does not depend on the picture: options, model and device are the same for all.
fn is_every_pictures(error: &CliError) -> bool {
    match error {
        CliError::Job(error) => matches!(
            error,
            Error::Sampler(_) | Error::Device(_) | Error::Weights(_) | Error::Model { .. }
        ),
        CliError::NotEdited { .. } | CliError::NoMask { .. } => false,
        _ => true,
    }
}
