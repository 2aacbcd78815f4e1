//! The verb without a name: enlarge one picture, or many.

use std::{fs, io::IsTerminal as _};

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
    let input = match job.inputs.as_slice() {
        [Input::Path(path)] if path.is_dir() => return folder::run(job),
        [input] => input,
        _ => return folder::run(job),
    };
    let opened = picture::open(job, input)?;
    if picture::several(job, &opened).is_some() {
        return folder::run(job);
    }
    let (output, format) = job.output(input, opened.format())?;
    if output == Output::Stdout && std::io::stdout().is_terminal() {
        return Err(CliError::Usage(
            "standard output is a terminal: name a file with -o, or redirect it".to_owned(),
        ));
    }
    let mut reporter = Reporter::new(&job.show);
    reporter.names(input);
    job.notes.iter().for_each(|note| reporter.tell(note));
    if let (Output::Path(path), true) = (&output, job.skip_existing)
        && path.is_file()
    {
        reporter.finish_job(&format!("{}: exists, skipped", output.name()));
        return Ok(SKIPPED);
    }
    picture::check_output(job, &opened, &output, format)?;
    let made = job.make_output_folder(&output)?;
    let enlarge = || -> Result<String, CliError> {
        job.report(input, &output)?;
        output.check_writable().map_err(Error::from)?;
        let (engine, settings) = job.load(|note| reporter.tell(note))?;
        let loaded = (&engine, &job.masked(&settings, input)?);
        let picture = picture::decode(loaded, job, opened, &output)?;
        picture::enlarge(loaded, job, &picture, (input, &output, format), &mut reporter)
    };
    let result = enlarge();
    if result.is_err() {
        // They stay where unfinished work is in them.
        made.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
    reporter.finish_job(&result?);
    Ok(DONE)
}
