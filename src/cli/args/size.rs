//! Options for the output size.

use clap::Args;
use cupscale::{canvas::SizeSpec, pipeline::Defaults};

use crate::cli::values;

#[derive(Args, Debug)]
#[command(next_help_heading = "Size")]
pub struct SizeArgs {
    /// Enlarge by this factor
    #[arg(short, long, value_name = "FACTOR", default_value_t = Defaults::SCALE,
          value_parser = values::positive)]
    scale: f64,
    /// Enlarge to exactly this size, in pixels
    #[arg(long, value_name = "WxH", value_parser = values::size, conflicts_with_all = ["scale", "long_edge"])]
    size: Option<(u32, u32)>,
    /// Enlarge until the longer side has this many pixels
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..),
          conflicts_with = "scale")]
    long_edge: Option<u32>,
}

impl SizeArgs {
    pub fn spec(&self) -> SizeSpec {
        match (self.size, self.long_edge) {
            (Some((width, height)), _) => SizeSpec::Exact(width, height),
            (None, Some(edge)) => SizeSpec::LongEdge(edge),
            (None, None) => SizeSpec::Scale(self.scale),
        }
    }

    /// Suffix of a default output name, before the extension: `_4x`, `_1.5x`, `_800x600`.
    pub fn suffix(&self) -> String {
        match self.spec() {
            SizeSpec::Scale(scale) => format!("_{scale}x"),
            SizeSpec::Exact(width, height) => format!("_{width}x{height}"),
            SizeSpec::LongEdge(edge) => format!("_{edge}px"),
        }
    }
}
