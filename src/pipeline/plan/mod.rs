//! Plan of a job, computed before it runs: sizes, regions, timesteps, tiles, memory.

mod display;
pub mod geometry;
mod layerwise;
pub mod memory;
mod needs;
pub mod preview;
pub mod samples;
pub mod sampling;
mod search;
pub mod tiles;
pub mod vae_tiling;
mod work;

use geometry::Geometry;
use memory::MemoryPlan;
use needs::Draft;
use sampling::SamplingPlan;
use tiles::Span;
use vae_tiling::VaeTiling;
pub use work::WorkAmounts;

use crate::image::PictureShape;

use super::{
    engine::Engine,
    error::Error,
    finish::{Finish, PIXEL_BYTES},
    progress::{Outline, Stage},
    settings::Settings,
    work::files::WorkLayout,
};

/// The plan of a job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Sizes and places: input, canvas, regions.
    pub geometry: Geometry,
    /// Sampler, steps and guidance.
    pub sampling: SamplingPlan,
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
    /// A size of zero or beyond the address range, errors of [`SamplingPlan::resolve`], or insufficient
    /// memory.
    pub(crate) fn new(
        engine: &Engine,
        input: PictureShape,
        settings: &Settings,
    ) -> Result<Self, Error> {
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
        let vae_tiling = VaeTiling::choose(model, runner, settings, &geometry)?;
        let (memory, work) = {
            let draft = Draft::new(engine, settings, (&geometry, vae_tiling), &sampling);
            let memory = draft.plan()?;
            let work = draft.work(&memory)?;
            (memory, work)
        };
        let repaints = settings.repaints();
        if !repaints {
            let note = "a blend of 0 is the resized input alone: the model does not run";
            sampling.notes.push(note.to_owned());
        }
        Ok(Self {
            sampling,
            tile_rows: geometry.tiles(geometry.canvas.latent_height, memory.tile),
            tile_columns: geometry.tiles(geometry.canvas.latent_width, memory.tile),
            vae_tiling,
            memory,
            prior_sizes: model.blueprints.denoiser.prior_sizes(height, width),
            keeps_decoded: Finish::new(settings).needs_whole(),
            repaints,
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
        let per_step = geometry.grid.len() + usize::from(geometry.low_resolution.is_some());
        per_step * sampling.steps.len() * if sampling.guidance.is_some() { 2 } else { 1 }
    }

    /// The job as its progress is told.
    #[must_use]
    pub fn outline(&self) -> Outline {
        let Self { geometry, sampling, work, .. } = self;
        let (regions, steps, share) = match self.repaints {
            true => (geometry.grid.len(), sampling.steps.len(), 1.0),
            false => (0, 0, 0.0),
        };
        Outline {
            width: geometry.canvas.width as u32,
            height: geometry.canvas.height as u32,
            regions,
            steps,
            work: [
                (Stage::Caption, regions as f64),
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
            regions: (grid.len(), grid.region_size()),
            history: self.sampling.history(),
            low_resolution: *low_resolution,
            rows: (canvas.height, row_bytes),
            decoded_bytes: if self.keeps_decoded { decoded } else { 0 },
            map_bytes: self.map_bytes(),
            // Nothing is encoded for a picture that is made from noise.
            tiles: if *generated { 0 } else { self.tiles() },
            steps: self.sampling.steps.len(),
        }
    }
}
