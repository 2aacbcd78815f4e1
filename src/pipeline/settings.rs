//! Settings of a job and their defaults.

use std::sync::Arc;

use super::control::ControlUse;
use super::first::First;
use crate::{
    canvas::{Fusion, SizeSpec},
    caption::{Captioner, attributes::Attributes},
    model::text::PromptSyntax,
    ranges,
    sampler::{Denoise, SamplerKind, SigmaChoice, TimestepSpacing},
};

use super::{error::Error, mask::Mask, model_defaults::ModelDefaults, profile::ProfileRow};

/// Default values of all settings; a test checks the README's table of options against them.
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
    /// Share of the first network's picture that stays in the repaint.
    pub const FIRST_SHARE: f64 = 0.0;
    /// How much stronger the finest detail gets.
    pub const SHARPEN: f64 = 0.0;
    /// Standard deviation of the grain, in levels of 255.
    pub const GRAIN: f64 = 0.0;
    /// How far the output, reduced again, is the input.
    pub const FIDELITY: f64 = 0.0;
    /// How far lines are drawn along those of the input.
    pub const COHERENCE: f64 = 0.0;
    /// How far texture without lines is noise of the input's roughness.
    pub const TEXTURE: f64 = 0.0;
    /// λ of the global structure prior.
    pub const GSP: f64 = 0.2;
    /// Share of the regional attention prior in each cross-attention's output (eq. 8).
    pub const RAP: f64 = 0.5;
    /// Blend of a region's text condition between the prompt (0) and its caption (1).
    pub const RSP: f64 = 1.0;
    /// Share of the repainted picture in the output.
    pub const BLEND: f64 = 1.0;
    /// Side of a VAE tile's core in image pixels, for an autoencoder with a small receptive field.
    pub const TILE: u32 = 512;
    /// Side of a VAE tile's core for AutoencoderKL, whose receptive field is the whole tile and whose padding is wide.
    pub const TILE_KL: u32 = 1024;
    /// Batch size of LLaVA's captions.
    pub const CAPTION_BATCH: usize = crate::caption::llava::DEFAULT_ROWS;
    /// Top-p of LLaVA's sampling, for a temperature above 0.
    pub const CAPTION_TOP_P: f64 = 0.9;
    /// Regions per denoiser call on the CPU, where a batch saves little.
    pub const BATCH_CPU: usize = 4;
    /// Regions per denoiser call on a GPU.
    pub const BATCH_GPU: usize = 8;
    /// Disk in bytes for a VAE that computes a large picture exactly, on the CPU.
    pub const VAE_DISK_CPU: u64 = 8 << 30;
    /// The same on a GPU, where the way over the disk takes longer than the picture.
    pub const VAE_DISK_GPU: u64 = 0;
}

/// Source of the output's large-scale colour and tone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColourFix {
    /// The input: its low frequencies are those of the output.
    Wavelet,
    /// The input: its mean and its deviation, channel by channel, are those of the output.
    Adain,
    /// The input: as [`Wavelet`](Self::Wavelet), and then its distribution of colours in CIELAB, of lightness a fifth.
    Lab,
    /// The model.
    None,
}

impl ColourFix {
    /// Its name, in the output's metadata and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Wavelet => "wavelet",
            Self::Adain => "adain",
            Self::Lab => "lab",
            Self::None => "none",
        }
    }
}

/// Settings of a job. `None` stands for the model's default ([`ModelDefaults`](super::ModelDefaults)), or, if it has
/// none, for that of [`Defaults`].
///
/// Later versions may add fields: start from `Settings::default()` and change what you need.
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
    /// The row of a profile that these settings began with ([`Settings::start_from`]), which a plan names; it has no effect by
    /// itself.
    pub profile: Option<ProfileRow>,
    /// Size of the output.
    pub size: SizeSpec,
    /// The global prompt; may be empty.
    pub prompt: String,
    /// Negative prompt, used with guidance above 1; may be empty.
    pub negative_prompt: String,
    /// How both are read. Captions are always plain text.
    pub prompt_syntax: PromptSyntax,
    /// Seed of the noise field; the same seed gives the same picture.
    pub seed: u64,
    /// Sampler.
    pub sampler: Option<SamplerKind>,
    /// Share of fresh noise in each step, 0..=1, for DDIM and TCD.
    pub eta: Option<f64>,
    /// Spacing of the timesteps.
    pub spacing: Option<TimestepSpacing>,
    /// Noise levels of the solvers in σ.
    pub sigmas: Option<SigmaChoice>,
    /// Explicit timesteps of the whole schedule, highest first; takes precedence over `steps`.
    pub timesteps: Option<Vec<usize>>,
    /// Steps of the whole schedule, N ≥ 1.
    pub steps: Option<usize>,
    /// Part of the schedule that runs; [`Denoise::Steps`] of 0 repaints nothing, and the output is the first enlargement.
    pub denoise: Option<Denoise>,
    /// Strength of classifier-free guidance, at least 0; 1 and below is none.
    pub guidance: Option<f64>,
    /// Overlap of regions in 0..=0.9, as a share of the region's side.
    pub overlap: Option<f64>,
    /// Fusion of overlapping regions.
    pub fusion: Fusion,
    /// The grid of regions is moved from step to step, so that no seam stands at one place in all of them.
    pub tile_jitter: bool,
    /// λ of the global structure prior, in 0..=1.
    pub gsp: f64,
    /// Share of the regional attention prior, in 0..=1.
    pub rap: f64,
    /// Weight of the regional semantic prior, in 0..=1.
    pub rsp: f64,
    /// What makes the picture that is repainted.
    pub first: First,
    /// Captioner of the regions.
    pub captioner: Arc<dyn Captioner>,
    /// Uses of the engine's controls.
    pub controls: Vec<ControlUse>,
    /// Share of the first network's picture that stays in the repaint, in 0..=1; nothing where no network made it.
    pub first_share: Option<f64>,
    /// How much stronger the finest detail of the repaint gets, in 0..=2: the share of it that is added.
    pub sharpen: Option<f64>,
    /// Standard deviation of the grain in levels of 255, in 0..=20. What is flat in the input has none.
    pub grain: Option<f64>,
    /// How far the output, reduced again, is the input, in 0..=1; in full from twice the size, and nothing at the input's own.
    pub fidelity: Option<f64>,
    /// How far lines are drawn along those of the input, in 0..=1; in full from twice the size, and nothing at the input's own.
    pub coherence: Option<f64>,
    /// How far texture without lines (sand, gravel) is noise of the input's roughness in the place of the guess, in 0..=1; in
    /// full from twice the size, and nothing at the input's own.
    pub texture: Option<f64>,
    /// Source of large-scale colour and tone.
    pub colour_fix: ColourFix,
    /// Only the light of the repaint over the colours of the input.
    pub detail_only: bool,
    /// Share of the repainted picture in the output, in 0..=1; the rest is the resized input. At 0 the model does not run.
    pub blend: f64,
    /// What is repainted and what is kept; `None` repaints everything.
    pub mask: Option<Mask>,
    /// Regions per denoiser call; the result does not depend on it.
    pub batch: Option<usize>,
    /// Side of a VAE tile's core in image pixels.
    pub tile: Option<usize>,
    /// Disk in bytes that an autoencoder whose norms see the whole picture may use to compute several tiles exactly; where
    /// it would take more, its tiles share statistics measured on samples. 0 always samples.
    pub vae_disk: Option<u64>,
    /// Memory budget on the device in bytes; `None` for all free memory less a margin.
    pub max_memory: Option<usize>,
    /// JPEG quality, 1 to 100.
    pub jpeg_quality: u8,
    /// Bits per sample of the output: 8, 16, or 32 for floats; `None` for those of the picture.
    pub bit_depth: Option<u8>,
}

impl Settings {
    /// Puts what a profile's row sets into these settings ([`profile_row`](super::profile_row)).
    pub fn start_from(&mut self, row: &ProfileRow) {
        self.profile = Some(*row);
        self.denoise = row.denoise.or(self.denoise);
        self.overlap = row.overlap.or(self.overlap);
        self.gsp = row.gsp.unwrap_or(self.gsp);
        self.rap = row.rap.unwrap_or(self.rap);
        self.rsp = row.rsp.unwrap_or(self.rsp);
        self.blend = row.blend.unwrap_or(self.blend);
    }

    /// These settings, where they say nothing of what is done to decoded pixels, with the model's defaults or the program's: the
    /// output's record has them, whatever another model's are.
    #[must_use]
    pub(crate) fn with_finish(self, model: &ModelDefaults) -> Self {
        Self {
            first_share: self.first_share.or(model.first_share).or(Some(Defaults::FIRST_SHARE)),
            sharpen: self.sharpen.or(model.sharpen).or(Some(Defaults::SHARPEN)),
            grain: self.grain.or(model.grain).or(Some(Defaults::GRAIN)),
            fidelity: self.fidelity.or(model.fidelity).or(Some(Defaults::FIDELITY)),
            coherence: self.coherence.or(model.coherence).or(Some(Defaults::COHERENCE)),
            texture: self.texture.or(model.texture).or(Some(Defaults::TEXTURE)),
            ..self
        }
    }

    /// Checks the numbers that have a range of their own, whatever the model; a schedule and ControlNets check theirs.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first that is beyond it.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let share = |name, value| (name, Some(value), (0.0, 1.0));
        let numbers = [
            share("gsp", self.gsp),
            share("rap", self.rap),
            share("rsp", self.rsp),
            share("blend", self.blend),
            ("eta", self.eta, (0.0, 1.0)),
            ("overlap", self.overlap, ranges::OVERLAP),
            ("guidance", self.guidance, ranges::GUIDANCE),
            ("first_share", self.first_share, (0.0, 1.0)),
            ("sharpen", self.sharpen, ranges::SHARPEN),
            ("grain", self.grain, ranges::GRAIN),
            ("fidelity", self.fidelity, (0.0, 1.0)),
            ("coherence", self.coherence, (0.0, 1.0)),
            ("texture", self.texture, (0.0, 1.0)),
        ];
        for (name, value, (least, most)) in numbers {
            if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
                return Err(Error::Setting { name, value, least, most });
            }
        }
        Ok(())
    }

    /// True if the output has anything of the model.
    pub(crate) fn repaints(&self) -> bool {
        self.blend > 0.0 && self.denoise != Some(Denoise::Steps(0))
    }

    /// True if conditions may differ between regions.
    pub(crate) fn captions_differ(&self) -> bool {
        self.rsp > 0.0 && self.captioner.tells_regions_apart()
    }

    /// True if the captioner is needed, for the regions' conditions or for the prompt.
    pub(crate) fn asks_captioner(&self) -> bool {
        self.rsp > 0.0 || self.prompt.is_empty()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            profile: None,
            size: SizeSpec::Scale(Defaults::SCALE),
            prompt: String::new(),
            negative_prompt: String::new(),
            prompt_syntax: PromptSyntax::Plain,
            seed: 0,
            sampler: None,
            eta: None,
            spacing: None,
            sigmas: None,
            timesteps: None,
            steps: None,
            denoise: None,
            guidance: None,
            overlap: None,
            fusion: Fusion::Feather,
            tile_jitter: false,
            gsp: Defaults::GSP,
            rap: Defaults::RAP,
            rsp: Defaults::RSP,
            first: First::Own,
            captioner: Arc::new(Attributes),
            controls: Vec::new(),
            first_share: None,
            sharpen: None,
            grain: None,
            fidelity: None,
            coherence: None,
            texture: None,
            colour_fix: ColourFix::Wavelet,
            detail_only: false,
            blend: Defaults::BLEND,
            mask: None,
            batch: None,
            tile: None,
            vae_disk: None,
            max_memory: None,
            jpeg_quality: crate::image::DEFAULT_QUALITY,
            bit_depth: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_beyond_its_range_or_none_is_refused_by_its_name() {
        assert!(Settings::default().check().is_ok());
        type Put = fn(&mut Settings, f64);
        let set: [(&str, Put, f64); 13] = [
            ("gsp", |it, value| it.gsp = value, 1.0),
            ("rap", |it, value| it.rap = value, 1.0),
            ("rsp", |it, value| it.rsp = value, 1.0),
            ("blend", |it, value| it.blend = value, 1.0),
            ("eta", |it, value| it.eta = Some(value), 1.0),
            ("overlap", |it, value| it.overlap = Some(value), ranges::OVERLAP.1),
            ("guidance", |it, value| it.guidance = Some(value), ranges::GUIDANCE.1),
            ("first_share", |it, value| it.first_share = Some(value), 1.0),
            ("sharpen", |it, value| it.sharpen = Some(value), ranges::SHARPEN.1),
            ("fidelity", |it, value| it.fidelity = Some(value), 1.0),
            ("coherence", |it, value| it.coherence = Some(value), 1.0),
            ("texture", |it, value| it.texture = Some(value), 1.0),
            ("grain", |it, value| it.grain = Some(value), ranges::GRAIN.1),
        ];
        for (name, put, most) in set {
            let checked = |value| {
                let mut settings = Settings::default();
                put(&mut settings, value);
                settings.check()
            };
            assert!(checked(0.0).is_ok() && checked(most).is_ok(), "{name}");
            for value in [-0.01, most * 1.01, f64::NAN, f64::INFINITY] {
                let Err(Error::Setting { name: said, .. }) = checked(value) else {
                    panic!("{name}: {value} is taken");
                };
                assert_eq!(said, name);
            }
        }
    }
}
