//! The verb without a name: enlarge one picture, or every picture in a folder.

use std::io::IsTerminal as _;

use cupscale::{
    image::{Input, Output},
    pipeline::Error,
};

use super::{
    error::{CliError, DONE, SKIPPED},
    folder,
    job::Job,
    picture,
    progress::Reporter,
};

pub fn run(job: &Job) -> Result<u8, CliError> {
    if let Input::Path(path) = &job.input
        && path.is_dir()
    {
        return folder::run(job, path);
    }
    let opened = picture::open(job, &job.input)?;
    let (output, format) = job.output(opened.format())?;
    if output == Output::Stdout && std::io::stdout().is_terminal() {
        return Err(CliError::Usage(
            "standard output is a terminal: name a file with -o, or redirect it".to_owned(),
        ));
    }
    let mut reporter = Reporter::new(job.show);
    if let (Output::Path(path), true) = (&output, job.skip_existing)
        && path.is_file()
    {
        reporter.finish_job(&format!("{}: exists, skipped", output.name()));
        return Ok(SKIPPED);
    }
    picture::check_output(job, &opened, &output, format)?;
    output.check_writable().map_err(Error::from)?;
    let loaded = job.load(|note| reporter.tell(note))?;
    let picture = picture::decode(&loaded, job, opened, &output)?;
    let summary = picture::enlarge(&loaded, job, &picture, (&output, format), &mut reporter)?;
    reporter.finish_job(&summary);
    Ok(DONE)
}
