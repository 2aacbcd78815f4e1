//! What a user can choose about a job, and what holds where nothing is chosen.

use std::sync::Arc;

use crate::{
    canvas::{Fusion, SizeSpec},
    caption::{Captioner, attributes::Attributes},
    sampler::{Denoise, SamplerKind, TimestepSpacing},
};

/// The one home of the numbers that hold where the user says nothing; the README's table of
/// options is checked against it.
#[derive(Clone, Copy, Debug)]
pub struct Defaults;

impl Defaults {
    /// Times the input's width and height.
    pub const SCALE: f64 = 4.0;
    /// Steps of the whole schedule N (Hyper-SDXL's eight).
    pub const STEPS: u32 = 8;
    /// Share of the schedule that runs: the paper's 0.45·T, four of eight steps.
    pub const STRENGTH: f64 = 0.45;
    /// Strength of classifier-free guidance: 1 is none, which few-step models are distilled for.
    pub const GUIDANCE: f64 = 1.0;
    /// Overlap of regions as a share of their side (the paper's R/2).
    pub const OVERLAP: f64 = 0.5;
    /// λ of the global structure prior.
    pub const GSP: f64 = 0.2;
    /// Share of the regional attention prior in each cross-attention's output (eq. 8).
    pub const RAP: f64 = 0.5;
    /// How far a region's text condition goes from the prompt (0) to its caption (1).
    pub const RSP: f64 = 1.0;
    /// Side of a VAE tile's core in image pixels, for an autoencoder that sees little around it.
    pub const TILE: u32 = 512;
    /// The same for AutoencoderKL, which sees all of a tile, and whose tiles are padded widely.
    pub const TILE_KL: u32 = 1024;
    /// Captions that LLaVA writes at once.
    pub const CAPTION_BATCH: usize = crate::caption::llava::DEFAULT_ROWS;
    /// Share of the probability that LLaVA chooses words from, where it chooses by chance.
    pub const CAPTION_TOP_P: f64 = 0.9;
    /// Regions per denoiser call on the CPU, where a batch saves little.
    pub const BATCH_CPU: usize = 4;
    /// Regions per denoiser call on a GPU.
    pub const BATCH_GPU: usize = 8;
}

/// Where the output's large-scale colour and tone come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColourFix {
    /// The input.
    Wavelet,
    /// The model.
    None,
}

/// A job's settings. What is `None` is the model's to say ([`ModelDefaults`](super::ModelDefaults)), and where it
/// says nothing, that of [`Defaults`].
///
/// Later versions may have more: begin with `Settings::default()` and set what you choose.
///
/// ```
/// use cupscale::{canvas::SizeSpec, pipeline::Settings};
///
/// let mut settings = Settings::default();
/// settings.size = SizeSpec::Scale(2.0);
/// settings.prompt = "an old harbour at dusk".to_owned();
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Size of the output.
    pub size: SizeSpec,
    /// The global prompt; may be empty.
    pub prompt: String,
    /// What the picture should not show, for guidance above 1; may be empty.
    pub negative_prompt: String,
    /// Same seed, same picture.
    pub seed: u64,
    /// How a step is taken.
    pub sampler: Option<SamplerKind>,
    /// Share of fresh noise in each step, 0..=1, for DDIM and TCD.
    pub eta: Option<f64>,
    /// How timesteps are spread.
    pub spacing: Option<TimestepSpacing>,
    /// The very timesteps of the whole schedule, highest first; goes before `steps`.
    pub timesteps: Option<Vec<usize>>,
    /// Steps of the whole schedule, N ≥ 1.
    pub steps: Option<usize>,
    /// How many of them run.
    pub denoise: Option<Denoise>,
    /// Strength of classifier-free guidance, at least 0; 1 and below is none.
    pub guidance: Option<f64>,
    /// Overlap of regions in 0..=0.9, as a share of the region's side.
    pub overlap: f64,
    /// How overlapping regions are put together.
    pub fusion: Fusion,
    /// λ of the global structure prior, in 0..=1.
    pub gsp: f64,
    /// Share of the regional attention prior, in 0..=1.
    pub rap: f64,
    /// Weight of the regional semantic prior, in 0..=1.
    pub rsp: f64,
    /// Describes the regions.
    pub captioner: Arc<dyn Captioner>,
    /// Where large-scale colour and tone come from.
    pub colour_fix: ColourFix,
    /// Regions per denoiser call; the result does not depend on it.
    pub batch: Option<usize>,
    /// Side of a VAE tile's core in image pixels.
    pub tile: Option<usize>,
    /// Bytes that the job may take on its device; `None` for what is free.
    pub max_memory: Option<usize>,
    /// 1 to 100, for an output in JPEG.
    pub jpeg_quality: u8,
}

impl Settings {
    /// Whether regions may have conditions of their own.
    pub(crate) fn captions_differ(&self) -> bool {
        self.rsp > 0.0 && self.captioner.tells_regions_apart()
    }

    /// Whether a captioner's model is needed: for regions whose captions count, or for the prompt.
    pub(crate) fn asks_captioner(&self) -> bool {
        self.rsp > 0.0 || self.prompt.is_empty()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            size: SizeSpec::Scale(Defaults::SCALE),
            prompt: String::new(),
            negative_prompt: String::new(),
            seed: 0,
            sampler: None,
            eta: None,
            spacing: None,
            timesteps: None,
            steps: None,
            denoise: None,
            guidance: None,
            overlap: Defaults::OVERLAP,
            fusion: Fusion::Feather,
            gsp: Defaults::GSP,
            rap: Defaults::RAP,
            rsp: Defaults::RSP,
            captioner: Arc::new(Attributes),
            colour_fix: ColourFix::Wavelet,
            batch: None,
            tile: None,
            max_memory: None,
            jpeg_quality: crate::image::DEFAULT_QUALITY,
        }
    }
}
