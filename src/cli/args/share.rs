//! Options for processes that do the pictures of one list together.

use clap::Args;

use crate::cli::{
    error::CliError,
    shares::{ShardChoice, Share},
};

#[derive(Args, Debug)]
#[command(next_help_heading = "Shares")]
pub struct ShareArgs {
    /// Do share I of N of the pictures, which depends on their names alone; `auto` takes both from a Slurm array, `auto/N`
    /// takes I from Slurm, Kubernetes or GNU parallel. Skips pictures whose output exists
    #[arg(long, value_name = "I/N|auto|auto/N")]
    shard: Option<ShardChoice>,
    /// Skip pictures that another process works on, instead of waiting for it
    #[arg(long)]
    pub skip_locked: bool,
}

impl ShareArgs {
    /// `true` if a share is asked for.
    pub fn is_given(&self) -> bool {
        self.shard.is_some()
    }

    /// The share that is asked for.
    ///
    /// # Errors
    /// An engine that does not say which it is.
    pub fn share(&self) -> Result<Option<Share>, CliError> {
        let share = self.shard.map(|choice| choice.share(|name| std::env::var(name).ok()));
        share.transpose().map_err(CliError::Usage)
    }
}
