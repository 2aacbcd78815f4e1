//! Options for the content of the picture: prompts and captioners.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::llava::LlavaArgs;
use cupscale::model::text::PromptSyntax;

/// Captioners selectable with `--captioner`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CaptionerArg {
    /// Describe what can be measured in the region: colours, brightness, contrast, texture
    Attributes,
    /// Describe every region with a LLaVA model
    Llava,
    /// Use the global prompt for every region
    None,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Content")]
pub struct ContentArgs {
    /// Content of the whole picture [default: nothing, or the caption by --captioner llava]
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub prompt: String,
    /// Content that the picture should not show; needs --guidance above 1
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub negative_prompt: String,
    /// How both prompts are read: plain text, or weighted, as A1111 reads `(word:1.3)`, `[word]`, BREAK and `<lora:name:0.8>`, of any
    /// length
    #[arg(long, value_name = "plain|weighted", default_value_t)]
    pub prompt_syntax: PromptSyntax,
    /// Captioner that describes each region
    #[arg(long, value_enum, default_value_t = CaptionerArg::Attributes)]
    pub captioner: CaptionerArg,
    /// Take the regions' captions from this JSON file (as `caption` writes it)
    #[arg(long, value_name = "FILE", conflicts_with = "captioner")]
    pub captions: Option<PathBuf>,
    #[command(flatten)]
    pub llava: LlavaArgs,
}
