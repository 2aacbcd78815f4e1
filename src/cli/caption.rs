//! `caption`: the regions' captions as JSON, on standard output or in a file.

use cupscale::{
    image::Output,
    pipeline::{self, Error},
};

use super::{CliError, args::JobArgs, print, progress::Reporter, upscale};

pub fn run(args: &JobArgs) -> Result<(), CliError> {
    args.set_threads()?;
    let (picture, _) = upscale::read(&args.input()?)?;
    let mut reporter = Reporter::new(args.progress_mode(), args.quiet);
    let engine = upscale::engine(args)?;
    let document = pipeline::describe(&engine, &picture, &args.settings(), &mut reporter)?;
    match args.document_output() {
        Some(Output::Path(path)) => {
            document.write(&path).map_err(Error::from)?;
            reporter.finish(&format!("{}: {} regions", path.display(), document.regions().len()));
            Ok(())
        }
        Some(Output::Stdout) | None => print(&document.to_json()),
    }
}
