//! Options of `integrate`.

use clap::Args;

use crate::cli::integrate::table;

/// Arguments of `integrate`.
#[derive(Args, Debug)]
pub struct IntegrateArgs {
    /// Program to put this one behind
    #[arg(value_name = "NAME", required_unless_present = "list")]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(table::names()))]
    pub name: Option<String>,
    /// Show all of them, and which are installed
    #[arg(long, conflicts_with_all = ["name", "remove", "dry_run", "force"])]
    pub list: bool,
    /// Remove what was written; files that were changed since stay
    #[arg(long)]
    pub remove: bool,
    /// Say what would be written or removed, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write or remove files as well that were changed since they were written; a file of somebody else never
    #[arg(long)]
    pub force: bool,
}
