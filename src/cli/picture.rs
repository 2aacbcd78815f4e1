//! Steps common to all jobs: one file, one picture of a folder, or a plan.

use std::{num::NonZeroUsize, path::Path};

use cupscale::{
    canvas::target_size,
    image::{self, Format, Input, InputKind, Opened, Output, Picture},
    pipeline::{self, Engine, Error, Settings},
    units,
};

use super::{error::CliError, job::Job, progress::Reporter, report, size_notes, speeds::SpeedKey};

/// Opens a picture and reads its header.
pub fn open(job: &Job, input: &Input) -> Result<Opened, CliError> {
    Ok(image::open(input, &job.read).map_err(Error::from)?)
}

/// Number of the pictures of this file if each of them is asked for and there are several.
pub fn several(job: &Job, picture: &Opened) -> Option<NonZeroUsize> {
    let is_wanted = match picture.kind() {
        InputKind::Written(Format::Tiff) => job.every.page,
        _ => job.every.frame,
    };
    NonZeroUsize::new(picture.pictures()).filter(|pictures| is_wanted && pictures.get() > 1)
}

/// Checks that the output's format can hold the enlarged picture; a model need not be loaded to know that.
pub fn check_output(
    job: &Job,
    picture: &Opened,
    output: &Output,
    format: Format,
) -> Result<(), CliError> {
    let shape = picture.shape();
    let (width, height) =
        target_size(shape.width, shape.height, job.size()).map_err(Error::from)?;
    Ok(format.check_size(&output.name(), width, height).map_err(Error::from)?)
}

/// Reads the pixels of a picture, if the plan of its job fits into memory. Those of a large one go where the job's work
/// is: into the work folder's place, or beside the output.
pub fn decode(
    (engine, settings): (&Engine, &Settings),
    job: &Job,
    mut opened: Opened,
    output: &Output,
) -> Result<Picture, CliError> {
    pipeline::plan(engine, opened.shape(), settings)?;
    let beside = match output {
        Output::Path(path) => path.parent().map(|folder| match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        }),
        _ => None,
    };
    let folder = job.work.folder.as_deref().or(beside).filter(|folder| folder.is_dir());
    if let Some(folder) = folder {
        opened.keep_planes_in(folder);
    }
    Ok(opened.decode().map_err(Error::from)?)
}

/// Notes on the size of the output of a picture of this width and height.
pub fn size_notes(size: (u32, u32), job: &Job) -> Result<Vec<String>, CliError> {
    let target = target_size(size.0, size.1, job.size()).map_err(Error::from)?;
    Ok(size_notes::notes(size, target, job.size()))
}

/// Where a picture comes from and goes to.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    pub input: &'a Input,
    pub output: &'a Output,
    /// Where a user finds the output: there, or where it is moved to when it is complete.
    pub named: &'a Output,
    pub format: Format,
}

/// Enlarges one picture with a loaded model; returns a summary.
pub fn enlarge(
    (engine, settings): (&Engine, &Settings),
    job: &Job,
    picture: &Picture,
    Places { input, output, named, format }: Places<'_>,
    reporter: &mut Reporter,
) -> Result<String, CliError> {
    let page = job.report(input, named)?;
    for note in size_notes((picture.width, picture.height), job)? {
        reporter.tell(&note);
    }
    reporter.loaded(SpeedKey::new(engine, settings));
    let done = pipeline::upscale(engine, picture, output, format, settings, &job.work, reporter)?;
    let (timeline, notes) = reporter.ended();
    let mut summary = format!(
        "{}: {} × {}, {} × {}",
        named.name(),
        done.width,
        done.height,
        units::count(done.regions, "region"),
        units::count(done.steps, "step")
    );
    if let Some(page) = page {
        let (input, done) = (&*input.name(), &done);
        let computes_on = &*engine.computes_on();
        let about =
            report::Job { input, picture, output, named, done, timeline, notes, computes_on };
        let bytes = report::write(&page, &about)?;
        summary += &format!("; {} ({})", page.name(), units::bytes(bytes));
    }
    Ok(summary)
}
