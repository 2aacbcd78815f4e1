//! Plan of a job, computed before it runs: sizes, regions, timesteps, tiles, memory.

mod call;
mod display;
pub mod first;
mod first_needs;
pub mod geometry;
mod json;
mod layerwise;
pub(super) mod mask;
pub mod memory;
mod needs;
mod pass;
pub mod preview;
pub(super) mod regions;
pub mod samples;
pub mod sampling;
mod search;
pub mod tiles;
mod traced;
pub mod vae_tiling;
mod work;

use std::sync::Arc;

use first::{FirstDraft, FirstPlan};
use geometry::Geometry;
use mask::MaskPlan;
use memory::MemoryPlan;
use needs::Draft;
use regions::StepRegions;
use sampling::SamplingPlan;
use tiles::Span;
use vae_tiling::VaeTiling;
pub use work::WorkAmounts;

use crate::image::PictureShape;

use super::{
    control::ControlUse,
    engine::Engine,
    error::Error,
    finish::{Finish, PIXEL_BYTES},
    model::Model,
    profile::ProfileRow,
    progress::{Outline, Stage},
    prompts::Prompts,
    runner::Compute as _,
    settings::Settings,
    work::files::WorkLayout,
};

/// The plan of a job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Sizes and places: input, canvas, regions.
    pub geometry: Geometry,
    /// First enlargement by a network, if there is one.
    pub first: Option<FirstPlan>,
    /// Sampler, steps and guidance.
    pub sampling: SamplingPlan,
    /// The most chunks of tokens of a text: one, but for weighted prompts.
    pub text_chunks: usize,
    /// The row of a profile that the settings began with.
    pub profile: Option<ProfileRow>,
    /// The mask on the canvas, if there is one.
    pub(crate) mask: Option<MaskPlan>,
    /// The regions of each step.
    pub(crate) regions: Vec<Arc<StepRegions>>,
    /// Memory of the stages, and the batch and tile chosen for it.
    pub memory: MemoryPlan,
    /// VAE tiles from top to bottom, in latent pixels.
    pub tile_rows: Vec<Span>,
    /// VAE tiles from left to right, in latent pixels.
    pub tile_columns: Vec<Span>,
    /// How the autoencoder computes several tiles.
    pub vae_tiling: VaeTiling,
    /// Height and width of the attention prior in each layer of a region's call.
    pub prior_sizes: Vec<(usize, usize)>,
    /// Rows are kept as they are decoded until all are there, in f32, because the colour fix compares whole pictures.
    pub keeps_decoded: bool,
    /// False where the output is the resized input alone, and no network runs.
    pub repaints: bool,
    /// The controls that work, each as users read it.
    pub controls: Vec<String>,
    /// What the networks compute in each stage.
    pub work: WorkAmounts,
    /// Backend and precision (`Runner::computes_on`).
    pub computes_on: String,
    /// Names of the devices that share the job.
    pub devices: Vec<String>,
}

impl Plan {
    /// Plans the job of enlarging an `input`.
    ///
    /// # Errors
    /// A setting beyond its range, a size of zero or beyond the address range, errors of [`SamplingPlan::resolve`], or insufficient
    /// memory.
    pub(crate) fn new(
        engine: &Engine,
        input: PictureShape,
        settings: &Settings,
    ) -> Result<Self, Error> {
        settings.check()?;
        Self::with(engine, Geometry::new(&engine.model, input, settings)?, settings)
    }

    /// Plans the job of making a picture of this width and height from noise.
    ///
    /// # Errors
    /// A size that the model cannot make ([`Geometry::of_noise`]), or as [`Plan::new`].
    pub(crate) fn of_noise(
        engine: &Engine,
        size: (u32, u32),
        settings: &Settings,
    ) -> Result<Self, Error> {
        settings.check()?;
        Self::with(engine, Geometry::of_noise(&engine.model, size, settings)?, settings)
    }

    fn with(engine: &Engine, geometry: Geometry, settings: &Settings) -> Result<Self, Error> {
        let Engine { model, runner, .. } = engine;
        let (height, width) = geometry.grid.region_size();
        let tokens = model.shape().tokens((height, width));
        let schedule = model.schedule.clone().with_tokens(tokens);
        let sampling =
            SamplingPlan::resolve(&model.scheduler, &schedule, &model.defaults, settings)?;
        let mut sampling = if model.blueprints.denoiser.embeds_guidance() {
            sampling.with_embedded_guidance(&model.defaults, settings)
        } else {
            sampling
        };
        let wanted = (sampling.guidance.is_some(), settings.captions_differ());
        let text_chunks = Prompts::new(settings)?.chunks(&model.blueprints.text, wanted)?;
        let controls = controls(model, settings, sampling.steps.len())?;
        let first = geometry.first(model, settings);
        let first = first.map(|first| FirstDraft::new(first, runner.device(), &geometry));
        let first = first.transpose()?;
        let vae_tiling = VaeTiling::choose(model, runner, settings, &geometry)?;
        let mask = settings.mask.as_ref().map(|mask| MaskPlan::new(mask, &geometry)).transpose()?;
        let regions = regions::of_steps(settings, &geometry, &sampling, mask.as_ref());
        let (memory, work) = {
            let sizes = (&geometry, vae_tiling, text_chunks);
            let sampled = (&sampling, regions.as_slice(), mask.as_ref());
            let draft = Draft::new(engine, settings, sizes, sampled, first.as_ref());
            let memory = draft.plan()?;
            let work = draft.work(&memory)?;
            (memory, work)
        };
        let keeps_everything = mask.as_ref().is_some_and(|mask| mask.repainted() == 0);
        let repaints = settings.repaints() && !keeps_everything;
        if !settings.repaints() {
            sampling.notes.push(not_repainted(settings, first.as_ref()));
            let Settings { first_share, sharpen, grain, fidelity, coherence, texture, .. } =
                *settings;
            let amounts = [first_share, sharpen, grain, fidelity, coherence, texture];
            if amounts.iter().flatten().any(|amount| *amount > 0.0) {
                let note = "first-share, coherence, texture, sharpening, grain and fidelity are the repaint's: \
                            they have no effect here";
                sampling.notes.push(note.to_owned());
            }
        } else if keeps_everything {
            sampling.notes.push("the mask keeps everything: the model does not run".to_owned());
        }
        Ok(Self {
            first: first.map(|first| first.plan),
            sampling,
            text_chunks,
            profile: settings.profile,
            mask,
            regions,
            tile_rows: geometry.tiles(geometry.canvas.latent_height, memory.tile),
            tile_columns: geometry.tiles(geometry.canvas.latent_width, memory.tile),
            vae_tiling,
            memory,
            prior_sizes: model.blueprints.denoiser.prior_sizes(height, width),
            keeps_decoded: Finish::new(settings, &geometry).needs_whole(),
            repaints,
            controls,
            work,
            computes_on: runner.computes_on(),
            devices: engine.devices(),
            geometry,
        })
    }

    /// Denoiser calls counted in regions, those of the low-resolution pass included. With guidance every
    /// region counts twice: for the negative prompt and for its own.
    #[must_use]
    pub fn denoiser_calls(&self) -> usize {
        let Self { geometry, sampling, .. } = self;
        if !self.repaints {
            return 0;
        }
        let low_resolution = usize::from(geometry.low_resolution.is_some()) * sampling.steps.len();
        let calls = regions::in_all(&self.regions) + low_resolution;
        calls * if sampling.guidance.is_some() { 2 } else { 1 }
    }

    /// Regions that run in a step, the most of any: those that a mask leaves of the canvas's.
    #[must_use]
    pub fn running(&self) -> usize {
        if self.repaints { regions::most(&self.regions) } else { 0 }
    }

    /// The job as its progress is told.
    #[must_use]
    pub fn outline(&self) -> Outline {
        let Self { geometry, sampling, work, .. } = self;
        let (regions, captions) = (self.running(), regions::captioned(&self.regions).len());
        let (steps, share) = if self.repaints { (sampling.steps.len(), 1.0) } else { (0, 0.0) };
        Outline {
            width: geometry.canvas.width as u32,
            height: geometry.canvas.height as u32,
            regions,
            steps,
            work: [
                (Stage::Caption, if self.repaints { captions as f64 } else { 0.0 }),
                (Stage::Enlarge, work.enlarge),
                (Stage::Encode, share * work.encode),
                (Stage::Denoise, share * work.denoise),
                (Stage::Decode, share * work.decode),
            ],
        }
    }

    /// VAE tiles of the canvas.
    #[must_use]
    pub fn tiles(&self) -> usize {
        self.tile_rows.len() * self.tile_columns.len()
    }

    /// Area in latent pixels that is sampled for the statistics of VAE tiles: that of a tile.
    pub(crate) fn sampled_area(&self) -> usize {
        tiles::largest_area(&self.tile_rows, &self.tile_columns)
    }

    /// Share of the canvas on which the statistics of its VAE tiles are measured; `None` where none are.
    #[must_use]
    pub fn measured_share(&self) -> Option<f64> {
        let canvas = self.geometry.canvas;
        let (height, width) = (canvas.latent_height, canvas.latent_width);
        (self.vae_tiling == VaeTiling::Sampled && self.tiles() > 1).then(|| {
            let samples = samples::samples((height, width), self.sampled_area(), 1);
            let measured: usize =
                samples.iter().map(|one| one.part.rows.len() * one.part.columns.len()).sum();
            measured as f64 / (height * width) as f64
        })
    }

    /// Bytes on disk of the maps of an autoencoder that computes several tiles layer by layer; else 0.
    #[must_use]
    pub fn map_bytes(&self) -> u64 {
        match self.vae_tiling {
            VaeTiling::Layerwise { map_bytes } if self.tiles() > 1 => map_bytes,
            _ => 0,
        }
    }

    /// Bytes on disk while the job works: the work folder, with the output's rows at 8 bits without alpha and the maps of
    /// an autoencoder that computes layer by layer, and the planes of a large input.
    #[must_use]
    pub fn work_bytes(&self) -> u64 {
        self.layout(3 * self.geometry.canvas.width).bytes() + self.geometry.input.file_bytes()
    }

    /// The files of the work folder; `row_bytes` is the length of one row of the output's samples.
    pub(crate) fn layout(&self, row_bytes: usize) -> WorkLayout {
        let Geometry { canvas, grid, low_resolution, shape, generated, .. } = &self.geometry;
        let decoded = (canvas.height * canvas.width * PIXEL_BYTES) as u64;
        WorkLayout {
            canvas: (canvas.latent_height, canvas.latent_width, shape.channels),
            regions: (regions::most(&self.regions).max(1), grid.region_size()),
            history: self.sampling.history(),
            low_resolution: *low_resolution,
            enlarged: (self.first.as_ref()).map(|_| (canvas.height, canvas.width * PIXEL_BYTES)),
            enlarging_bytes: (self.first.as_ref())
                .map_or(0, |first| first.disk_bytes(self.memory.first_tile)),
            rows: (canvas.height, row_bytes),
            decoded_bytes: if self.keeps_decoded { decoded } else { 0 },
            map_bytes: self.map_bytes(),
            // Nothing is encoded for a picture that is made from noise.
            tiles: if *generated { 0 } else { self.tiles() },
            steps: self.sampling.steps.len(),
        }
    }
}

/// The controls of a job in words: name, kind, scale, and the steps in which it works where these are not all.
///
/// # Errors
/// [`Error::Control`]: one that the model does not have, or a setting that it cannot have.
fn controls(model: &Model, settings: &Settings, steps: usize) -> Result<Vec<String>, Error> {
    let describe = |of: &ControlUse| {
        let names = model.controls();
        let Some((name, control)) =
            names.get(of.control).zip(model.blueprints.controls.get(of.control))
        else {
            let reason = format!("the model has {} controls", names.len());
            return Err(Error::Control { control: of.control.to_string(), reason });
        };
        let refuse = |reason: String| Error::Control { control: name.clone(), reason };
        of.fault().map_or(Ok(()), |fault| Err(refuse(fault)))?;
        control.check_kind(of.kind).map_err(|error| refuse(error.to_string()))?;
        let mut works = (0..steps).filter(|&index| of.works_in(index, steps));
        let (first, last) = (works.next(), works.next_back());
        let of_picture =
            of.picture.as_ref().map_or_else(String::new, |own| format!(" of {}", own.name));
        let when = match (first, last.or(first)) {
            (Some(0), Some(last)) if last + 1 == steps => String::new(),
            (Some(first), Some(last)) => {
                format!(", predictions {} to {} of {steps}", first + 1, last + 1)
            }
            _ => ", in no step".to_owned(),
        };
        Ok(format!("{name}: {}{of_picture}, scale {}{when}", of.kind.name(), of.scale))
    };
    settings.controls.iter().map(describe).collect()
}

/// The note on a job whose output has nothing of the model.
fn not_repainted(settings: &Settings, first: Option<&FirstDraft>) -> String {
    let why = if settings.blend > 0.0 { "without steps" } else { "with a blend of 0" };
    match first {
        None => format!("{why} the output is the resized input alone: the model does not run"),
        Some(first) => format!(
            "{why} the output is the picture by {} alone: the diffusion model does not run",
            first.enlarger.name()
        ),
    }
}
