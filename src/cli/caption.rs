//! `caption`: the regions' captions as JSON, on standard output or in a file.

use cupscale::{
    image::{self, Input, Output},
    pipeline::{self, Error, Progress as _},
};

use super::{CliError, args::JobArgs, engine, progress::Reporter};

pub fn run(args: &JobArgs) -> Result<(), CliError> {
    args.machine.set_threads()?;
    let input = args.files.one_input("caption")?;
    let output = args.files.document_output()?;
    if let (Input::Path(from), Output::Path(to)) = (&input, &output)
        && let (Ok(from), Ok(to)) = (from.canonicalize(), to.canonicalize())
        && from == to
    {
        return Err(CliError::Usage(format!("{}: is the picture itself", output.name())));
    }
    output.check_writable().map_err(Error::from)?;
    let picture = image::decode(&input).map_err(Error::from)?;
    let mut reporter = Reporter::new(args.progress_mode(), args.quiet);
    let (engine, settings) = engine::load(args, |note| reporter.note(note))?;
    let document = pipeline::describe(&engine, &picture, &settings, &mut reporter)?;
    output.write(document.to_json().as_bytes()).map_err(Error::from)?;
    reporter.finish(&format!("{}: {} regions", output.name(), document.regions().len()));
    Ok(())
}
