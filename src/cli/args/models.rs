//! Options of `models`: adding, downloading, checking, quantizing and removing.

use std::{ffi::OsString, path::PathBuf};

use clap::{
    Args, Subcommand,
    builder::{OsStringValueParser, TypedValueParser as _},
};
use cupscale::{
    pipeline::Profile,
    sampler::{SamplerKind, SigmaChoice, TimestepSpacing},
    weights::QuantType,
};

use super::{progress::ProgressArgs, sampler::sampler_choice};
use crate::cli::{
    error::CliError,
    progress::Show,
    values::{self, LoraArg},
};

/// Arguments of `models`.
#[derive(Args, Debug)]
pub struct ModelsArgs {
    #[command(subcommand)]
    pub verb: ModelsVerb,
}

#[derive(Debug, Subcommand)]
pub enum ModelsVerb {
    /// Show installed and available models
    #[command(
        after_help = "SIZE counts all files of a model, also those that it shares with others. `>` stands before a sum that lacks files of unknown size, `?` where no size is known: `pull` asks the hub for them.\n\nExample:\n  cupscale-fast models list"
    )]
    List(ListArgs),
    /// Give your own weights a name; nothing is copied
    #[command(
        after_help = "Example:\n  cupscale-fast models add dream dream.safetensors --steps 8 --sampler ddim"
    )]
    Add(Box<AddArgs>),
    /// Download a model, or its missing files; an interrupted download is resumed
    #[command(after_help = "Example:\n  cupscale-fast models pull hyper-sdxl")]
    Pull(PullArgs),
    /// Read every byte of installed models again, and compare
    #[command(after_help = "Example:\n  cupscale-fast models verify hyper-sdxl")]
    Verify(VerifyArgs),
    /// Write a whole model, quantized, into one GGUF file
    #[command(
        after_help = "Example:\n  cupscale-fast models quantize hyper-sdxl -o hyper.gguf --type q8_0"
    )]
    Quantize(QuantizeArgs),
    /// Remove a model; files that other models share stay, and so do your own
    #[command(after_help = "Example:\n  cupscale-fast models remove hyper-sdxl")]
    Remove(RemoveArgs),
}

#[derive(Args, Debug)]
pub struct WatchArgs {
    #[command(flatten)]
    progress: ProgressArgs,
    /// Errors only
    #[arg(short, long)]
    pub quiet: bool,
}

impl WatchArgs {
    /// Form of the progress display.
    ///
    /// # Errors
    /// A descriptor that cannot be written to.
    pub fn show(&self) -> Result<Show, CliError> {
        self.progress.show(self.quiet)
    }
}

#[derive(Args, Debug)]
pub struct ListArgs {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct AddArgs {
    /// Name of the model
    pub name: String,
    /// A folder in diffusers layout, a .safetensors or a .gguf file; or a LLaVA model, a ControlNet, or an ESRGAN model
    /// (.safetensors, or a .param with its .bin)
    pub path: PathBuf,
    /// A LoRA to merge: a file, or an installed LoRA's name; may be given several times
    #[arg(long, value_name = "FILE[:SCALE[:BLOCKS]]",
          value_parser = OsStringValueParser::new().try_map(values::lora))]
    pub lora: Vec<LoraArg>,
    /// A UNet in place of the model's own: a file or a folder
    #[arg(long, value_name = "PATH")]
    pub unet: Option<PathBuf>,
    /// A T5 or Qwen3 text encoder in place of the model's own: a file or a folder
    #[arg(long, value_name = "PATH")]
    pub text_encoder: Option<PathBuf>,
    /// A VAE in place of the model's own: a file, a folder, or an installed VAE's name
    #[arg(long, value_name = "PATH")]
    pub vae: Option<PathBuf>,
    /// The .gguf file with the vision tower of a LLaVA model [default: the one beside the decoder's]
    #[arg(long, value_name = "FILE")]
    pub mmproj: Option<PathBuf>,
    /// Row of defaults for its jobs
    #[arg(long, value_name = "faithful|balanced|creative|fast")]
    pub profile: Option<Profile>,
    /// Sampler that the model is made for
    #[arg(long, value_name = sampler_choice())]
    pub sampler: Option<SamplerKind>,
    /// Spacing of its timesteps
    #[arg(long, value_name = "leading|trailing|linspace")]
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Noise levels of its steps
    #[arg(long, value_name = "simple|karras|exponential|beta")]
    pub sigmas: Option<SigmaChoice>,
    /// Explicit timesteps, in place of a spacing
    #[arg(long, value_name = "T,T,…", value_delimiter = ',', conflicts_with = "timestep_spacing",
          value_parser = clap::value_parser!(u32).range(0..1000))]
    pub timesteps: Option<Vec<u32>>,
    /// Steps of the whole schedule
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub steps: Option<u32>,
    /// The share of the steps that run
    #[arg(long, value_name = "0-1", value_parser = values::share)]
    pub strength: Option<f64>,
    /// The same as a number of steps
    #[arg(long, value_name = "K", conflicts_with = "strength",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub denoise_steps: Option<u32>,
    /// Classifier-free guidance; 1 is none
    #[arg(long, value_name = "G", value_parser = values::guidance)]
    pub guidance: Option<f64>,
    /// Share of fresh noise in each step of ddim or tcd
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    pub eta: Option<f64>,
    /// Side of the pictures that it was trained on
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(64..=8192))]
    pub native_size: Option<u32>,
    /// Overlap of neighbouring regions, as a share of a region's side
    #[arg(long, value_name = "0-0.9", value_parser = values::overlap)]
    pub overlap: Option<f64>,
    /// Share of the first network's picture that stays in the repaint
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    pub first_share: Option<f64>,
    /// How much stronger the finest detail gets
    #[arg(long, value_name = "0-2", value_parser = values::sharpen)]
    pub sharpen: Option<f64>,
    /// Grain, in levels of 255
    #[arg(long, value_name = "0-20", value_parser = values::grain)]
    pub grain: Option<f64>,
    /// How far the output, reduced again, is the input
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    pub fidelity: Option<f64>,
    /// How far lines are drawn along those of the input
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    pub coherence: Option<f64>,
    /// How far texture without lines is noise of the input's roughness
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    pub texture: Option<f64>,
    #[command(flatten)]
    pub watch: WatchArgs,
}

#[derive(Args, Debug)]
pub struct PullArgs {
    /// A model that `models list` shows
    pub name: String,
    /// A branch, tag or commit of the model's own repository, in place of the pinned one
    #[arg(long)]
    pub revision: Option<String>,
    /// The hub's address [default: $HF_ENDPOINT, else the public hub]
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// A file with the hub's token [default: $HF_TOKEN, else the token of the hub's own tools]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Send the token to an http:// address too, where anybody on the way can read it
    #[arg(long)]
    pub insecure: bool,
    #[command(flatten)]
    pub watch: WatchArgs,
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Models to check [default: all that are installed]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub watch: WatchArgs,
}

#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// Name of an installed model, or of your own weights
    pub name: String,
    #[command(flatten)]
    pub watch: WatchArgs,
}

#[derive(Args, Debug)]
pub struct QuantizeArgs {
    /// The model: a name, a folder in diffusers layout, a .safetensors or .gguf file
    #[arg(value_name = "NAME|PATH")]
    pub input: OsString,
    /// The file to write
    #[arg(short, long, value_name = "OUT.gguf")]
    pub output: PathBuf,
    /// Weight type of the dense layers; sensitive tensors stay in f16 or f32
    #[arg(short, long = "type", value_name = "q8_0|q6_k|q5_k|q4_k|f16")]
    pub quant: QuantType,
    /// A LoRA to merge first; may be given several times
    #[arg(long, value_name = "NAME|FILE[:SCALE[:BLOCKS]]",
          value_parser = OsStringValueParser::new().try_map(values::lora))]
    pub lora: Vec<LoraArg>,
    #[command(flatten)]
    pub progress: ProgressArgs,
}
