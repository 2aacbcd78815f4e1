//! Options for the content of the picture: prompts and captioners.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::llava::LlavaArgs;

/// Captioners that `--captioner` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CaptionerArg {
    /// Describe what can be measured in the region: colours, brightness, contrast, texture
    Attributes,
    /// A LLaVA model looks at every region and says what is there
    Llava,
    /// Every region gets the global prompt
    None,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Content")]
pub struct ContentArgs {
    /// Content of the whole picture [default: nothing, or what --captioner llava says of it]
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub prompt: String,
    /// Content that the picture should not show; needs --guidance above 1
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub negative_prompt: String,
    /// Captioner that describes each region
    #[arg(long, value_enum, default_value_t = CaptionerArg::Attributes)]
    pub captioner: CaptionerArg,
    /// Take the regions' captions from this JSON file (as `caption` writes it)
    #[arg(long, value_name = "FILE", conflicts_with = "captioner")]
    pub captions: Option<PathBuf>,
    #[command(flatten)]
    pub llava: LlavaArgs,
}
