//! Diffuse, then denoise by regions (METHOD §2): noise the canvas to the first timestep that runs,
//! and for each timestep predict every region's noise, fuse, apply the structure prior, step.

use std::path::Path;

use crate::{
    backend::ops::CropRect,
    canvas::{CanvasSize, Fuser, Latent, NoiseField, Region, fuse::Round},
    model::unet::Prior,
    priors::{attention::AttentionPrior, structure::StructurePrior},
};

use super::{
    Engine, Error, Plan, Progress, Settings, Stage, condition::Conditions, engine::UNetCall,
};

/// Draws of the noise field: the canvas, and the low-resolution latent of the attention prior.
const DRAW_CANVAS: u32 = 0;
const DRAW_LOW_RESOLUTION: u32 = 1;

/// What the sampling loop works on.
pub(super) struct Denoise<'a> {
    pub engine: &'a Engine,
    pub plan: &'a Plan,
    pub settings: &'a Settings,
    /// Where a canvas too large for memory is mapped.
    pub folder: &'a Path,
    pub conditions: &'a Conditions,
    /// The latent of the resized input, never noised.
    pub zl: &'a Latent,
    /// The latent of the input at the model's native size, for the attention prior.
    pub low_resolution: Option<&'a Latent>,
}

impl Denoise<'_> {
    /// Runs the schedule and returns the denoised canvas.
    pub fn run(&self, progress: &mut dyn Progress) -> Result<Latent, Error> {
        let Self { engine, plan, settings, zl, .. } = *self;
        let (schedule, steps) = (&engine.schedule, &plan.steps);
        let noise = NoiseField::new(settings.seed);
        let structure = StructurePrior::new(settings.gsp)?;

        let mut z = self.diffuse(zl, plan.latent(self.folder)?, steps[0].t, &noise, DRAW_CANVAS)?;
        let mut fuser = Fuser::new(plan.latent(self.folder)?, settings.fusion);

        progress.begin(Stage::Denoise, plan.grid.len() * steps.len());
        for (index, step) in steps.iter().enumerate() {
            let attention = self.attention_prior(step.t, &noise)?;
            let mut round = fuser.begin(&plan.grid)?;
            self.predict_regions(&z, step.t, attention.as_ref(), &mut round, progress)?;
            let eps = round.finish()?;
            schedule.output_to_eps(step.t, z.as_slice(), eps.as_mut_slice())?;
            structure.apply(
                z.as_mut_slice(),
                eps.as_slice(),
                zl.as_slice(),
                schedule.abar(step.t)?,
                structure.lambda(index, steps.len()),
                zl.width(),
                zl.channels(),
            )?;
            // The sampler is deterministic (η = 0): it asks for no fresh noise.
            engine.sampler.update(schedule, step)?.apply(z.as_mut_slice(), eps.as_slice(), None)?;
        }
        Ok(z)
    }

    /// Predicts the noise of every region, batch by batch, into `round`.
    fn predict_regions(
        &self,
        z: &Latent,
        timestep: usize,
        prior: Option<&AttentionPrior>,
        round: &mut Round<'_>,
        progress: &mut dyn Progress,
    ) -> Result<(), Error> {
        let Self { engine, plan, settings, zl, .. } = *self;
        let side = plan.grid.region_side();
        let size = side * side * zl.channels();
        let regions: Vec<Region> = plan.grid.regions().collect();
        for batch in regions.chunks(plan.batch) {
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            let mut z_batch = vec![0.0; size * batch.len()];
            let mut zl_batch = vec![0.0; size * batch.len()];
            for (slot, region) in batch.iter().enumerate() {
                z.gather(region, &mut z_batch[slot * size..][..size])?;
                zl.gather(region, &mut zl_batch[slot * size..][..size])?;
            }
            let layers = prior
                .map(|prior| {
                    let factor = engine.shape().factor;
                    let rects: Vec<_> =
                        batch.iter().map(|region| rect(region, &plan.canvas, factor)).collect();
                    prior.for_regions(&rects, &engine.unet.cross_attention_sizes(side, side))
                })
                .transpose()?;
            let eps = engine.predict(
                &UNetCall {
                    z: &z_batch,
                    zl: &zl_batch,
                    batch: batch.len(),
                    height: side,
                    width: side,
                    timestep,
                },
                &self.conditions.of_regions(batch)?,
                match &layers {
                    Some(layers) => Prior::Blend { layers, weight: settings.rap },
                    None => Prior::None,
                },
            )?;
            if !eps.iter().all(|value| value.is_finite()) {
                return Err(Error::NonFinite(Stage::Denoise));
            }
            for (region, eps) in batch.iter().zip(eps.chunks_exact(size)) {
                round.add(region.index, eps)?;
            }
            progress.advance(batch.len());
        }
        Ok(())
    }

    /// The low-resolution pass of one timestep (METHOD §4): what every cross-attention says about
    /// the whole picture under the global prompt.
    fn attention_prior(
        &self,
        timestep: usize,
        noise: &NoiseField,
    ) -> Result<Option<AttentionPrior>, Error> {
        let Some(low_resolution) = self.low_resolution else { return Ok(None) };
        let (height, width) = (low_resolution.height(), low_resolution.width());
        let z = Latent::in_memory(height, width, low_resolution.channels())?;
        let z = self.diffuse(low_resolution, z, timestep, noise, DRAW_LOW_RESOLUTION)?;
        let mut layers = Vec::new();
        self.engine.predict(
            &UNetCall {
                z: z.as_slice(),
                zl: low_resolution.as_slice(),
                batch: 1,
                height,
                width,
                timestep,
            },
            &self.conditions.global()?,
            Prior::Record(&mut layers),
        )?;
        Ok(Some(AttentionPrior::new(layers)?))
    }

    /// `z = √ā_t·zL + √(1−ā_t)·n` over the whole of `zl` (METHOD §2, step 2), into `z`.
    fn diffuse(
        &self,
        zl: &Latent,
        mut z: Latent,
        timestep: usize,
        noise: &NoiseField,
        draw: u32,
    ) -> Result<Latent, Error> {
        let (height, width, channels) = (zl.height(), zl.width(), zl.channels());
        noise.fill(draw, 0..height, 0..width, channels, z.as_mut_slice())?;
        self.engine.schedule.add_noise(timestep, zl.as_slice(), z.as_mut_slice())?;
        Ok(z)
    }
}

/// A region's place relative to the picture, which the low-resolution pass sees without the canvas's
/// padding: a region that reaches into the padding ends past 1.
fn rect(region: &Region, canvas: &CanvasSize, factor: usize) -> CropRect {
    let (height, width) = (canvas.height as f64, canvas.width as f64);
    let pixels = |latent: usize| (latent * factor) as f64;
    CropRect {
        top: pixels(region.y) / height,
        left: pixels(region.x) / width,
        height: pixels(region.height) / height,
        width: pixels(region.width) / width,
    }
}
