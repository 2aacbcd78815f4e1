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
    waiting::{self, LOCKED},
};

pub fn run(job: &Job) -> Result<u8, CliError> {
    let input = match job.inputs.as_slice() {
        // A pattern of many may match one.
        _ if job.share.is_some() => return folder::run(job),
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
    let exists = || job.is_done(&output);
    let skipped = |reporter: &Reporter, why: &str| {
        reporter.finish_job(&format!("{}: {why}, skipped", output.name()));
        Ok(SKIPPED)
    };
    if exists() {
        return skipped(&reporter, "exists");
    }
    picture::check_output(job, &opened, &output, format)?;
    let made = job.make_output_folder(&output)?;
    let enlarge = || -> Result<Result<String, &str>, CliError> {
        job.report(input, &output)?;
        output.check_writable().map_err(Error::from)?;
        let (engine, settings) = job.load(|note| reporter.tell(note))?;
        let loaded = (&engine, &job.masked(&settings, input)?);
        let picture = picture::decode(loaded, job, opened, &output)?;
        let files = picture::Places { input, output: &output, named: &output, format };
        let done = waiting::until_free(job, &mut reporter, |reporter| {
            // Whoever worked on it may have made it.
            if exists() {
                return Ok(Err("exists"));
            }
            picture::enlarge(loaded, job, &picture, files, reporter).map(Ok)
        })?;
        Ok(done.unwrap_or(Err(LOCKED)))
    };
    let result = enlarge();
    if result.is_err() {
        // They stay where unfinished work is in them.
        made.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
    match result? {
        Ok(summary) => reporter.finish_job(&summary),
        Err(why) => return skipped(&reporter, why),
    }
    Ok(DONE)
}
