//! What the picture shows, in words: the user's and a captioner's.

use std::path::PathBuf;

use clap::{Args, builder::PossibleValuesParser};

use super::llava::LlavaArgs;
use crate::cli::captioner::{self, DEFAULT};

#[derive(Args, Debug)]
#[command(next_help_heading = "Content")]
pub struct ContentArgs {
    /// What the whole picture shows [default: nothing, or what --captioner llava says of it]
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub prompt: String,
    /// What the picture should not show; needs --guidance above 1
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub negative_prompt: String,
    /// How each region is described
    #[arg(long, default_value = DEFAULT, value_parser = PossibleValuesParser::new(captioner::names()))]
    pub captioner: String,
    /// Take the regions' captions from this JSON file (as `caption` writes it)
    #[arg(long, value_name = "FILE", conflicts_with = "captioner")]
    pub captions: Option<PathBuf>,
    #[command(flatten)]
    pub llava: LlavaArgs,
}
