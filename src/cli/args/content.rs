//! What the picture shows, in words: the user's and a captioner's.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use cupscale::pipeline::CaptionerChoice;

#[cfg(feature = "llava")]
use super::llava::LlavaArgs;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CaptionerArg {
    /// Describe what can be measured in the region: colours, brightness, contrast, texture
    Attributes,
    /// A LLaVA model looks at every region and says what is there
    #[cfg(feature = "llava")]
    Llava,
    /// Every region gets the global prompt
    None,
}

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
    #[arg(long, value_enum, default_value_t = CaptionerArg::Attributes)]
    captioner: CaptionerArg,
    /// Take the regions' captions from this JSON file (as `caption` writes it)
    #[arg(long, value_name = "FILE", conflicts_with = "captioner")]
    pub captions: Option<PathBuf>,
    #[cfg(feature = "llava")]
    #[command(flatten)]
    pub llava: LlavaArgs,
}

impl ContentArgs {
    /// Whether it takes a model of its own to describe regions.
    pub fn describes_with_a_model(&self) -> bool {
        match self.captioner() {
            CaptionerChoice::Attributes | CaptionerChoice::None | CaptionerChoice::File(_) => false,
            #[cfg(feature = "llava")]
            CaptionerChoice::Llava(_) => true,
            // Its process ends with every picture.
            #[cfg(feature = "mistralrs")]
            CaptionerChoice::Mistralrs(_) => false,
        }
    }

    /// Who describes the regions.
    pub fn captioner(&self) -> CaptionerChoice {
        match (&self.captions, self.captioner) {
            (Some(file), _) => CaptionerChoice::File(file.clone()),
            (None, CaptionerArg::Attributes) => CaptionerChoice::Attributes,
            #[cfg(feature = "llava")]
            (None, CaptionerArg::Llava) => {
                #[cfg(feature = "mistralrs")]
                if let Some(mistralrs) = self.llava.mistralrs() {
                    return CaptionerChoice::Mistralrs(mistralrs);
                }
                CaptionerChoice::Llava(self.llava.settings())
            }
            (None, CaptionerArg::None) => CaptionerChoice::None,
        }
    }
}
