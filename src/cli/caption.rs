//! `caption`: the regions' captions as JSON, on standard output or in a file.

use cupscale::{
    image::{Input, Output},
    pipeline::{self, Error},
    units,
};

use super::{error::CliError, job::Job, picture, progress::Reporter};

pub fn run(job: &Job) -> Result<(), CliError> {
    let input = job.only_input("caption")?;
    let output = job.document_output()?;
    if let (Input::Path(from), Output::Path(to)) = (input, &output)
        && let (Ok(from), Ok(to)) = (from.canonicalize(), to.canonicalize())
        && from == to
    {
        return Err(CliError::Usage(format!("{}: is the picture itself", output.name())));
    }
    output.check_writable().map_err(Error::from)?;
    let opened = picture::open(job, input)?;
    let mut reporter = Reporter::new(&job.show);
    reporter.names(input);
    job.notes.iter().for_each(|note| reporter.tell(note));
    let loaded = job.load(|note| reporter.tell(note))?;
    let (engine, settings) = loaded;
    let picture = picture::decode((&engine, &settings), job, opened, &output)?;
    let document = pipeline::describe(&engine, &picture, &settings, &mut reporter)?;
    output.write(document.to_json().as_bytes()).map_err(Error::from)?;
    reporter.finish_job(&format!(
        "{}: {}",
        output.name(),
        units::count(document.regions().len(), "region")
    ));
    Ok(())
}
