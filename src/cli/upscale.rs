//! The verb without a name: enlarge one picture, or every picture in a folder.

use std::{io::IsTerminal as _, process::ExitCode};

use cupscale::{
    canvas::target_size,
    image::{self, Format, Input, Output, Picture},
    pipeline::{self, Engine, Error, Plan, Progress as _, Settings},
};

use super::{CliError, DONE, SKIPPED, args::JobArgs, complain, folder, progress::Reporter};

pub fn run(args: &JobArgs) -> Result<ExitCode, CliError> {
    if args.dry_run {
        return super::plan::run(args).map(|()| ExitCode::from(DONE));
    }
    args.machine.set_threads()?;
    let input = args.files.input()?;
    if let Input::Path(path) = &input
        && path.is_dir()
    {
        return folder::run(args, path);
    }
    let (bytes, source) = read(&input)?;
    let (output, format) = args.output(&input, source)?;
    if output == Output::Stdout && std::io::stdout().is_terminal() {
        return Err(CliError::Usage(
            "standard output is a terminal: name a file with -o, or redirect it".to_owned(),
        ));
    }
    let mut reporter = Reporter::new(args.progress_mode(), args.quiet);
    if let (Output::Path(path), true) = (&output, args.files.skip_existing)
        && path.is_file()
    {
        reporter.finish(&format!("{}: exists, skipped", output.name()));
        return Ok(ExitCode::from(SKIPPED));
    }
    let picture = open(args, &input, &bytes, &output, format)?;
    drop(bytes);
    output.check_writable().map_err(Error::from)?;
    let loaded = super::engine::load(args, |note| reporter.note(note))?;
    let summary = one(&loaded, args, &picture, &output, format, &mut reporter)?;
    reporter.finish(&summary);
    Ok(ExitCode::from(DONE))
}

/// Enlarges one picture with a loaded model, and says what it became.
pub fn one(
    (engine, settings): &(Engine, Settings),
    args: &JobArgs,
    picture: &Picture,
    output: &Output,
    format: Format,
    reporter: &mut Reporter,
) -> Result<String, CliError> {
    let work = args.work.work();
    let report = pipeline::upscale(engine, picture, output, format, settings, &work, reporter)?;
    Ok(format!(
        "{}: {} × {}, {} regions × {} steps",
        output.name(),
        report.width,
        report.height,
        report.regions,
        report.steps
    ))
}

/// Reads a file and tells its format, without decoding it.
pub fn read(input: &Input) -> Result<(Vec<u8>, Format), CliError> {
    let bytes = input.read().map_err(Error::from)?;
    let format = image::format_of(&input.name(), &bytes).map_err(Error::from)?;
    Ok((bytes, format))
}

/// Decodes a picture whose output's format can hold it; a model need not be loaded to know that.
pub fn open(
    args: &JobArgs,
    input: &Input,
    bytes: &[u8],
    output: &Output,
    format: Format,
) -> Result<Picture, CliError> {
    let picture = image::decode_bytes(&input.name(), bytes).map_err(Error::from)?;
    let (width, height) =
        target_size(picture.width, picture.height, args.size()).map_err(Error::from)?;
    format.check_size(&output.name(), width, height).map_err(Error::from)?;
    Ok(picture)
}

/// Plans the job of `args` without running it.
pub fn plan(args: &JobArgs) -> Result<Plan, CliError> {
    args.machine.set_threads()?;
    let input = args.files.one_input("plan")?;
    let (bytes, source) = read(&input)?;
    let (output, format) = args.output(&input, source)?;
    let picture = open(args, &input, &bytes, &output, format)?;
    let size = (picture.width, picture.height);
    let (engine, settings) = super::engine::load(args, |note| {
        if !args.quiet {
            complain(note);
        }
    })?;
    Ok(Plan::new(&engine, size, &settings)?)
}
