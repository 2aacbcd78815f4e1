//! Options for the work folder and for unfinished work.

use std::path::PathBuf;

use clap::Args;
use cupscale::pipeline::{Resume, WorkOptions};

use crate::cli::progress::{GRACE, grant};

/// The longest time of grace, a day.
const LONGEST_GRACE: u64 = 24 * 3600;

#[derive(Args, Debug)]
#[command(next_help_heading = "Unfinished work")]
pub struct WorkArgs {
    /// Folder for the files of a job while it runs [default: beside the output; the cache for a stream]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Resume unfinished work (also the default), and fail if there is none
    #[arg(long, conflicts_with = "fresh")]
    resume: bool,
    /// Discard unfinished work and start again
    #[arg(long)]
    fresh: bool,
    /// After Ctrl-C or SIGTERM, end after this time even within a batch, which is then computed again
    #[arg(long, value_name = "SECONDS", default_value_t = GRACE, value_parser = clap::value_parser!(u64).range(..=LONGEST_GRACE))]
    grace: u64,
}

impl WorkArgs {
    /// Grants a job that is interrupted the time that it has for its end.
    pub fn grant_grace(&self) {
        grant(self.grace);
    }

    /// Work folder of the job, and the policy for unfinished work in it.
    pub fn work(&self) -> WorkOptions {
        WorkOptions {
            folder: self.work_dir.clone(),
            resume: match (self.resume, self.fresh) {
                (true, _) => Resume::Required,
                (_, true) => Resume::Never,
                _ => Resume::Auto,
            },
        }
    }
}
