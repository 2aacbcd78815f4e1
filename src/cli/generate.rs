//! `generate`: a picture from words, and its enlargement, in one job.

use std::{fs, io::IsTerminal as _, path::PathBuf};

use cupscale::{
    image::{Input, Output},
    pipeline::{self, Error, Generated, Generation},
    units,
};

use super::{
    args::GenerateArgs,
    error::{CliError, DONE, SKIPPED},
    job::Job,
    plan,
    print::complain,
    progress::Reporter,
    report,
    speeds::SpeedKey,
    waiting::{self, LOCKED},
};

/// Name of the base picture in a report.
const BASE: &str = "The base picture";

pub fn run(mut args: GenerateArgs) -> Result<u8, CliError> {
    args.settle_prompt()?;
    let generation = args.generation()?;
    let only_plans = args.job.dry_run;
    args.job.work.grant_grace();
    let note = args.job.machine.set_threads()?;
    let notes = note.iter().chain(&args.job.reuse.notes).cloned().collect();
    let job = Job::without_input(args.job, notes)?;
    let (output, format) = job.output_alone("generate")?;
    if only_plans {
        return dry_run(&job, &generation, &output).map(|()| DONE);
    }
    if output == Output::Stdout && std::io::stdout().is_terminal() {
        return Err(CliError::Usage(
            "standard output is a terminal: name a file with -o, or redirect it".to_owned(),
        ));
    }
    let base = Input::Path(match &generation.keep {
        Some((Output::Path(path), _)) => path.clone(),
        _ => PathBuf::new(),
    });
    if let (Input::Path(path), Output::Path(output)) = (&base, &output)
        && path == output
    {
        let reason = format!("--keep-base {}: is the output itself", path.display());
        return Err(CliError::Usage(reason));
    }
    let page = job.report(&base, &output)?;
    if page.is_some() && !generation.enlarged {
        let reason =
            "--report shows a picture before and after: it needs --size, --scale or --long-edge";
        return Err(CliError::Usage(reason.to_owned()));
    }
    let mut reporter = Reporter::new(&job.show);
    // There is no input that events could name.
    if let Output::Path(path) = &output {
        reporter.names(&Input::Path(path.clone()));
    }
    job.notes.iter().for_each(|note| reporter.tell(note));
    let made = job.make_output_folder(&output)?;
    let make = || -> Result<Option<String>, CliError> {
        output.check_writable().map_err(Error::from)?;
        let (engine, settings) = job.load(|note| reporter.tell(note))?;
        let settings = job.masked(&settings, &Input::Path(PathBuf::new()))?;
        reporter.loaded(SpeedKey::new(&engine, &settings));
        let to = (&output, format);
        let done = waiting::until_free(&job, &mut reporter, |reporter| {
            Ok(pipeline::generate(&engine, &generation, to, &settings, &job.work, reporter)?)
        })?;
        let Some(done) = done else { return Ok(None) };
        let (timeline, notes) = reporter.ended();
        let Generated { report: done, base, .. } = done;
        let mut summary = format!(
            "{}: {} × {}, {} × {}",
            output.name(),
            done.width,
            done.height,
            units::count(done.regions, "region"),
            units::count(done.steps, "step")
        );
        if let (Some(page), Some(picture)) = (page, &base) {
            let (output, done) = (&output, &done);
            let computes_on = &*engine.computes_on();
            let about = report::Job {
                input: BASE,
                picture,
                output,
                named: output,
                done,
                timeline,
                notes,
                computes_on,
            };
            let bytes = report::write(&page, &about)?;
            summary += &format!("; {} ({})", page.name(), units::bytes(bytes));
        }
        Ok(Some(summary))
    };
    let result = make();
    if result.is_err() {
        // They stay where unfinished work is in them.
        made.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
    let Some(summary) = result? else {
        reporter.finish_job(&format!("{}: {LOCKED}, skipped", output.name()));
        return Ok(SKIPPED);
    };
    reporter.finish_job(&summary);
    Ok(DONE)
}

/// Prints what would run.
fn dry_run(job: &Job, generation: &Generation, output: &Output) -> Result<(), CliError> {
    let note = |note: &str| {
        if !job.show.quiet {
            complain(note);
        }
    };
    job.notes.iter().for_each(|text| note(text));
    output.check_writable().map_err(Error::from)?;
    let (engine, settings) = job.load(note)?;
    let settings = job.masked(&settings, &Input::Path(PathBuf::new()))?;
    let plans = pipeline::plan_generation(&engine, generation, &settings)?;
    plan::print_plan(&engine, &settings, &plans.base)?;
    match &plans.enlarged {
        None => Ok(()),
        Some(enlarged) => {
            super::print::print("\n")?;
            plan::print_plan(&engine, &settings, enlarged)
        }
    }
}
