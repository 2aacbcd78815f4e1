//! The command line: arguments are resolved to one job, the pipeline does the work, and progress goes to stderr.
//! Nothing here computes.

mod advice;
mod args;
mod caption;
mod captioner;
mod doctor;
mod edit;
mod ending;
mod engine;
mod error;
mod folder;
mod generate;
mod info;
mod integrate;
mod job;
mod log;
mod mask;
mod models;
mod picture;
mod pipe;
mod plan;
mod print;
mod progress;
mod prompts;
mod quantize;
mod raw;
mod report;
mod request;
#[cfg(feature = "serve")]
mod serve;
mod shares;
mod size_notes;
mod speeds;
mod status;
mod threads;
mod upscale;
mod usage;
mod values;
mod waiting;
#[cfg(feature = "mistralrs")]
mod worker;

use std::{panic, process::ExitCode};

use args::{Cli, JobArgs, Verb};
use error::{CliError, DONE, FAILED, USAGE};
use job::Job;
use print::complain;

/// Runs the command line; the result is the process's exit code.
pub fn run() -> ExitCode {
    ending::install();
    threads::bound_environment();
    // The panic has been told.
    panic::catch_unwind(run_line).unwrap_or(ExitCode::from(FAILED))
}

fn run_line() -> ExitCode {
    let cli = match Cli::from_command_line(std::env::args_os()) {
        Ok(cli) => cli,
        // Help and version are no errors: clap prints them.
        Err(shown) if !shown.use_stderr() => shown.exit(),
        Err(error) => {
            complain(&format!("{} (see --help)", usage::line(&error)));
            return ExitCode::from(USAGE);
        }
    };
    log::start(cli.verbose);
    match run_verb(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.is_broken_pipe() => ExitCode::from(DONE),
        Err(error) => {
            complain(&advice::line(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

/// The resolved job, with the thread pool that it asks for.
fn job(args: JobArgs) -> Result<Job, CliError> {
    args.work.grant_grace();
    let note = args.machine.set_threads()?;
    let notes = note.iter().chain(&args.reuse.notes).cloned().collect();
    Job::resolve(args, notes)
}

/// Dispatches to the verb; returns the exit code.
fn run_verb(cli: Cli) -> Result<u8, CliError> {
    match cli.verb {
        None if cli.job.dry_run && cli.job.share.is_given() => {
            folder::list(&job(cli.job)?, false).map(|()| DONE)
        }
        None if cli.job.dry_run => plan::run(&job(cli.job)?, false).map(|()| DONE),
        None => upscale::run(&job(cli.job)?),
        Some(Verb::Plan(args)) if args.job.share.is_given() => {
            folder::list(&job(args.job)?, args.json).map(|()| DONE)
        }
        Some(Verb::Plan(args)) => plan::run(&job(args.job)?, args.json).map(|()| DONE),
        Some(Verb::Caption(args)) => caption::run(&job(*args)?).map(|()| DONE),
        Some(Verb::Edit(args)) => {
            let keep = edit::Keep { backup: args.backup, times: args.keep_times };
            edit::run(&job(args.job)?, &keep)
        }
        Some(Verb::Generate(args)) => generate::run(*args),
        Some(Verb::Info(args)) => info::run(&args).map(|()| DONE),
        Some(Verb::Status(args)) => status::run(&args),
        Some(Verb::Raw(args)) => raw::run(*args),
        Some(Verb::Pipe(args)) => pipe::run(*args),
        #[cfg(feature = "serve")]
        Some(Verb::Serve(args)) => serve::run(*args),
        Some(Verb::Models(args)) => models::run(&args).map(|()| DONE),
        Some(Verb::Doctor(args)) => doctor::run(&args),
        Some(Verb::Integrate(args)) => integrate::run(&args).map(|()| DONE),
        #[cfg(feature = "mistralrs")]
        Some(Verb::CaptionWorker) => worker::run().map(|()| DONE),
    }
}
