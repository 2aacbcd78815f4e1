//! Options for the amount and method of repainting.

use clap::{Args, ValueEnum};
use cupscale::{
    canvas::Fusion,
    pipeline::{ColourFix, Defaults, Settings},
    sampler::{Denoise, SamplerKind, SigmaChoice, TimestepSpacing},
};

use super::sampler::sampler_choice;
use crate::cli::values;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FusionArg {
    /// Overlapping regions fade into each other (raised cosine)
    Feather,
    /// Overlapping regions have equal weight
    Average,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ColorFixArg {
    /// Large-scale colour and tone from the input
    Wavelet,
    /// Mean and deviation of each channel from the input
    Adain,
    /// As wavelet, and then the distribution of colours from the input
    Lab,
    /// Colours as the model made them
    None,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Repainting")]
pub struct RepaintArgs {
    /// Same seed, same picture
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    seed: u64,
    /// Steps of the whole schedule [default: the model's, or 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: Option<u32>,
    /// Amount of repainting: the share of the steps that run, rounded up [default: the model's, or 0.45]
    #[arg(long, value_name = "0-1", value_parser = values::share)]
    strength: Option<f64>,
    /// The same as a number of steps
    #[arg(long, value_name = "K", conflicts_with = "strength",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    denoise_steps: Option<u32>,
    /// Sampler of the steps [default: the model's]
    #[arg(long, value_name = sampler_choice())]
    sampler: Option<SamplerKind>,
    /// Share of fresh noise in each step of ddim or tcd [default: the model's, or 0 and 0.3]
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    eta: Option<f64>,
    /// Spacing of the timesteps; few-step models want trailing [default: the model's]
    #[arg(long, value_name = "leading|trailing|linspace")]
    spacing: Option<TimestepSpacing>,
    /// Noise levels that the samplers in sigma walk through [default: the model's]
    #[arg(long, value_name = "simple|karras|exponential|beta")]
    sigmas: Option<SigmaChoice>,
    /// Explicit timesteps of the whole schedule, highest first
    #[arg(long, value_name = "T,T,...", value_delimiter = ',', conflicts_with = "steps")]
    timesteps: Option<Vec<usize>>,
    /// Guidance scale: weight of the prompt against the negative prompt, at twice the work; 1 is off
    /// [default: the model's, or 1]
    #[arg(long, value_name = "0-100", value_parser = values::guidance)]
    guidance: Option<f64>,
    /// Overlap of neighbouring regions, as a share of a region's side [default: the model's, or 0.5]
    #[arg(long, value_name = "0-0.9", value_parser = values::overlap)]
    overlap: Option<f64>,
    /// Fusion of overlapping regions
    #[arg(long, value_enum, default_value_t = FusionArg::Feather)]
    fusion: FusionArg,
    /// Weight of the global structure prior: keeps shapes and tones; 0 turns it off
    #[arg(long, value_name = "0-1", default_value_t = Defaults::GSP, value_parser = values::weight)]
    gsp: f64,
    /// Weight of the regional attention prior: guides regions by the whole picture; 0 is off
    #[arg(long, value_name = "0-1", default_value_t = Defaults::RAP, value_parser = values::weight)]
    rap: f64,
    /// Weight of the regional semantic prior: the regions' captions against the prompt; 0 is off
    #[arg(long, value_name = "0-1", default_value_t = Defaults::RSP, value_parser = values::weight)]
    rsp: f64,

    /// Colour correction of the output towards the input
    #[arg(long, value_enum, default_value_t = ColorFixArg::Wavelet)]
    color_fix: ColorFixArg,
    /// Only the light of the repaint, over the colours of the input
    #[arg(long)]
    detail_only: bool,
    /// Share of the repainted picture in the output; 0 is the plain Lanczos enlargement, without the model
    #[arg(long, value_name = "0-1", default_value_t = Defaults::BLEND, value_parser = values::weight)]
    blend: f64,
}

impl RepaintArgs {
    /// Settings with these options applied to the defaults.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        settings.seed = self.seed;
        settings.sampler = self.sampler;
        settings.eta = self.eta;
        settings.spacing = self.spacing;
        settings.sigmas = self.sigmas;
        settings.timesteps.clone_from(&self.timesteps);
        settings.steps = self.steps.map(|steps| steps as usize);
        settings.denoise = match (self.denoise_steps, self.strength) {
            (Some(steps), _) => Some(Denoise::Steps(steps as usize)),
            (None, strength) => strength.map(Denoise::Strength),
        };
        settings.guidance = self.guidance;
        settings.overlap = self.overlap;
        settings.fusion = match self.fusion {
            FusionArg::Feather => Fusion::Feather,
            FusionArg::Average => Fusion::Average,
        };
        (settings.gsp, settings.rap, settings.rsp) = (self.gsp, self.rap, self.rsp);
        settings.colour_fix = match self.color_fix {
            ColorFixArg::Wavelet => ColourFix::Wavelet,
            ColorFixArg::Adain => ColourFix::Adain,
            ColorFixArg::Lab => ColourFix::Lab,
            ColorFixArg::None => ColourFix::None,
        };
        (settings.detail_only, settings.blend) = (self.detail_only, self.blend);
        settings
    }
}
