//! Options for the output size.

use clap::Args;
use cupscale::{canvas::SizeSpec, pipeline::Defaults};

use crate::cli::values;

#[derive(Args, Debug)]
#[command(next_help_heading = "Size")]
pub struct SizeArgs {
    /// Enlarge by this factor [default: 4]
    #[arg(short, long, value_name = "FACTOR", value_parser = values::positive)]
    scale: Option<f64>,
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
            (None, None) => SizeSpec::Scale(self.scale.unwrap_or(Defaults::SCALE)),
        }
    }

    /// `true` if a size is asked for.
    pub fn is_given(&self) -> bool {
        self.size.is_some() || self.long_edge.is_some() || self.scale.is_some()
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
