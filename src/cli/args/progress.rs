//! Options for the progress of a job or of a transfer.

use clap::Args;

use crate::cli::{
    error::CliError,
    progress::{LineStream, ProgressMode, Show},
};

#[derive(Args, Debug)]
#[command(next_help_heading = "Progress")]
pub struct ProgressArgs {
    /// Form of the progress on stderr
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto)]
    progress: ProgressMode,
    /// Write the progress as JSON lines to this open descriptor as well, 3 or above; stderr stays as it is
    #[arg(long, value_name = "N")]
    progress_fd: Option<u32>,
}

impl ProgressArgs {
    /// Form of the progress display.
    ///
    /// # Errors
    /// A descriptor that cannot be written to.
    pub fn show(&self, quiet: bool) -> Result<Show, CliError> {
        let lines = self.progress_fd.map(LineStream::open).transpose()?;
        Ok(Show { mode: self.progress, quiet, lines, preview: None })
    }
}
