//! Diffuse, then denoise by regions (METHOD §2): noise the canvas to the first timestep that runs,
//! and for each timestep predict every region's noise, fuse, apply the structure prior, step.

use std::{cell::Cell, path::Path};

use candle_core::Tensor;

use crate::{
    backend::ops::CropRect,
    canvas::{CanvasSize, Fuser, Latent, NoiseField, Region, fuse::Round},
    model::unet::Prior,
    priors::{attention::AttentionPrior, structure::StructurePrior},
    sampler::{Step, Update},
};

use super::{
    Engine, Error, Plan, Progress, Settings, Stage, condition::Conditions, engine::UNetCall,
    memory::retry_smaller,
};

/// Draws of the noise field: the canvas, the low-resolution latent of the attention prior, and from
/// there on one for every step of the whole schedule, so that a step's noise does not depend on how
/// many steps ran before it.
const DRAW_CANVAS: u32 = 0;
const DRAW_LOW_RESOLUTION: u32 = 1;
const DRAW_STEPS: u32 = 2;

/// Values of fresh noise that are drawn at a time, in whole rows.
const NOISE_BAND: usize = 1 << 20;

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
    /// Regions per UNet call: the plan's, or what the device turned out to have memory for.
    pub batch: Cell<usize>,
}

impl Denoise<'_> {
    /// Runs the schedule and returns the denoised canvas.
    pub fn run(&self, progress: &mut dyn Progress) -> Result<Latent, Error> {
        let Self { engine, plan, settings, zl, .. } = *self;
        let (schedule, steps) = (&engine.schedule, &plan.sampling.steps);
        let noise = NoiseField::new(settings.seed);
        let structure = StructurePrior::new(settings.gsp)?;

        let mut z = self.diffuse(zl, plan.latent(self.folder)?, steps[0].t, &noise, DRAW_CANVAS)?;
        let mut fuser = Fuser::new(plan.latent(self.folder)?, settings.fusion);

        progress.begin(Stage::Denoise, plan.grid.len() * steps.len());
        for (index, (step, update)) in steps.iter().zip(&plan.sampling.updates).enumerate() {
            let attention = self.attention_prior(step.t, &noise)?;
            let mut round = fuser.begin(&plan.grid)?;
            self.predict_regions(&z, step.t, &attention, &mut round, progress)?;
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
            take_step(&mut z, eps.as_slice(), step, update, &noise)?;
        }
        Ok(z)
    }

    /// Predicts the noise of every region, batch by batch, into `round`.
    fn predict_regions(
        &self,
        z: &Latent,
        timestep: f64,
        priors: &[AttentionPrior],
        round: &mut Round<'_>,
        progress: &mut dyn Progress,
    ) -> Result<(), Error> {
        let size = self.plan.grid.region_side().pow(2) * self.zl.channels();
        let regions: Vec<Region> = self.plan.grid.regions().collect();
        let mut rest = &regions[..];
        while !rest.is_empty() {
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            let (batch, eps) = retry_smaller(&self.batch, |count| {
                let batch = &rest[..count.min(rest.len())];
                Ok((batch, self.predict_batch(z, timestep, priors, batch)?))
            })?;
            if !eps.iter().all(|value| value.is_finite()) {
                return Err(Error::NonFinite(Stage::Denoise));
            }
            for (region, eps) in batch.iter().zip(eps.chunks_exact(size)) {
                round.add(region.index, eps)?;
            }
            progress.advance(batch.len());
            rest = &rest[batch.len()..];
        }
        Ok(())
    }

    /// The predictions of a batch of regions, one after the other.
    fn predict_batch(
        &self,
        z: &Latent,
        timestep: f64,
        priors: &[AttentionPrior],
        batch: &[Region],
    ) -> Result<Vec<f32>, Error> {
        let Self { engine, plan, settings, zl, .. } = *self;
        let side = plan.grid.region_side();
        let size = side * side * zl.channels();
        let mut z_batch = vec![0.0; size * batch.len()];
        let mut zl_batch = vec![0.0; size * batch.len()];
        for (slot, region) in batch.iter().enumerate() {
            z.gather(region, &mut z_batch[slot * size..][..size])?;
            zl.gather(region, &mut zl_batch[slot * size..][..size])?;
        }
        let layers = self.prior_layers(batch, priors)?;
        engine.predict(
            &UNetCall {
                z: &z_batch,
                zl: &zl_batch,
                batch: batch.len(),
                height: side,
                width: side,
                timestep,
                guidance: plan.sampling.guidance,
            },
            &self.conditions.of_regions(batch)?,
            match &layers {
                Some(layers) => Prior::Blend { layers, weight: settings.rap },
                None => Prior::None,
            },
        )
    }

    /// The priors of a batch of regions, one tensor for each cross-attention; with guidance, those of
    /// the negative half, then those of the prompt's.
    fn prior_layers(
        &self,
        batch: &[Region],
        priors: &[AttentionPrior],
    ) -> Result<Option<Vec<Tensor>>, Error> {
        if priors.is_empty() {
            return Ok(None);
        }
        let Self { engine, plan, .. } = *self;
        let side = plan.grid.region_side();
        let factor = engine.shape().factor;
        let sizes = engine.unet_config().cross_attention_sizes(side, side);
        let rects: Vec<_> = batch.iter().map(|region| rect(region, &plan.canvas, factor)).collect();
        let halves = (priors.iter())
            .map(|prior| prior.for_regions(&rects, &sizes))
            .collect::<Result<Vec<_>, _>>()?;
        let layers = (0..sizes.len()).map(|layer| {
            Tensor::cat(&halves.iter().map(|half| &half[layer]).collect::<Vec<_>>(), 0)
        });
        Ok(Some(layers.collect::<Result<_, _>>()?))
    }

    /// The low-resolution pass of one timestep (METHOD §4): what every cross-attention says about
    /// the whole picture under the global prompt.
    ///
    /// With guidance the pass is a pair like every call, and there are two priors: under the negative
    /// prompt, and under the global one. Each is blended into its own half of a region's pair. The paper
    /// says nothing of guidance, this is our choice: were the prompt's prior blended into both halves,
    /// it would fall out of the difference that guidance amplifies.
    fn attention_prior(
        &self,
        timestep: f64,
        noise: &NoiseField,
    ) -> Result<Vec<AttentionPrior>, Error> {
        let Some(low_resolution) = self.low_resolution else { return Ok(Vec::new()) };
        let guidance = self.plan.sampling.guidance;
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
                guidance,
            },
            &self.conditions.global()?,
            Prior::Record(&mut layers),
        )?;
        let half = |index: usize| -> candle_core::Result<AttentionPrior> {
            let of_layer = |layer: &Tensor| layer.narrow(0, index, 1);
            AttentionPrior::new(layers.iter().map(of_layer).collect::<Result<_, _>>()?)
        };
        let halves = if guidance.is_some() { 2 } else { 1 };
        Ok((0..halves).map(half).collect::<Result<_, _>>()?)
    }

    /// `z = √ā_t·zL + √(1−ā_t)·n` over the whole of `zl` (METHOD §2, step 2), into `z`.
    fn diffuse(
        &self,
        zl: &Latent,
        mut z: Latent,
        timestep: f64,
        noise: &NoiseField,
        draw: u32,
    ) -> Result<Latent, Error> {
        let (height, width, channels) = (zl.height(), zl.width(), zl.channels());
        noise.fill(draw, 0..height, 0..width, channels, z.as_mut_slice())?;
        self.engine.schedule.add_noise(timestep, zl.as_slice(), z.as_mut_slice())?;
        Ok(z)
    }
}

/// Takes the sampler's step on the whole canvas, band by band where it needs fresh noise: one canvas
/// field per step, of which no more than a band is ever drawn.
fn take_step(
    z: &mut Latent,
    eps: &[f32],
    step: &Step,
    update: &Update,
    noise: &NoiseField,
) -> Result<(), Error> {
    if !update.needs_noise() {
        return Ok(update.apply(z.as_mut_slice(), eps, None)?);
    }
    let (height, width, channels) = (z.height(), z.width(), z.channels());
    let row = width * channels;
    let rows = (NOISE_BAND / row).clamp(1, height);
    let draw = DRAW_STEPS + step.index as u32;
    let mut fresh = vec![0.0; rows * row];
    let bands = z.as_mut_slice().chunks_mut(rows * row).zip(eps.chunks(rows * row));
    for ((z, eps), top) in bands.zip((0..height).step_by(rows)) {
        let fresh = &mut fresh[..z.len()];
        noise.fill(draw, top..(top + rows).min(height), 0..width, channels, fresh)?;
        update.apply(z, eps, Some(fresh))?;
    }
    Ok(())
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
