//! Steps common to all jobs: one file, one picture of a folder, or a plan.

use std::borrow::Cow;

use cupscale::{
    canvas::target_size,
    image::{self, Format, Input, Output, Picture},
    pipeline::{self, Engine, Error, Settings},
    units,
};

use super::{error::CliError, job::Job, progress::Reporter, size_notes};

/// Reads a file and detects its format, without decoding it.
pub fn read(input: &Input) -> Result<(Cow<'_, [u8]>, Format), CliError> {
    let bytes = input.read().map_err(Error::from)?;
    let format = image::format_of(&input.name(), &bytes).map_err(Error::from)?;
    Ok((bytes, format))
}

/// Decodes a picture whose output's format can hold it; a model need not be loaded to know that.
pub fn open(
    job: &Job,
    input: &Input,
    bytes: &[u8],
    output: &Output,
    format: Format,
) -> Result<Picture, CliError> {
    let picture = image::decode_bytes(&input.name(), bytes).map_err(Error::from)?;
    let (width, height) =
        target_size(picture.width, picture.height, job.size()).map_err(Error::from)?;
    format.check_size(&output.name(), width, height).map_err(Error::from)?;
    Ok(picture)
}

/// Notes on the size of a picture's output.
pub fn size_notes(picture: &Picture, job: &Job) -> Result<Vec<String>, CliError> {
    let size = (picture.width, picture.height);
    let target = target_size(size.0, size.1, job.size()).map_err(Error::from)?;
    Ok(size_notes::notes(size, target, job.size()))
}

/// Enlarges one picture with a loaded model; returns a summary.
pub fn enlarge(
    (engine, settings): &(Engine, Settings),
    job: &Job,
    picture: &Picture,
    (output, format): (&Output, Format),
    reporter: &mut Reporter,
) -> Result<String, CliError> {
    for note in size_notes(picture, job)? {
        reporter.tell(&note);
    }
    let report = pipeline::upscale(engine, picture, output, format, settings, &job.work, reporter)?;
    Ok(format!(
        "{}: {} × {}, {} × {}",
        output.name(),
        report.width,
        report.height,
        units::count(report.regions, "region"),
        units::count(report.steps, "step")
    ))
}
