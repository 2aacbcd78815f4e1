//! Options for pictures that are made from words: what the picture shows, and the base picture.

use std::path::PathBuf;

use clap::Args;
use cupscale::{
    image::{Format, Output},
    pipeline::Generation,
};

use super::JobArgs;
use crate::cli::{error::CliError, values};

/// Options of `generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Content of the picture, in words; the same as --prompt
    #[arg(value_name = "PROMPT", conflicts_with = "prompt")]
    words: Option<String>,
    /// Size of the picture that is made from the prompt alone, before it is enlarged [default: the model's native number
    /// of pixels, in the aspect ratio of --size]
    #[arg(long, value_name = "WxH", value_parser = values::size, help_heading = "Base picture")]
    base_size: Option<(u32, u32)>,
    /// Steps of the base picture, all of which run [default: --steps]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000),
          help_heading = "Base picture")]
    base_steps: Option<u32>,
    /// Guidance scale of the base picture [default: --guidance]
    #[arg(long, value_name = "0-100", value_parser = values::guidance, help_heading = "Base picture")]
    base_guidance: Option<f64>,
    /// Write the base picture to this file as well
    #[arg(long, value_name = "FILE", help_heading = "Base picture")]
    keep_base: Option<PathBuf>,
    #[command(flatten)]
    pub job: JobArgs,
}

impl GenerateArgs {
    /// Takes the prompt from wherever it stands to where the options of a job have it.
    ///
    /// # Errors
    /// None at all.
    pub fn settle_prompt(&mut self) -> Result<(), CliError> {
        if let Some(words) = self.words.take() {
            self.job.content.prompt = words;
        }
        match self.job.content.prompt.trim().is_empty() {
            true => Err(CliError::Usage(
                "no prompt: say what the picture shows, as in `generate \"a red fox\" -o fox.png`"
                    .to_owned(),
            )),
            false => Ok(()),
        }
    }

    /// How the picture is made; it is enlarged where a size is asked for.
    ///
    /// # Errors
    /// A base picture that is kept where it is the output itself, or whose name says no format.
    pub fn generation(&self) -> Result<Generation, CliError> {
        let mut generation = Generation::default();
        generation.size = self.base_size;
        generation.steps = self.base_steps.map(|steps| steps as usize);
        generation.guidance = self.base_guidance;
        generation.enlarged = self.job.size.is_given();
        if let Some(path) = &self.keep_base {
            let refuse = |reason: &str| {
                Err(CliError::Usage(format!("--keep-base {}: {reason}", path.display())))
            };
            if !generation.enlarged {
                return refuse("without --size the output is the base picture");
            }
            let Some(format) = Format::from_extension(path) else {
                return refuse(
                    "its name must end like a picture's (png, jpg, webp, tif, ppm, pam, ff, exr)",
                );
            };
            generation.keep = Some((Output::Path(path.clone()), format));
        }
        Ok(generation)
    }
}
