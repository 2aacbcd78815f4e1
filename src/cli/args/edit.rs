//! Options of `edit`: those of a job but for where it writes, and what becomes of the original.

use clap::Args;

use super::JobArgs;

/// Suffix of the kept original where none is given.
const BACKUP: &str = "~";

#[derive(Args, Debug)]
pub struct EditArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// Keep the original beside the picture, under its name with this suffix [default suffix: ~]
    #[arg(long, value_name = "SUFFIX", num_args = 0..=1, require_equals = true, default_missing_value = BACKUP)]
    pub backup: Option<String>,
    /// Keep the times of access and change
    #[arg(long)]
    pub keep_times: bool,
}
