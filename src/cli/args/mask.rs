//! Options for what is repainted and what is kept.

use std::path::PathBuf;

use clap::Args;

use crate::cli::mask::MaskChoice;

/// The widest feather in output pixels.
const WIDEST: i64 = 1000;

#[derive(Args, Debug)]
#[command(next_help_heading = "Repainting")]
pub struct MaskArgs {
    /// Picture of what to repaint, of any size: white is repainted, black is kept, grey blends; of one with transparency what
    /// is painted is repainted. A folder has a mask for each picture, under the picture's name
    #[arg(long, value_name = "FILE|FOLDER")]
    pub mask: Option<PathBuf>,
    /// Repaint what the mask keeps, and keep what it repaints
    #[arg(long, requires = "mask")]
    invert_mask: bool,
    /// Smooth the edges of the mask over so many output pixels on either side [default: 0]
    #[arg(long, value_name = "PIXELS", requires = "mask",
          value_parser = clap::value_parser!(u32).range(0..=WIDEST))]
    mask_feather: Option<u32>,
}

impl MaskArgs {
    /// The mask that the options name.
    pub fn choice(&self) -> Option<MaskChoice> {
        let path = self.mask.clone()?;
        Some(MaskChoice::new(path, self.invert_mask, self.mask_feather.unwrap_or(0)))
    }
}
