//! What a job will do, worked out before it does anything: sizes, regions, timesteps, tiles, and
//! the memory that follows from them.

use std::fmt;

use crate::{
    canvas::{CanvasSize, RegionGrid, target_size},
    units,
};

use super::{
    Engine, Error, MemoryPlan, ModelShape, Sampling, Settings,
    memory::Job,
    tiles::{Padding, Span, spans},
    work::Layout,
};

/// Padding for an autoencoder that looks at the whole tile (AutoencoderKL): no padding makes such a tile
/// exact, but its norms share statistics ([`super::statistics`]), and wide padding brings what its attention
/// sees close to what its neighbours' sees. Past the canvas there are no neighbours, only the zeros of
/// its convolutions to be kept away.
const GLOBAL_VAE_PADDING: Padding = Padding { inside: 32, border: 8 };

/// The largest output: 131 072², far beyond any camera times any scale, and a canvas that still
/// fits a disk. More is a slip of the finger.
const MAX_OUTPUT_PIXELS: u64 = 1 << 34;

/// A job, planned.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Input size in pixels, width and height.
    pub input: (u32, u32),
    /// The canvas, and through it the output's exact size.
    pub canvas: CanvasSize,
    /// Regions, in latent pixels.
    pub grid: RegionGrid,
    /// Sampler, steps and guidance.
    pub sampling: Sampling,
    /// What each stage takes of memory, and batch and tile as chosen from it.
    pub memory: MemoryPlan,
    /// VAE tiles from top to bottom, in latent pixels.
    pub tile_rows: Vec<Span>,
    /// VAE tiles from left to right, in latent pixels.
    pub tile_columns: Vec<Span>,
    /// Padding of VAE tiles.
    pub vae_padding: Padding,
    /// Height and width in latent pixels of the low-resolution pass, if there is one.
    pub low_resolution: Option<(usize, usize)>,
    /// What computes, and in what precision ([`Engine::computes_on`]).
    pub computes_on: String,
    shape: ModelShape,
}

impl Plan {
    /// Plans the job of enlarging an `input` of width × height pixels.
    ///
    /// # Errors
    /// A size of zero or beyond what can be addressed, what [`Sampling::resolve`] refuses, or a job for
    /// which there is not enough memory.
    pub fn new(engine: &Engine, input: (u32, u32), settings: &Settings) -> Result<Self, Error> {
        let shape = engine.shape();
        let (width, height) = target_size(input.0, input.1, settings.size)?;
        if u64::from(width) * u64::from(height) > MAX_OUTPUT_PIXELS {
            return Err(Error::OutputTooLarge { width, height });
        }
        let canvas = CanvasSize::for_pixels(width, height, shape.factor)?;
        let overlap = (settings.overlap * shape.region as f64).round() as usize;
        let grid = RegionGrid::new(
            canvas.latent_height,
            canvas.latent_width,
            shape.region,
            overlap.min(shape.region - 1),
        )?;
        let sampling =
            Sampling::resolve(&engine.scheduler, &engine.schedule, &engine.defaults, settings)?;
        let everywhere = |pad| Padding { inside: pad, border: pad };
        let vae_padding = engine.vae_context().map_or(GLOBAL_VAE_PADDING, everywhere);
        let low_resolution = (settings.rap > 0.0).then(|| native_size(input, shape));
        let job = Job {
            engine,
            settings,
            input,
            canvas,
            grid: &grid,
            guided: sampling.guidance.is_some(),
            low_resolution,
            vae_padding,
        };
        let memory = job.plan()?;
        let core = (memory.tile / shape.factor).max(1);
        Ok(Self {
            input,
            canvas,
            grid,
            sampling,
            tile_rows: spans(canvas.latent_height, core, vae_padding),
            tile_columns: spans(canvas.latent_width, core, vae_padding),
            memory,
            vae_padding,
            low_resolution,
            computes_on: engine.computes_on(),
            shape,
        })
    }

    /// UNet calls counted in regions, those of the low-resolution pass included. With guidance every
    /// region counts twice: for the negative prompt and for its own.
    #[must_use]
    pub fn unet_calls(&self) -> usize {
        let per_step = self.grid.len() + usize::from(self.low_resolution.is_some());
        per_step * self.sampling.steps.len() * if self.sampling.guidance.is_some() { 2 } else { 1 }
    }

    /// Bytes on the disk of the canvases that a job keeps while it runs, the output's rows (at 8 bits
    /// without alpha) included.
    #[must_use]
    pub fn work_bytes(&self) -> u64 {
        self.layout(3 * self.canvas.width).bytes()
    }

    /// The files of the work folder; `row_bytes` is the length of one row of the output's samples.
    pub(super) fn layout(&self, row_bytes: usize) -> Layout {
        Layout {
            canvas: (self.canvas.latent_height, self.canvas.latent_width, self.shape.channels),
            regions: (self.grid.len(), self.grid.region_side()),
            low_resolution: self.low_resolution,
            rows: (self.canvas.height, row_bytes),
        }
    }
}

/// Height and width in latent pixels of the whole picture at about the model's native pixel count,
/// in its own aspect ratio as far as multiples of the UNet's stride allow (METHOD §4).
fn native_size((width, height): (u32, u32), shape: ModelShape) -> (usize, usize) {
    let ModelShape { region, stride, .. } = shape;
    let aspect = f64::from(width) / f64::from(height);
    let side = |length: f64| {
        let strides = (length / stride as f64).round() as usize;
        stride * strides.clamp(1, 4 * region / stride)
    };
    (side(region as f64 / aspect.sqrt()), side(region as f64 * aspect.sqrt()))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { input, canvas, grid, sampling, .. } = self;
        let side = grid.region_side();
        let factor = self.shape.factor;
        writeln!(f, "input         {} × {} px", input.0, input.1)?;
        writeln!(f, "output        {} × {} px", canvas.width, canvas.height)?;
        writeln!(
            f,
            "canvas        {} × {} latent px, {} channels",
            canvas.latent_width, canvas.latent_height, self.shape.channels
        )?;
        writeln!(
            f,
            "regions       {} ({} × {}) of {} px, overlap {} px",
            grid.len(),
            grid.xs().len(),
            grid.ys().len(),
            side * factor,
            grid.overlap() * factor
        )?;
        write!(f, "sampler       {}", sampling.sampler)?;
        if let Some(spacing) = sampling.spacing {
            write!(f, ", {} timesteps", spacing.name())?;
        }
        if let Some(eta) = sampling.eta {
            write!(f, ", eta {eta}")?;
        }
        writeln!(f)?;
        let timesteps: Vec<String> = (sampling.steps.iter())
            .map(|step| format!("{:.*}", usize::from(step.t.fract() != 0.0), step.t))
            .collect();
        writeln!(
            f,
            "steps         {} of {}, at t = {}",
            sampling.steps.len(),
            sampling.schedule_steps,
            timesteps.join(", ")
        )?;
        let batch = self.memory.batch.min(grid.len());
        match sampling.guidance {
            Some(guidance) => {
                writeln!(f, "guidance      {guidance}")?;
                let calls = self.unet_calls();
                writeln!(f, "UNet calls    {calls} regions in batches of 2 × {batch}")?;
            }
            None => {
                writeln!(f, "guidance      none")?;
                writeln!(f, "UNet calls    {} regions in batches of {batch}", self.unet_calls())?;
            }
        }
        for note in &sampling.notes {
            writeln!(f, "note          {note}")?;
        }
        writeln!(
            f,
            "VAE tiles     {} ({} × {}) of {} px",
            self.tile_rows.len() * self.tile_columns.len(),
            self.tile_columns.len(),
            self.tile_rows.len(),
            self.memory.tile
        )?;
        writeln!(f, "computes on   {}", self.computes_on)?;
        writeln!(f, "disk          {} while it works", units::bytes(self.work_bytes()))?;
        self.memory.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_low_resolution_pass_keeps_the_aspect_ratio_at_the_native_pixel_count() {
        let size = |width, height, region| {
            let shape =
                ModelShape { factor: 4, channels: 4, region, stride: 4, sees_low_resolution: true };
            native_size((width, height), shape)
        };
        assert_eq!(size(512, 512, 64), (64, 64));
        assert_eq!(size(640, 480, 64), (56, 72));
        assert_eq!(size(480, 640, 128), (148, 112));
        // A strip stays a strip that a UNet can take.
        assert_eq!(size(10_000, 1, 64), (4, 256));
        assert_eq!(size(1, 10_000, 64), (256, 4));
    }
}
