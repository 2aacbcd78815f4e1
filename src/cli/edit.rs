//! `edit`: enlarges files in place. The new picture is written beside the original, gets its attributes and takes its name
//! in one step; until then, and if anything fails, the original is what it was.

mod original;

use cupscale::{
    image::{Input, InputKind, Opened, Output, Warning},
    pipeline::Error,
    units,
};

use super::{
    error::{CliError, DONE, SKIPPED},
    folder::{self, Item, Items, Loaded, Outcome},
    job::Job,
    picture,
    progress::Reporter,
    waiting::{self, LOCKED},
};
use original::{Backup, Original};

/// What becomes of the originals.
pub struct Keep {
    /// Suffix of the name under which each is kept.
    pub backup: Option<String>,
    /// The new file gets the original's times.
    pub times: bool,
}

pub fn run(job: &Job, keep: &Keep) -> Result<u8, CliError> {
    if let Some(suffix) = keep.backup.as_deref()
        && (suffix.is_empty() || suffix.contains(std::path::is_separator))
    {
        return Err(CliError::Usage(format!("--backup={suffix}: is no suffix of a name")));
    }
    let files = job.inputs.iter().map(|input| match input {
        Input::Path(path) if path.is_dir() => {
            Err(CliError::Usage(format!("{}: is a folder; `edit` takes files", path.display())))
        }
        Input::Path(path) => Ok(path.as_path()),
        other => Err(CliError::Usage(format!("{}: `edit` takes files", other.name()))),
    });
    let files = files.collect::<Result<Vec<_>, _>>()?;
    if let [file] = files.as_slice() {
        let mut reporter = Reporter::new(&job.show);
        job.inputs.iter().for_each(|input| reporter.names(input));
        job.notes.iter().for_each(|note| reporter.tell(note));
        let item = Item::edited(file);
        let idle = job.idle_quality([item.format]);
        idle.iter().for_each(|note| reporter.tell(note));
        let mut loaded = None;
        // It is read again after a wait: whoever worked on it has edited it.
        let done = waiting::until_free(job, &mut reporter, |reporter| {
            one(job, keep, &item, &mut loaded, reporter)
        })?;
        let Some(summary) = done else {
            reporter.finish_job(&format!("{}: {LOCKED}, skipped", item.name()));
            return Ok(SKIPPED);
        };
        reporter.finish_job(&summary);
        return Ok(DONE);
    }
    job.refuse_for_many()?;
    folder::all(job, Items::edited(&files), None, left, |item, loaded, reporter| {
        one(job, keep, item, loaded, reporter).map(Outcome::Done)
    })
}

/// How an interrupted run goes on: what is edited must not be named again.
fn left(items: &[&Item]) -> String {
    let names: Vec<_> = items.iter().map(|item| item.input.display().to_string()).collect();
    format!("go on with those that are left: {}", names.join(" "))
}

/// Edits one file and returns a summary.
fn one(
    job: &Job,
    keep: &Keep,
    item: &Item,
    loaded: &mut Option<Loaded>,
    reporter: &mut Reporter,
) -> Result<String, CliError> {
    let original = Original::find(&item.input)?;
    let input = Input::Path(original.path.clone());
    let opened = picture::open(job, &input)?;
    let format = opened.format();
    check(&original, &opened, keep)?;
    let named = Output::Path(item.input.clone());
    job.report(&input, &named)?;
    let target = Output::Path(original.path.clone());
    picture::check_output(job, &opened, &target, format)?;
    target.check_writable().map_err(Error::from)?;
    let backup = keep.backup.as_deref().map(|suffix| original.backup(suffix)).transpose()?;
    // The backup is a name of its own.
    let others = original
        .names()
        .saturating_sub(1 + u64::from(backup.as_ref().is_some_and(Backup::is_link)));
    if others > 0 {
        reporter.tell(&format!(
            "{}: has {} more (hard links), which keep the original",
            original.name,
            units::count(others as usize, "name")
        ));
    }
    let output = Output::Path(original.edited());
    let enlarge = || {
        let (engine, settings) = folder::load(job, loaded, reporter)?;
        let settings = &job.masked(settings, &input)?;
        let picture = picture::decode((engine, settings), job, opened, &output)?;
        let files = picture::Places { input: &input, output: &output, named: &named, format };
        picture::enlarge((engine, settings), job, &picture, files, reporter)
    };
    let result = enlarge().and_then(|summary| original.replace(keep.times).map(|()| summary));
    if result.is_err()
        && let Some(backup) = backup
    {
        backup.undo();
    }
    result
}

/// Refuses what cannot be written back as it was.
fn check(original: &Original, opened: &Opened, keep: &Keep) -> Result<(), CliError> {
    let refuse = |reason: String| Err(CliError::NotEdited { name: original.name.clone(), reason });
    if !matches!(opened.kind(), InputKind::Written(_)) {
        return refuse(format!(
            "{} is not written; enlarge it into another file, as {}",
            opened.kind(),
            opened.format()
        ));
    }
    let lost = opened.warnings().iter().find(|warning| {
        matches!(warning, Warning::FirstFrameOnly(_) | Warning::CompanionDropped(_))
    });
    match lost {
        Some(lost) if keep.backup.is_none() => {
            refuse(format!("{lost}, and so would be lost; --backup keeps the original"))
        }
        _ => Ok(()),
    }
}
