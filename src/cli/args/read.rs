//! Options for reading pictures.

use clap::Args;
use cupscale::image::ReadOptions;

use crate::cli::values;

#[derive(Args, Debug)]
#[command(next_help_heading = "Reading")]
pub struct ReadArgs {
    /// Read a picture that ends early as far as it goes; the run says how far
    #[arg(long)]
    allow_truncated: bool,
    /// Limit of a picture's metadata (profile, EXIF, XMP, texts), unpacked [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    max_metadata: Option<usize>,
}

impl ReadArgs {
    /// How pictures are read.
    pub fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.allow_truncated = self.allow_truncated;
        if let Some(limit) = self.max_metadata {
            options.max_metadata = limit as u64;
        }
        options
    }
}
