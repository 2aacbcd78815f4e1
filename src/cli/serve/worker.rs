//! The thread that has the models: it runs the jobs in turn. Whatever happens to one, the next one runs.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use cupscale::{
    image::{self, Format, Input, Output, Picture},
    pipeline::{self, Engine, Error, Resume, Settings, WorkOptions},
};

use super::{
    accept,
    cell::{Cell, Stop},
    error::{Kind, Refusal},
    host::kind_of,
    jobs::Jobs,
    progress::Report,
    store::{INPUT, Saved},
    view::{Kind as JobKind, State},
};
use crate::cli::{advice, ending::words, error::CliError, job::Job, request};

/// Runs jobs until the server is about to end.
pub fn run(jobs: &Jobs) {
    while let Some(cell) = jobs.next() {
        let saved = cell.saved();
        let result = catch_unwind(AssertUnwindSafe(|| perform(jobs, &cell, &saved)));
        let folder = jobs.store.folder(&saved.id);
        let failed = |kind, text: &str| {
            let text = jobs.host.words.of_job(text, &folder, &saved.job.name);
            (State::Failed, Some(Refusal::new(kind, text)))
        };
        let (state, error) = match (result, cell.stop()) {
            // Who was told that it ends finds it so, also if it was done meanwhile.
            (_, Some(Stop::Cancelled)) => (State::Cancelled, None),
            (Ok(Ok(())), _) => (State::Done, None),
            (Ok(Err(CliError::Job(Error::Interrupted(_)))), Some(Stop::TimedOut)) => {
                let message = "the job took longer than it may, and was ended";
                (State::Failed, Some(Refusal::new(Kind::Timeout, message)))
            }
            (Ok(Err(CliError::Job(Error::Interrupted(_)))), None) => {
                jobs.put_back(&cell);
                continue;
            }
            (Ok(Err(error)), _) => failed(kind_of(&error), &advice::line(&error)),
            (Err(panic), _) => {
                failed(Kind::Fault, &format!("a fault in the program: {}", words(&*panic)))
            }
        };
        let path = jobs.store.file(&saved.id, &saved.result_file());
        let bytes = (state == State::Done).then(|| path.metadata().map_or(0, |found| found.len()));
        jobs.end(&cell, |saved| {
            (saved.state, saved.error, saved.bytes) = (state, error, bytes);
        });
    }
}

/// Runs one job.
fn perform(jobs: &Jobs, cell: &Cell, saved: &Saved) -> Result<(), CliError> {
    let begun = Instant::now();
    let folder = jobs.store.folder(&saved.id);
    let note = |text: &str| cell.note(jobs.host.words.of_job(text, &folder, &saved.job.name));
    let model = jobs.host.load(&saved.job.model, note)?;
    let parts = accept::parts(|name| folder.join(name), saved.job.has_mask, saved.job.has_given);
    let (job, mut settings) = request::resolve(&model.loaded(), &saved.job.settings, parts)?;
    settings.jpeg_quality = request::quality(&saved.job.output)?.unwrap_or(settings.jpeg_quality);
    if cell.stop().is_some() || jobs.is_stopping() {
        return Err(Error::Interrupted(None).into());
    }
    let engine = &model.engine;
    let asked =
        saved.job.most_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let most = [asked, jobs.limits.time].into_iter().flatten().min();
    let deadline = most.and_then(|most| begun.checked_add(most));
    let of_job = (&*folder, &*saved.job.name);
    let mut report = Report::new((jobs, cell), of_job, (engine, &settings), deadline);
    let picture = read((engine, &settings), &job, &folder)?;
    let output = Output::Path(folder.join(saved.result_file()));
    match saved.job.kind {
        JobKind::Upscale => {
            let format: Format = saved.job.format.parse().map_err(|_| {
                CliError::Server(format!("{}: no format of a result", saved.job.format))
            })?;
            let resume = if saved.job.is_kept { Resume::Auto } else { Resume::Disabled };
            // What is not kept has files without names, which need the folder to be there.
            let work = jobs.store.work(&saved.id);
            let folder = if saved.job.is_kept { work } else { folder.clone() };
            let work = WorkOptions { folder: Some(folder), resume };
            pipeline::upscale(engine, &picture, &output, format, &settings, &work, &mut report)?;
        }
        JobKind::Captions => {
            let document = pipeline::describe(engine, &picture, &settings, &mut report)?;
            let text = document.to_json();
            output.write(text.as_bytes()).map_err(Error::from)?;
            cupscale::pipeline::Progress::described(&mut report, &document);
        }
    }
    report.ended();
    Ok(())
}

/// Reads the picture of a job, if the job fits into the memory; planes of a large one are files in the job's folder.
fn read(
    (engine, settings): (&Engine, &Settings),
    job: &Job,
    folder: &Path,
) -> Result<Picture, CliError> {
    let input = Input::Path(folder.join(INPUT));
    let mut opened = image::open(&input, &job.read).map_err(Error::from)?;
    pipeline::plan(engine, opened.shape(), settings)?;
    opened.keep_planes_in(folder);
    Ok(opened.decode().map_err(Error::from)?)
}
