//! Options of `status`.

use std::path::PathBuf;

use clap::Args;

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Folder of the outputs
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// List every share, however many there are
    #[arg(long)]
    pub shares: bool,
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}
