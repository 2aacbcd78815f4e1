//! Denoising of the canvas by regions (docs/method.md §2): the canvas is noised to the first timestep of the run; for
//! each timestep the noise of every region is predicted, fused, corrected by the structure prior, and a sampler step
//! follows.

use std::{
    cell::Cell,
    ops::Range,
    panic::resume_unwind,
    thread::{Builder, ScopedJoinHandle},
};

use candle_core::{DType, Tensor};
use tracing::{debug_span, info_span};

use super::{condition::Conditions, context::Context};
use crate::{
    backend::Activation,
    canvas::{Fuser, Latent, NoiseField, Region},
    model::denoiser::Prior,
    pipeline::{
        error::Error,
        progress::{Progress, Stage},
        retry::retry_smaller,
        runner::Call,
        work::{
            files::Files,
            folder::WorkFolder,
            journal::{Journal, Record},
        },
    },
    priors::{attention::AttentionPrior, structure::StructurePrior},
    sampler::{Level, PredictionForm, QuantileSearch, Step, add_noise},
    units,
};

/// Draws of the noise field: the canvas, the low-resolution latent of the attention prior, then one for
/// every step of the whole schedule, so that the noise of a step does not depend on the number of steps
/// before it.
const DRAW_CANVAS: u32 = 0;
const DRAW_LOW_RESOLUTION: u32 = 1;
const DRAW_STEPS: u32 = 2;

/// Values of the canvas per band of a step, in whole rows of Haar blocks.
const STEP_BAND: usize = 1 << 20;

/// The sampling loop.
struct DenoiseLoop<'a> {
    context: &'a Context<'a>,
    conditions: &'a Conditions,
    noise: NoiseField,
    /// Regions per denoiser call: the plan's batch, or less after the device ran out of memory.
    batch: Cell<usize>,
    /// Regions with non-finite predictions in the working precision, predicted again in f32.
    redone: Cell<usize>,
}

/// Inputs of one step, common to all regions.
#[derive(Clone, Copy)]
struct StepInputs<'a> {
    z: &'a Latent,
    zl: &'a Latent,
    timestep: f64,
    /// Attention priors: none if disabled, one without guidance, two with it.
    priors: &'a [AttentionPrior],
}

/// A batch of regions on the device, ready for the denoiser.
struct RegionBatch {
    z: Tensor,
    zl: Option<Tensor>,
}

/// Runs the remaining steps of the schedule; the denoised canvas is the last step's z in the work folder.
///
/// # Errors
/// Errors of the denoiser and the work folder; non-finite values; an interruption.
pub fn run(
    context: &Context<'_>,
    conditions: &Conditions,
    work: &mut WorkFolder,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let _span = info_span!("denoise").entered();
    let Context { runner, spec, .. } = *context;
    let denoise = DenoiseLoop {
        context,
        conditions,
        noise: NoiseField::new(spec.settings.seed),
        batch: Cell::new(spec.plan.memory.batch),
        redone: Cell::new(0),
    };
    denoise.run(work, progress)?;
    if let count @ 1.. = denoise.redone.get() {
        let dtype = runner.dtype().as_str();
        let (regions, were) =
            (units::count(count, "region"), if count == 1 { "was" } else { "were" });
        progress.note(&format!("{regions} overflowed in {dtype} and {were} redone in f32"));
    }
    Ok(())
}

impl DenoiseLoop<'_> {
    fn run(&self, work: &mut WorkFolder, progress: &mut dyn Progress) -> Result<(), Error> {
        let Context { spec, .. } = *self.context;
        let (plan, steps) = (&spec.plan, &spec.plan.sampling.steps);
        let grid = &plan.geometry.grid;
        let (files, journal) = (&mut work.files, &mut work.journal);
        let done = journal.done();
        if done.steps == 0 {
            self.diffuse(&files.zl, &mut files.z[0], &steps[0], DRAW_CANVAS)?;
        }
        progress.begin(Stage::Denoise, grid.len() * steps.len());
        progress.advance(grid.len() * done.steps + done.regions);
        let fuser = Fuser::new(spec.settings.fusion, grid, files.zl.channels());
        for (index, step) in steps.iter().enumerate().skip(done.steps) {
            let _span = debug_span!("step", index, t = step.t).entered();
            let Files { zl, z, predictions, low_resolution, .. } = &mut *files;
            let priors = self.attention_prior(low_resolution.as_ref(), step)?;
            let step = StepInputs { z: &z[index % 2], zl, timestep: step.t, priors: &priors };
            self.predict_regions(step, predictions, journal, progress)?;
            self.take_step(index, &fuser, files)?;
            let after = &files.z[(index + 1) % 2];
            after.flush_rows(0..after.height()).map_err(|error| journal.failed(error))?;
            if let Some(history) = &files.history {
                history.flush(index).map_err(|error| journal.failed(error))?;
            }
            journal.append(Record::Stepped { steps: index + 1 })?;
        }
        Ok(())
    }

    /// Predicts the noise of every region that has no prediction yet, batch by batch.
    fn predict_regions(
        &self,
        step: StepInputs<'_>,
        predictions: &mut Latent,
        journal: &mut Journal,
        progress: &mut dyn Progress,
    ) -> Result<(), Error> {
        let context = self.context;
        let grid = &context.spec.plan.geometry.grid;
        let dtype = context.runner.dtype();
        let side = grid.region_side();
        let size = side * side * step.zl.channels();
        let regions: Vec<Region> = grid.regions().skip(journal.done().regions).collect();
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
                        // The first batch, or a smaller one after the device ran out of memory.
                        _ => gather(context, step, batch, dtype),
                    };
                    // Prefetch: the next batch is gathered and copied to the device while this one is computed.
                    let next = &following[..count.min(following.len())];
                    if !next.is_empty() {
                        let gather = move || gather(context, step, next, dtype);
                        // Without a thread for it, it is gathered when its turn comes.
                        let thread = Builder::new().spawn_scoped(scope, gather);
                        ahead = thread.ok().map(|thread| (next, thread));
                    }
                    let mut eps = self.predict_batch(input?, step, batch)?;
                    for (region, eps) in batch.iter().zip(eps.chunks_exact_mut(size)) {
                        if !is_finite(eps) {
                            let region = std::slice::from_ref(region);
                            eps.copy_from_slice(&self.redo(step, region)?);
                        }
                    }
                    Ok((batch, eps))
                })?;
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

    /// Predictions of a batch of regions, concatenated.
    fn predict_batch(
        &self,
        RegionBatch { z, zl }: RegionBatch,
        step: StepInputs<'_>,
        batch: &[Region],
    ) -> Result<Vec<f32>, Error> {
        let Context { runner, spec, .. } = *self.context;
        let layers = self.prior_layers(batch, step.priors, z.dtype())?;
        let guidance = spec.plan.sampling.guidance;
        runner.predict(
            &Call { z, zl, timestep: step.timestep, guidance },
            &self.conditions.of_regions(batch)?,
            match &layers {
                Some(layers) => Prior::Blend { layers, weight: spec.settings.rap },
                None => Prior::None,
            },
        )
    }

    /// Predicts a region again in f32 after non-finite values in the working precision; alone, so that the
    /// result does not depend on the batch.
    fn redo(&self, step: StepInputs<'_>, region: &[Region]) -> Result<Vec<f32>, Error> {
        let runner = self.context.runner;
        let refuse = || Err(runner.non_finite(Stage::Denoise));
        if runner.dtype() == DType::F32 {
            return refuse();
        }
        self.redone.set(self.redone.get() + 1);
        let gathered = gather(self.context, step, region, DType::F32)?;
        let eps = self.predict_batch(gathered, step, region)?;
        if is_finite(&eps) { Ok(eps) } else { refuse() }
    }

    /// Fuses the predictions, applies the structure prior and takes step `index` of the run, band by
    /// band, from one z buffer into the other.
    fn take_step(&self, index: usize, fuser: &Fuser, files: &mut Files) -> Result<(), Error> {
        let Files { zl, z: [even, odd], history, predictions, .. } = files;
        let (before, after) = if index.is_multiple_of(2) { (even, odd) } else { (odd, even) };
        let (mut kept, earlier) = match history {
            Some(history) => {
                let (kept, earlier) = history.of_step(index);
                (Some(kept), earlier)
            }
            None => (None, Vec::new()),
        };
        let spec = self.context.spec;
        let sampling = &spec.plan.sampling;
        let (step, update) = (&sampling.steps[index], &sampling.updates[index]);
        let structure = StructurePrior::new(spec.settings.gsp)?;
        let lambda = structure.lambda(index, sampling.steps.len());
        let (height, width, channels) = (zl.height(), zl.width(), zl.channels());
        let block = structure.block();
        let band = (STEP_BAND / zl.row_len() / block * block).clamp(block, height.max(block));
        // One noise field per step, drawn band by band.
        let draw = DRAW_STEPS + step.index as u32;
        let mut predicted = vec![0.0; band * zl.row_len()];
        let mut fresh = vec![0.0; if update.needs_noise() { predicted.len() } else { 0 }];
        let bands = || (0..height).step_by(band).map(|top| top..(top + band).min(height));
        // z after the structure prior, and the prediction that the step is taken with.
        let corrected = |rows: Range<usize>, z: &mut [f32], predicted: &mut [f32]| {
            fuser.band(rows.clone(), predictions.as_slice(), predicted)?;
            z.copy_from_slice(before.rows(rows.clone()));
            spec.schedule.convert(step, z, predicted)?;
            let (zl, row) = (zl.rows(rows), (width, channels));
            correct(&structure, lambda, step, (z, predicted), zl, row)
        };
        let known = match update.quantile() {
            None => None,
            Some((x0, share)) => {
                let mut search = QuantileSearch::new((height * zl.row_len()) as u64, share);
                for pass in 0..2 {
                    if pass == 1 {
                        search.begin_second();
                    }
                    for rows in bands() {
                        let z = after.rows_mut(rows.clone());
                        let predicted = &mut predicted[..z.len()];
                        corrected(rows, z, predicted)?;
                        let pairs = z.iter().zip(&*predicted);
                        search.count(pairs.map(|(z, p)| x0.z * z + x0.prediction * p));
                    }
                }
                Some(update.with_quantile(search.value()))
            }
        };
        let update = known.as_ref().unwrap_or(update);
        for rows in bands() {
            let values = rows.start * zl.row_len()..rows.end * zl.row_len();
            let predicted = &mut predicted[..values.len()];
            let z = after.rows_mut(rows.clone());
            corrected(rows.clone(), z, predicted)?;
            let fresh = if update.needs_noise() {
                let fresh = &mut fresh[..predicted.len()];
                self.noise.fill(draw, rows, 0..width, channels, fresh)?;
                Some(&*fresh)
            } else {
                None
            };
            let earlier: Vec<_> = earlier.iter().map(|canvas| &canvas[values.clone()]).collect();
            let kept = kept.as_deref_mut().map(|canvas| &mut canvas[values]);
            update.apply_with(z, predicted, fresh, &earlier, kept)?;
        }
        Ok(())
    }

    /// Priors of a batch of regions: one tensor per cross-attention layer, in the precision of the call; with
    /// guidance, those of the negative prompt come before those of the prompt.
    fn prior_layers(
        &self,
        batch: &[Region],
        priors: &[AttentionPrior],
        dtype: DType,
    ) -> Result<Option<Vec<Activation>>, Error> {
        if priors.is_empty() {
            return Ok(None);
        }
        let plan = &self.context.spec.plan;
        let sizes = &plan.prior_sizes;
        let rects: Vec<_> = batch.iter().map(|region| plan.geometry.share_of(region)).collect();
        let halves = (priors.iter())
            .map(|prior| prior.for_regions(&rects, sizes))
            .collect::<Result<Vec<_>, _>>()?;
        let layers = (0..sizes.len()).map(|layer| {
            Activation::cat(&halves.iter().map(|half| &half[layer]).collect::<Vec<_>>(), 0)?
                .to_dtype(dtype)
        });
        Ok(Some(layers.collect::<candle_core::Result<_>>()?))
    }

    /// Low-resolution pass of one timestep (docs/method.md §4): the outputs of all cross-attention layers for
    /// the whole picture under the global prompt.
    ///
    /// Guidance makes the pass a pair like every call, with two priors: one under the negative prompt, one
    /// under the global prompt. Each is blended into its own half of a region's pair. The paper does not
    /// cover guidance; we keep the halves apart because a prior blended into both would cancel out of the
    /// difference that guidance amplifies.
    fn attention_prior(
        &self,
        low_resolution: Option<&Latent>,
        step: &Step,
    ) -> Result<Vec<AttentionPrior>, Error> {
        let Some(low_resolution) = low_resolution else { return Ok(Vec::new()) };
        let Context { runner, spec, .. } = *self.context;
        let guidance = spec.plan.sampling.guidance;
        let shape = (1, low_resolution.height(), low_resolution.width(), low_resolution.channels());
        let mut z = Latent::in_memory(shape.1, shape.2, shape.3)?;
        self.diffuse(low_resolution, &mut z, step, DRAW_LOW_RESOLUTION)?;
        let record = |dtype: DType| -> Result<Vec<Activation>, Error> {
            let mut layers = Vec::new();
            let input =
                |latent: &Latent| input(self.context, latent.as_slice().to_vec(), shape, dtype);
            let sees = spec.plan.geometry.shape.sees_low_resolution;
            let zl = sees.then(|| input(low_resolution)).transpose()?;
            runner.predict(
                &Call { z: input(&z)?, zl, timestep: step.t, guidance },
                &self.conditions.global()?,
                Prior::Record(&mut layers),
            )?;
            Ok(layers)
        };
        let mut layers = record(runner.dtype())?;
        if runner.dtype() != DType::F32 && !are_finite(&layers)? {
            layers = record(DType::F32)?;
        }
        let half = |index: usize| -> candle_core::Result<AttentionPrior> {
            let of_layer = |layer: &Activation| layer.narrow(0, index, 1);
            AttentionPrior::new(layers.iter().map(of_layer).collect::<Result<_, _>>()?)
        };
        let halves = if guidance.is_some() { 2 } else { 1 };
        Ok((0..halves).map(half).collect::<Result<_, _>>()?)
    }

    /// Noises `zl` into `z`: `z = signal·zL + spread·n` (docs/method.md §2, step 2).
    fn diffuse(&self, zl: &Latent, z: &mut Latent, step: &Step, draw: u32) -> Result<(), Error> {
        let (height, width, channels) = (zl.height(), zl.width(), zl.channels());
        self.noise.fill(draw, 0..height, 0..width, channels, z.as_mut_slice())?;
        Ok(add_noise(step.level, zl.as_slice(), z.as_mut_slice())?)
    }
}

/// Moves z and what it implies of x̂0 by the structure prior, with the noise ε as it is.
fn correct(
    structure: &StructurePrior,
    lambda: f32,
    step: &Step,
    (z, predicted): (&mut [f32], &mut [f32]),
    zl: &[f32],
    row: (usize, usize),
) -> Result<(), Error> {
    match step.form {
        PredictionForm::Noise => structure.apply(z, predicted, zl, step.level, lambda, row)?,
        PredictionForm::Clean => {
            // The prior acts on x̂0 itself, as on a z without noise; z is what the same noise makes of the new x̂0.
            let signal = step.level.signal as f32;
            z.iter_mut().zip(&*predicted).for_each(|(z, x0)| *z -= signal * x0);
            structure.apply(predicted, z, zl, Level::CLEAN, lambda, row)?;
            z.iter_mut().zip(&*predicted).for_each(|(z, x0)| *z += signal * x0);
        }
    }
    Ok(())
}

fn is_finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

fn are_finite(layers: &[Activation]) -> candle_core::Result<bool> {
    for layer in layers {
        // A single non-finite value makes the sum non-finite.
        if !layer.tensor()?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gathers a batch of regions and copies it to the device.
fn gather(
    context: &Context<'_>,
    step: StepInputs<'_>,
    batch: &[Region],
    dtype: DType,
) -> Result<RegionBatch, Error> {
    let of = |latent: &Latent| -> Result<Tensor, Error> {
        let Region { height, width, .. } = batch[0];
        let size = height * width * latent.channels();
        let mut values = vec![0.0; size * batch.len()];
        for (region, values) in batch.iter().zip(values.chunks_exact_mut(size)) {
            latent.gather(region, values)?;
        }
        input(context, values, (batch.len(), height, width, latent.channels()), dtype)
    };
    let sees = context.spec.plan.geometry.shape.sees_low_resolution;
    Ok(RegionBatch { z: of(step.z)?, zl: sees.then(|| of(step.zl)).transpose()? })
}

/// Input tensor of a call from host values.
fn input(
    context: &Context<'_>,
    values: Vec<f32>,
    shape: (usize, usize, usize, usize),
    dtype: DType,
) -> Result<Tensor, Error> {
    Ok(Tensor::from_vec(values, shape, context.runner.device())?.to_dtype(dtype)?)
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Bench, Fake, Watcher, context, exhausted, job, job_with, picture},
        *,
    };
    use crate::{
        image::Picture,
        pipeline::{job::JobSpec, settings::Settings},
    };

    fn settings() -> Settings {
        Settings {
            steps: Some(2),
            denoise: Some(crate::sampler::Denoise::Steps(2)),
            ..Settings::default()
        }
    }

    /// Noise proportional to the canvas: equal for regions and for the whole.
    fn share(call: &Call) -> Result<Vec<f32>, Error> {
        Ok((&call.z * 0.25)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// Runs the stage on a deterministic canvas until it is done or fails.
    fn denoise(
        runner: &Fake,
        (picture, spec): (&Picture, &JobSpec),
        bench: &Bench,
        watcher: &mut Watcher,
    ) -> Result<Vec<f32>, Error> {
        let context = context(runner, picture, spec);
        let mut work = bench.open(spec);
        let tiles = spec.plan.tile_rows.len() * spec.plan.tile_columns.len();
        if work.journal.done().tiles < tiles {
            work.journal.append(Record::Encoded { tiles })?;
        }
        for (at, value) in work.files.zl.as_mut_slice().iter_mut().enumerate() {
            *value = (at % 13) as f32 / 6.0 - 1.0;
        }
        let captions = vec![String::new(); spec.plan.geometry.grid.len()];
        let conditions = Conditions::new(&context, "", &captions)?;
        run(&context, &conditions, &mut work, watcher)?;
        Ok(work.files.z[spec.plan.sampling.steps.len() % 2].as_slice().to_vec())
    }

    /// Compares a job's canvas with the same steps taken on the whole at once.
    fn equals_the_whole(spec: &JobSpec) {
        let (runner, picture) = (Fake::new(share), picture());
        let mut watcher = Watcher::default();
        let ours = denoise(&runner, (&picture, spec), &Bench::new(), &mut watcher).unwrap();
        let regions = spec.plan.geometry.grid.len();
        assert_eq!((watcher.done, watcher.total), (2 * regions, 2 * regions));

        let canvas = spec.plan.geometry.canvas;
        let (height, width) = (canvas.latent_height, canvas.latent_width);
        let channels = spec.plan.geometry.shape.channels;
        let (schedule, sampling) = (&spec.schedule, &spec.plan.sampling);
        let zl: Vec<f32> =
            (0..height * width * channels).map(|at| (at % 13) as f32 / 6.0 - 1.0).collect();
        let mut z = vec![0.0; zl.len()];
        let noise = NoiseField::new(spec.settings.seed);
        noise.fill(DRAW_CANVAS, 0..height, 0..width, channels, &mut z).unwrap();
        add_noise(sampling.steps[0].level, &zl, &mut z).unwrap();
        for (step, update) in sampling.steps.iter().zip(&sampling.updates) {
            let mut eps: Vec<f32> = z.iter().map(|value| value * 0.25).collect();
            schedule.convert(step, &z, &mut eps).unwrap();
            let known = update.quantile().map(|(x0, share)| {
                let x0 = z.iter().zip(&eps).map(|(z, p)| (x0.z * z + x0.prediction * p).abs());
                let mut x0: Vec<f32> = x0.collect();
                x0.sort_by(f32::total_cmp);
                let at = share * (x0.len() - 1) as f64;
                let (below, above) = (x0[at as usize], x0[at.ceil() as usize]);
                update.with_quantile(below + at.fract() as f32 * (above - below))
            });
            known.as_ref().unwrap_or(update).apply(&mut z, &eps, None).unwrap();
        }
        for (ours, expected) in ours.iter().zip(&z) {
            assert!((ours - expected).abs() < 1e-4, "{ours} for {expected}");
        }
    }

    #[test]
    fn regions_are_fused_and_stepped_as_the_whole_canvas_would_be() {
        equals_the_whole(&job(settings()));
    }

    #[test]
    fn a_threshold_is_a_quantile_of_the_whole_canvas_and_pure_noise_is_left_by_x0() {
        let threshold = r#"{"_class_name": "DDIMScheduler", "timestep_spacing": "trailing",
            "thresholding": true, "dynamic_thresholding_ratio": 0.7, "sample_max_value": 50.0}"#;
        let spec = job_with(settings(), threshold);
        assert!(spec.plan.sampling.updates[0].quantile().is_some());
        equals_the_whole(&spec);
        let zero_snr = r#"{"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", "clip_sample": false,
            "rescale_betas_zero_snr": true, "prediction_type": "v_prediction"}"#;
        let spec = job_with(settings(), zero_snr);
        assert_eq!(spec.plan.sampling.steps[0].form, PredictionForm::Clean);
        equals_the_whole(&spec);
    }

    #[test]
    fn the_structure_prior_moves_the_same_whichever_way_the_step_is_written() {
        let values = |k: f32| (0..32).map(|at| (at as f32 * k).sin()).collect::<Vec<f32>>();
        let (z, eps, zl) = (values(0.3), values(1.1), values(0.7));
        let structure = StructurePrior::new(0.8).unwrap();
        let step = |form| {
            let level = Level::variance_preserving(0.36);
            Step { index: 0, t: 0.0, t_prev: None, level, to: Level::CLEAN, form, last: true }
        };
        let x0_of = |z: &[f32], eps: &[f32]| -> Vec<f32> {
            z.iter().zip(eps).map(|(z, eps)| (z - 0.8 * eps) / 0.6).collect()
        };
        let (mut z_noise, mut eps_noise) = (z.clone(), eps.clone());
        let noise = (&mut *z_noise, &mut *eps_noise);
        correct(&structure, 0.5, &step(PredictionForm::Noise), noise, &zl, (4, 2)).unwrap();
        let (mut z_clean, mut x0) = (z.clone(), x0_of(&z, &eps));
        let clean = (&mut *z_clean, &mut *x0);
        correct(&structure, 0.5, &step(PredictionForm::Clean), clean, &zl, (4, 2)).unwrap();
        let expected = x0_of(&z_noise, &eps_noise);
        let pairs = z_clean.iter().zip(&z_noise).chain(x0.iter().zip(&expected));
        for (clean, noise) in pairs {
            assert!((clean - noise).abs() < 1e-6, "{clean} for {noise}");
        }
        assert!(z.iter().zip(&z_clean).any(|(before, after)| (before - after).abs() > 0.01));
    }

    #[test]
    fn a_stopped_stage_and_smaller_batches_give_the_same_bytes() {
        let (picture, spec) = (picture(), job(settings()));
        let whole = Fake::new(share);
        let expected =
            denoise(&whole, (&picture, &spec), &Bench::new(), &mut Watcher::default()).unwrap();
        let small =
            Fake::new(|call| if call.z.dims()[0] > 1 { Err(exhausted()) } else { share(call) });
        let bench = Bench::new();
        let mut watcher = Watcher { stop_at: Some(5), ..Watcher::default() };
        let error = denoise(&small, (&picture, &spec), &bench, &mut watcher).unwrap_err();
        assert!(matches!(error, Error::Interrupted(None)), "{error}");
        assert_eq!(bench.open(&spec).journal.done().regions, 5);
        let resumed = denoise(&small, (&picture, &spec), &bench, &mut Watcher::default()).unwrap();
        assert_eq!(resumed, expected);
    }

    #[test]
    fn values_that_overflow_are_predicted_again_in_f32_or_refused() {
        let (picture, spec) = (picture(), job(settings()));
        let mut runner = Fake::new(|call| match call.z.dtype() {
            DType::F16 => Ok(vec![f32::INFINITY; call.z.elem_count()]),
            _ => share(call),
        });
        runner.dtype = DType::F16;
        let mut watcher = Watcher::default();
        let redone = denoise(&runner, (&picture, &spec), &Bench::new(), &mut watcher).unwrap();
        assert!(redone.iter().all(|value| value.is_finite()));
        assert!(watcher.notes.iter().any(|note| note.contains("overflowed in f16")));

        let broken = Fake::new(|call| Ok(vec![f32::NAN; call.z.elem_count()]));
        let error = denoise(&broken, (&picture, &spec), &Bench::new(), &mut watcher).unwrap_err();
        assert!(matches!(error, Error::NonFinite { stage: Stage::Denoise, .. }), "{error}");
    }
}
