//! The verb without a name: enlarge one picture.

use std::io::IsTerminal as _;

use cupscale::{
    image::{Format, Input, Output, Picture},
    pipeline::{self, Error, Plan, Progress as _},
};

use super::{CliError, args::JobArgs, complain, progress::Reporter};

pub fn run(args: &JobArgs) -> Result<(), CliError> {
    if args.dry_run {
        return super::plan::run(args);
    }
    args.set_threads()?;
    let input = args.input()?;
    let (picture, source) = read(&input)?;
    let (output, format) = args.output(&input, source)?;
    if output == Output::Stdout && std::io::stdout().is_terminal() {
        return Err(CliError::Usage(
            "standard output is a terminal: name a file with -o, or redirect it".to_owned(),
        ));
    }
    output.check_writable().map_err(Error::from)?;
    let mut reporter = Reporter::new(args.progress_mode(), args.quiet);
    let engine = super::engine::load(args, |note| reporter.note(note))?;
    let settings = args.settings();
    let report = pipeline::upscale(&engine, &picture, &output, format, &settings, &mut reporter)?;
    reporter.finish(&format!(
        "{}: {} × {}, {} regions × {} steps",
        output.name(),
        report.width,
        report.height,
        report.regions,
        report.steps
    ));
    Ok(())
}

/// Reads a picture and tells its format.
pub fn read(input: &Input) -> Result<(Picture, Format), CliError> {
    let bytes = input.read().map_err(Error::from)?;
    let picture = cupscale::image::decode_bytes(&input.name(), &bytes).map_err(Error::from)?;
    let format = Format::sniff(&bytes).expect("what was decoded has a known format");
    Ok((picture, format))
}

/// Plans the job of `args` without running it.
pub fn plan(args: &JobArgs) -> Result<Plan, CliError> {
    args.set_threads()?;
    let (picture, _) = read(&args.input()?)?;
    let size = (picture.width, picture.height);
    let engine = super::engine::load(args, |note| {
        if !args.quiet {
            complain(note);
        }
    })?;
    Ok(Plan::new(&engine, size, &args.settings())?)
}
