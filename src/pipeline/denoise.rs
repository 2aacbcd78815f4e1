//! Diffuse, then denoise by regions (METHOD §2): noise the canvas to the first timestep that runs,
//! and for each timestep predict every region's noise, fuse, apply the structure prior, step.

use std::{cell::Cell, panic::resume_unwind, thread::ScopedJoinHandle};

use candle_core::Tensor;

use crate::{
    backend::ops::CropRect,
    canvas::{CanvasSize, Fuser, Latent, NoiseField, Region},
    model::unet::Prior,
    priors::{attention::AttentionPrior, structure::StructurePrior},
};

use super::{
    Engine, Error, Plan, Progress, Settings, Stage,
    condition::Conditions,
    engine::UNetCall,
    journal::Record,
    memory::retry_smaller,
    work::{Files, SafeJournal, WorkFolder},
};

/// Draws of the noise field: the canvas, the low-resolution latent of the attention prior, and from
/// there on one for every step of the whole schedule, so that a step's noise does not depend on how
/// many steps ran before it.
const DRAW_CANVAS: u32 = 0;
const DRAW_LOW_RESOLUTION: u32 = 1;
const DRAW_STEPS: u32 = 2;

/// Values of the canvas that a step works on at a time, in whole rows of Haar blocks.
const STEP_BAND: usize = 1 << 20;

/// What the sampling loop works with.
pub(super) struct Denoise<'a> {
    pub engine: &'a Engine,
    pub plan: &'a Plan,
    pub settings: &'a Settings,
    pub conditions: &'a Conditions,
    /// Regions per UNet call: the plan's, or what the device turned out to have memory for.
    pub batch: Cell<usize>,
}

/// A batch of regions on the device, ready for the UNet.
struct Gathered {
    z: Tensor,
    zl: Tensor,
}

impl Denoise<'_> {
    /// Runs what is left of the schedule; the denoised canvas is then the last step's z in the work
    /// folder.
    pub fn run(&self, work: &mut WorkFolder, progress: &mut dyn Progress) -> Result<(), Error> {
        let Self { plan, settings, .. } = *self;
        let steps = &plan.sampling.steps;
        let noise = NoiseField::new(settings.seed);
        let Files { zl, z, predictions, low_resolution, .. } = &mut work.files;
        let journal = &mut work.journal;
        let done = journal.done();
        if done.steps == 0 {
            self.diffuse(zl, &mut z[0], steps[0].t, &noise, DRAW_CANVAS)?;
        }
        progress.begin(Stage::Denoise, plan.grid.len() * steps.len());
        progress.advance(plan.grid.len() * done.steps + done.regions);
        let fuser = Fuser::new(settings.fusion, &plan.grid, zl.channels());
        for (index, step) in steps.iter().enumerate().skip(done.steps) {
            let [even, odd] = &mut *z;
            let (before, after) = if index % 2 == 0 { (even, odd) } else { (odd, even) };
            let attention = self.attention_prior(low_resolution.as_ref(), step.t, &noise)?;
            self.predict_regions(before, zl, step.t, &attention, predictions, journal, progress)?;
            self.take_step(index, &fuser, before, zl, predictions, after, &noise)?;
            after.flush_rows(0..after.height()).map_err(|error| journal.failed(error))?;
            journal.append(Record::Stepped { steps: index + 1 })?;
        }
        Ok(())
    }

    /// Predicts the noise of every region that has no prediction yet, batch by batch.
    #[expect(clippy::too_many_arguments, reason = "one loop over everything that a job has")]
    fn predict_regions(
        &self,
        z: &Latent,
        zl: &Latent,
        timestep: f64,
        priors: &[AttentionPrior],
        predictions: &mut Latent,
        journal: &mut SafeJournal,
        progress: &mut dyn Progress,
    ) -> Result<(), Error> {
        let Self { engine, plan, .. } = *self;
        let side = plan.grid.region_side();
        let size = side * side * zl.channels();
        let regions: Vec<Region> = plan.grid.regions().skip(journal.done().regions).collect();
        std::thread::scope(|scope| {
            let mut rest = &regions[..];
            let mut ahead: Option<(&[Region], ScopedJoinHandle<'_, _>)> = None;
            while !rest.is_empty() {
                if progress.interrupted() {
                    return Err(Error::Interrupted(None));
                }
                let (batch, eps) = retry_smaller(&self.batch, |count| {
                    let (batch, following) = rest.split_at(count.min(rest.len()));
                    let input = match ahead.take() {
                        Some((gathered, thread)) if gathered == batch => {
                            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
                        }
                        // The first batch, or a smaller one since the device ran out of memory.
                        _ => gather(engine, z, zl, batch),
                    };
                    // The next batch is gathered and copied to the device while this one is computed.
                    let next = &following[..count.min(following.len())];
                    if !next.is_empty() {
                        ahead = Some((next, scope.spawn(move || gather(engine, z, zl, next))));
                    }
                    Ok((batch, self.predict_batch(input?, timestep, priors, batch)?))
                })?;
                if !eps.iter().all(|value| value.is_finite()) {
                    return Err(engine.non_finite(Stage::Denoise));
                }
                let first = batch[0].index;
                let rows = first * side..(first + batch.len()) * side;
                predictions.rows_mut(rows.clone()).copy_from_slice(&eps[..batch.len() * size]);
                predictions.flush_rows(rows).map_err(|error| journal.failed(error))?;
                journal.append(Record::Predicted { regions: first + batch.len() })?;
                progress.advance(batch.len());
                rest = &rest[batch.len()..];
            }
            Ok(())
        })
    }

    /// The predictions of a batch of regions, one after the other.
    fn predict_batch(
        &self,
        Gathered { z, zl }: Gathered,
        timestep: f64,
        priors: &[AttentionPrior],
        batch: &[Region],
    ) -> Result<Vec<f32>, Error> {
        let layers = self.prior_layers(batch, priors)?;
        self.engine.predict(
            &UNetCall { z, zl, timestep, guidance: self.plan.sampling.guidance },
            &self.conditions.of_regions(batch)?,
            match &layers {
                Some(layers) => Prior::Blend { layers, weight: self.settings.rap },
                None => Prior::None,
            },
        )
    }

    /// Fuses the predictions, applies the structure prior and takes the sampler's step, all band by
    /// band: from `before` into `after`.
    #[expect(clippy::too_many_arguments, reason = "one pass over everything that a step has")]
    fn take_step(
        &self,
        index: usize,
        fuser: &Fuser,
        before: &Latent,
        zl: &Latent,
        predictions: &Latent,
        after: &mut Latent,
        noise: &NoiseField,
    ) -> Result<(), Error> {
        let Self { engine, plan, settings, .. } = *self;
        let (schedule, steps) = (&engine.schedule, &plan.sampling.steps);
        let (step, update) = (&steps[index], &plan.sampling.updates[index]);
        let structure = StructurePrior::new(settings.gsp)?;
        let (abar, lambda) = (schedule.abar(step.t)?, structure.lambda(index, steps.len()));
        let (height, width, channels) = (zl.height(), zl.width(), zl.channels());
        let block = structure.block();
        let band = (STEP_BAND / zl.row_len() / block * block).clamp(block, height.max(block));
        // One field for every step, of which no more than a band is ever drawn.
        let draw = DRAW_STEPS + step.index as u32;
        let mut eps = vec![0.0; band * zl.row_len()];
        let mut fresh = vec![0.0; if update.needs_noise() { eps.len() } else { 0 }];
        for top in (0..height).step_by(band) {
            let rows = top..(top + band).min(height);
            let eps = &mut eps[..rows.len() * zl.row_len()];
            fuser.band(rows.clone(), predictions.as_slice(), eps)?;
            let z = after.rows_mut(rows.clone());
            z.copy_from_slice(before.rows(rows.clone()));
            schedule.output_to_eps(step.t, z, eps)?;
            structure.apply(z, eps, zl.rows(rows.clone()), abar, lambda, width, channels)?;
            let fresh = if update.needs_noise() {
                let fresh = &mut fresh[..eps.len()];
                noise.fill(draw, rows, 0..width, channels, fresh)?;
                Some(&*fresh)
            } else {
                None
            };
            update.apply(z, eps, fresh)?;
        }
        Ok(())
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
        low_resolution: Option<&Latent>,
        timestep: f64,
        noise: &NoiseField,
    ) -> Result<Vec<AttentionPrior>, Error> {
        let Some(low_resolution) = low_resolution else { return Ok(Vec::new()) };
        let guidance = self.plan.sampling.guidance;
        let shape = (1, low_resolution.height(), low_resolution.width(), low_resolution.channels());
        let mut z = Latent::in_memory(shape.1, shape.2, shape.3)?;
        self.diffuse(low_resolution, &mut z, timestep, noise, DRAW_LOW_RESOLUTION)?;
        let mut layers = Vec::new();
        self.engine.predict(
            &UNetCall {
                z: self.engine.input(z.as_slice().to_vec(), shape)?,
                zl: self.engine.input(low_resolution.as_slice().to_vec(), shape)?,
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
        z: &mut Latent,
        timestep: f64,
        noise: &NoiseField,
        draw: u32,
    ) -> Result<(), Error> {
        let (height, width, channels) = (zl.height(), zl.width(), zl.channels());
        noise.fill(draw, 0..height, 0..width, channels, z.as_mut_slice())?;
        Ok(self.engine.schedule.add_noise(timestep, zl.as_slice(), z.as_mut_slice())?)
    }
}

/// Copies a batch of regions to the device.
fn gather(engine: &Engine, z: &Latent, zl: &Latent, batch: &[Region]) -> Result<Gathered, Error> {
    let of = |latent: &Latent| -> Result<Tensor, Error> {
        let Region { height, width, .. } = batch[0];
        let size = height * width * latent.channels();
        let mut values = vec![0.0; size * batch.len()];
        for (region, values) in batch.iter().zip(values.chunks_exact_mut(size)) {
            latent.gather(region, values)?;
        }
        engine.input(values, (batch.len(), height, width, latent.channels()))
    };
    Ok(Gathered { z: of(z)?, zl: of(zl)? })
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
