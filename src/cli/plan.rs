//! `plan` and `--dry-run`: what would run, on standard output.

use super::{CliError, args::JobArgs, print, upscale};

pub fn run(args: &JobArgs) -> Result<(), CliError> {
    print(&format!("{}\n", upscale::plan(args)?))
}
