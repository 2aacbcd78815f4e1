//! Options for the amount and method of repainting.

use clap::{Args, ValueEnum};
use cupscale::{
    canvas::Fusion,
    pipeline::{self, ColourFix, Defaults, Engine, Error, Profile, Settings},
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

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Repainting")]
pub struct RepaintArgs {
    /// Row of defaults: close to the input, the model's own, more invented, or sooner done; options go before it
    /// [default: the model's, or balanced]
    #[arg(long, value_name = "faithful|balanced|creative|fast")]
    pub profile: Option<Profile>,
    /// Same seed, same picture
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    seed: u64,
    /// Steps of the whole schedule [default: the model's, or 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: Option<u32>,
    /// Amount of repainting: the share of the steps that run, rounded up [default: the model's, or 0.45]
    #[arg(long, value_name = "0-1", value_parser = values::share)]
    strength: Option<f64>,
    /// The same as a number of steps; 0 is the first enlargement alone, without the diffusion model
    #[arg(long, value_name = "K", conflicts_with = "strength",
          value_parser = clap::value_parser!(u32).range(0..=1000))]
    denoise_steps: Option<u32>,
    /// Sampler of the steps [default: the model's]
    #[arg(long, value_name = sampler_choice())]
    sampler: Option<SamplerKind>,
    /// Share of fresh noise in each step of ddim or tcd [default: the model's, or 0 for ddim and 0.3 for tcd]
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
    /// Move the grid of regions from step to step, so that no seam stays at one place; costs a row and a column of regions
    #[arg(long)]
    tile_jitter: bool,
    /// Weight of the global structure prior: keeps shapes and tones; 0 turns it off [default: 0.2]
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    gsp: Option<f64>,
    /// Weight of the regional attention prior: guides regions by the whole picture; 0 is off [default: 0.5]
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    rap: Option<f64>,
    /// Weight of the regional semantic prior: the regions' captions against the prompt; 0 is off [default: 1]
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    rsp: Option<f64>,

    /// Share of the first network's picture that stays in the repaint, before everything else is done to it; nothing where no
    /// network makes it [default: the model's, or 0]
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    first_share: Option<f64>,
    /// How much stronger the finest detail of the repaint gets; 0 leaves it [default: the model's, or 0]
    #[arg(long, value_name = "0-2", value_parser = values::sharpen)]
    sharpen: Option<f64>,
    /// Fine grain, as a photograph has it: its standard deviation in levels of 255; none where the input is flat
    /// [default: the model's, or 0]
    #[arg(long, value_name = "0-20", value_parser = values::grain)]
    grain: Option<f64>,
    /// How far the output, reduced again, is the input: 1 gives back what the repaint moved in an input's pixel as a whole; it
    /// works in full from twice the size on [default: the model's, or 0]
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    fidelity: Option<f64>,
    /// How far what runs in lines (fur, bristles, edges) is drawn along the lines of the input: smoother along them, steeper
    /// across; it works in full from twice the size on [default: the model's, or 0]
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    coherence: Option<f64>,
    /// How far texture without lines (sand, gravel) is fine noise, as rough as the input's own texture, in the place of the
    /// model's guess; it works in full from twice the size on [default: the model's, or 0]
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    texture: Option<f64>,
    /// Colour correction of the output towards the input
    #[arg(long, value_enum, default_value_t = ColorFixArg::Wavelet)]
    color_fix: ColorFixArg,
    /// Only the light of the repaint, over the colours of the input
    #[arg(long)]
    detail_only: bool,
    /// Share of the repainted picture in the output; 0 is the first enlargement alone (Lanczos without --first), without the model [default: 1]
    #[arg(long, value_name = "0-1", value_parser = values::weight)]
    blend: Option<f64>,
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
        settings.tile_jitter = self.tile_jitter;
        settings.gsp = self.gsp.unwrap_or(Defaults::GSP);
        settings.rap = self.rap.unwrap_or(Defaults::RAP);
        settings.rsp = self.rsp.unwrap_or(Defaults::RSP);
        settings.first_share = self.first_share;
        (settings.sharpen, settings.grain) = (self.sharpen, self.grain);
        settings.fidelity = self.fidelity;
        (settings.coherence, settings.texture) = (self.coherence, self.texture);
        settings.colour_fix = match self.color_fix {
            ColorFixArg::Wavelet => ColourFix::Wavelet,
            ColorFixArg::Adain => ColourFix::Adain,
            ColorFixArg::Lab => ColourFix::Lab,
            ColorFixArg::None => ColourFix::None,
        };
        (settings.detail_only, settings.blend) =
            (self.detail_only, self.blend.unwrap_or(Defaults::BLEND));
        settings
    }

    /// Puts the row of the chosen profile into these settings, but for what the options say; the model's own where none is
    /// chosen, and none where that has none either.
    ///
    /// # Errors
    /// Settings that do not match the model.
    pub fn add_profile(&self, engine: &Engine, settings: &mut Settings) -> Result<(), Error> {
        let Some(profile) = self.profile.or(engine.profile()) else { return Ok(()) };
        let mut row = pipeline::profile_row(engine, profile, settings)?;
        let free = |given: bool, value: Option<f64>| value.filter(|_| !given);
        row.denoise = row.denoise.filter(|_| settings.denoise.is_none());
        row.overlap = free(self.overlap.is_some(), row.overlap);
        row.gsp = free(self.gsp.is_some(), row.gsp);
        row.rap = free(self.rap.is_some(), row.rap);
        row.rsp = free(self.rsp.is_some(), row.rsp);
        row.blend = free(self.blend.is_some(), row.blend);
        settings.start_from(&row);
        Ok(())
    }
}
