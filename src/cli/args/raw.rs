//! Options for frames of raw pixels.

use clap::Args;
use cupscale::image::PixelFormat;

use crate::cli::values;

/// Options of a job that frames do not have: they are never resumed, come without files, and leave without metadata.
pub const NOT_OF_RAW: [&str; 17] = [
    "inputs",
    "format",
    "quality",
    "bit_depth",
    "skip_existing",
    "dry_run",
    "preview",
    "report",
    "page",
    "frames",
    "captions",
    "resume",
    "fresh",
    "shard",
    "skip_locked",
    "allow_truncated",
    "max_metadata",
];

#[derive(Args, Debug)]
pub struct FrameArgs {
    /// Width and height of the frames that come, in pixels
    #[arg(value_name = "WxH", value_parser = values::size)]
    pub frame: (u32, u32),
    /// Format of the pixels, by ffmpeg's name; results have the same
    #[arg(long, value_name = "rgb24|rgba|rgb48le|rgbaf32le")]
    pub pix: PixelFormat,
}
