//! The command line: what was typed becomes resolved settings, the pipeline does the work, and
//! progress goes to stderr. Nothing here computes.

mod args;
mod caption;
mod captioner;
mod engine;
mod folder;
mod models;
mod plan;
mod progress;
mod quantize;
mod upscale;
mod values;
#[cfg(feature = "mistralrs")]
mod worker;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use args::{Cli, Verb};
use cupscale::{pipeline::Error, weights::registry::ModelError};

/// Exit code when all went well.
const DONE: u8 = 0;
/// Exit code when an input failed.
const FAILED: u8 = 1;
/// Exit code when the command line itself is wrong (clap's own, too).
const USAGE: u8 = 2;
/// Exit code when every output was there already (`--skip-existing`).
const SKIPPED: u8 = 3;
/// Exit code after Ctrl-C, as shells count it (128 + SIGINT).
const INTERRUPTED: u8 = 130;

/// How a verb can end badly.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The options do not make sense together.
    #[error("{0}")]
    Usage(String),
    #[error("{}: no pictures in it (PNG, JPEG, WebP or TIFF)", .0.display())]
    NoPictures(PathBuf),
    #[error(transparent)]
    Job(#[from] Error),
    #[error(transparent)]
    Models(#[from] ModelError),
    /// Installed files are not what they were.
    #[error("{0}")]
    Damaged(String),
    /// Standard output did not take what a verb prints.
    #[error("standard output: {0}")]
    Print(io::Error),
    /// Whoever started the captioning process talks nonsense.
    #[cfg(feature = "mistralrs")]
    #[error("{VERB}: {0}", VERB = cupscale::caption::mistralrs::VERB)]
    Worker(io::Error),
}

impl CliError {
    /// Whoever read our output has seen enough: that is no failure of ours.
    fn is_broken_pipe(&self) -> bool {
        match self {
            Self::Usage(_) | Self::NoPictures(_) | Self::Models(_) | Self::Damaged(_) => false,
            Self::Job(error) => error.is_broken_pipe(),
            Self::Print(error) => error.kind() == io::ErrorKind::BrokenPipe,
            #[cfg(feature = "mistralrs")]
            Self::Worker(_) => false,
        }
    }
}

/// Runs the command line; the result is the process's exit code.
pub fn run() -> ExitCode {
    let cli = match Cli::from_command_line(std::env::args_os()) {
        Ok(cli) => cli,
        // Help and version are no errors: clap prints them.
        Err(shown) if !shown.use_stderr() => shown.exit(),
        Err(error) => {
            complain(&format!("{} (see --help)", usage_line(&error)));
            return ExitCode::from(USAGE);
        }
    };
    let result = match &cli.verb {
        None => upscale::run(&cli.job),
        Some(Verb::Plan(job)) => plan::run(job).map(|()| ExitCode::from(DONE)),
        Some(Verb::Caption(job)) => caption::run(job).map(|()| ExitCode::from(DONE)),
        Some(Verb::Models(args)) => models::run(args).map(|()| ExitCode::from(DONE)),
        #[cfg(feature = "mistralrs")]
        Some(Verb::CaptionWorker) => worker::run().map(|()| ExitCode::from(DONE)),
    };
    match result {
        Ok(code) => code,
        Err(error) if error.is_broken_pipe() => ExitCode::from(DONE),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(match error {
                CliError::Usage(_)
                | CliError::Job(Error::OtherJob { .. } | Error::NothingToResume { .. }) => USAGE,
                CliError::Job(Error::Sampler(error)) if error.is_wrong_choice() => USAGE,
                CliError::Job(Error::Interrupted(_)) => INTERRUPTED,
                CliError::Models(error) if error.is_interrupt() => INTERRUPTED,
                CliError::NoPictures(_)
                | CliError::Job(_)
                | CliError::Models(_)
                | CliError::Damaged(_)
                | CliError::Print(_) => FAILED,
                #[cfg(feature = "mistralrs")]
                CliError::Worker(_) => FAILED,
            })
        }
    }
}

/// What clap has to say, without its colours, tips and usage, on one line.
fn usage_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or(&text);
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    // A second picture looks like a verb to clap, and so does a verb that comes too late.
    if error.kind() == clap::error::ErrorKind::ArgumentConflict && message.contains("subcommand") {
        return "one picture at a time, and a verb (plan, caption, models) comes first".to_owned();
    }
    message.to_owned()
}

/// One line on standard error. Nobody reading it is no reason to fail.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "cupscale-fast: {line}");
}

/// Writes the one thing that a verb prints.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Print)
}
