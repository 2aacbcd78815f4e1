//! Options for reading pictures, and which of a file that holds several.

use clap::Args;
use cupscale::image::ReadOptions;

use crate::cli::values::{self, Page};

#[derive(Args, Debug)]
#[command(next_help_heading = "Reading")]
pub struct ReadArgs {
    /// Read a picture that ends early as far as it goes; the run says how far
    #[arg(long)]
    allow_truncated: bool,
    /// Which picture of a file that holds several, from 1: a page of a TIFF, or a frame of an animation; `all` makes an
    /// output of every page [default: the first]
    #[arg(long, value_name = "N|all", value_parser = values::page)]
    page: Option<Page>,
    /// Make an output of every frame of an animation (GIF, APNG, WebP, JPEG XL)
    #[arg(long)]
    frames: bool,
    /// Limit of a picture's metadata (profile, EXIF, XMP, texts), unpacked [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    max_metadata: Option<usize>,
}

/// Files of several pictures of which every picture gets an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Every {
    pub page: bool,
    pub frame: bool,
}

impl ReadArgs {
    /// Of which files every picture is asked for.
    pub fn every(&self) -> Every {
        Every { page: self.page == Some(Page::All), frame: self.frames }
    }

    /// How pictures are read.
    pub fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.allow_truncated = self.allow_truncated;
        if let Some(Page::Number(number)) = self.page {
            options.picture = Some(number);
        }
        if let Some(limit) = self.max_metadata {
            options.max_metadata = limit as u64;
        }
        options
    }
}
