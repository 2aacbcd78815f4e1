//! Options of `info`.

use std::path::PathBuf;

use clap::Args;

#[derive(Args, Debug)]
pub struct InfoArgs {
    /// The picture
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}
