//! Denoising of the canvas by regions (docs/method.md §2): the canvas is noised to the first timestep of the run; for
//! each timestep the noise of every region is predicted, fused, corrected by the structure prior, and a sampler step
//! follows. What a mask keeps is set back to the noised picture after each step (§6c).

use std::{iter::repeat_n, ops::Range};

use tracing::{debug_span, info_span};

use super::{
    condition::Conditions,
    context::Context,
    predict::{Predictor, StepInputs, diffuse},
    preview::PreviewCanvas,
};
use crate::{
    canvas::{Fuser, NoiseField},
    pipeline::{
        error::Error,
        plan::{
            mask::MaskPlan,
            regions::{StepRegions, in_all, most},
        },
        progress::{Progress, Stage},
        queue::share,
        work::{
            files::Files,
            folder::WorkFolder,
            journal::{Journal, Record},
        },
    },
    priors::structure::StructurePrior,
    sampler::{Level, PredictionForm, QuantileSearch, Step, add_noise},
    units,
};

/// Draws of the noise field: the canvas, the low-resolution latent of the attention prior
/// ([`DRAW_LOW_RESOLUTION`](super::predict::DRAW_LOW_RESOLUTION)), then one for every step of the whole schedule, so that
/// the noise of a step does not depend on the number of steps before it.
const DRAW_CANVAS: u32 = 0;
const DRAW_STEPS: u32 = 2;

/// Values of the canvas per band of a step, in whole rows of Haar blocks.
const STEP_BAND: usize = 1 << 20;

/// The sampling loop.
struct DenoiseLoop<'a> {
    context: &'a Context<'a>,
    noise: NoiseField,
    /// One for each device.
    predictors: Vec<Predictor<'a>>,
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
    let predictors = context.on_each().map(|context| Predictor::new(context, conditions));
    let mut denoise = DenoiseLoop {
        context,
        noise: NoiseField::new(spec.settings.seed),
        predictors: predictors.collect::<Result<_, _>>()?,
    };
    denoise.run(work, progress)?;
    if let count @ 1.. = denoise.predictors.iter().map(Predictor::redone).sum() {
        let dtype = runner.dtype().as_str();
        let (regions, were) =
            (units::count(count, "region"), if count == 1 { "was" } else { "were" });
        progress.note(&format!("{regions} overflowed in {dtype} and {were} redone in f32"));
    }
    Ok(())
}

impl DenoiseLoop<'_> {
    fn run(&mut self, work: &mut WorkFolder, progress: &mut dyn Progress) -> Result<(), Error> {
        let Context { spec, .. } = *self.context;
        let (plan, steps) = (&spec.plan, &spec.plan.sampling.steps);
        let (files, journal) = (&mut work.files, &mut work.journal);
        let done = journal.done();
        if done.steps == 0 {
            // The latent of a picture that is made from noise is 0 everywhere.
            let level = match plan.geometry.generated {
                true => Level { signal: 0.0, spread: plan.sampling.initial_noise },
                false => steps[0].level,
            };
            diffuse(&self.noise, &files.zl, &mut files.z[0], level, DRAW_CANVAS)?;
        }
        progress.begin(Stage::Denoise, in_all(&plan.regions));
        let of_step = plan.regions.get(done.steps).map_or(0, |own| done.regions.min(own.len()));
        progress.resumed(in_all(&plan.regions[..done.steps]) + of_step);
        let mut preview = None;
        // A preview is fitted to the input.
        let is_shown = progress.wants_preview() && !plan.geometry.generated;
        if is_shown && done.steps < steps.len() {
            let preview = preview.insert(PreviewCanvas::new(self.context, &files.zl)?);
            preview.put_latent(files.zl.as_slice().iter().copied());
            preview.show(progress, Stage::Denoise, (done.steps, steps.len()));
        }
        for (index, step) in steps.iter().enumerate().skip(done.steps) {
            let _span = debug_span!("step", index, t = step.t).entered();
            self.predict_regions(index, files, journal, progress)?;
            // What a moved grid has less than another step's counts as predicted.
            let most = most(&plan.regions);
            if journal.done().regions < most {
                journal.append(Record::Predicted { regions: most })?;
            }
            let wanted = progress.wants_preview();
            self.take_step(index, files, preview.as_mut().filter(|_| wanted))?;
            let after = &files.z[(index + 1) % 2];
            after.flush_rows(0..after.height()).map_err(|error| journal.failed(error))?;
            if let Some(history) = &files.history {
                history.flush(index).map_err(|error| journal.failed(error))?;
            }
            journal.append(Record::Stepped { steps: index + 1 })?;
            if let Some(preview) = preview.as_ref().filter(|_| wanted) {
                preview.show(progress, Stage::Denoise, (index + 1, steps.len()));
            }
        }
        Ok(())
    }

    /// Predicts the noise of every region that has no prediction in step `index` yet, batch by batch.
    fn predict_regions(
        &mut self,
        index: usize,
        files: &mut Files,
        journal: &mut Journal,
        progress: &mut dyn Progress,
    ) -> Result<(), Error> {
        let Files { zl, z, predictions, low_resolution, .. } = files;
        let plan = &self.context.spec.plan;
        let StepRegions { running, captions, .. } = &*plan.regions[index];
        let inputs = StepInputs {
            step: &plan.sampling.steps[index],
            index,
            z: &z[index % 2],
            zl,
            low_resolution: low_resolution.as_ref(),
            noise: &self.noise,
            regions: running,
            captions,
        };
        let (side, _) = plan.geometry.grid.region_size();
        let left = journal.done().regions.min(running.len())..running.len();
        share(
            &mut self.predictors,
            (left, plan.memory.batch),
            progress,
            |predictor, queue, deliver| predictor.serve(inputs, queue, deliver),
            |range, eps: Vec<f32>, progress| {
                let rows = range.start * side..range.end * side;
                predictions.rows_mut(rows.clone()).copy_from_slice(&eps);
                predictions.flush_rows(rows).map_err(|error| journal.failed(error))?;
                journal.append(Record::Predicted { regions: range.end })?;
                progress.advance(range.len());
                Ok(())
            },
        )
    }

    /// Fuses the predictions, applies the structure prior and takes step `index` of the run, band by
    /// band, from one z buffer into the other. The clean latent that the step implies goes into `preview`.
    fn take_step(
        &self,
        index: usize,
        files: &mut Files,
        mut preview: Option<&mut PreviewCanvas>,
    ) -> Result<(), Error> {
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
        let StepRegions { grid, running, .. } = &*spec.plan.regions[index];
        let fuser = Fuser::new(spec.settings.fusion, grid, channels)
            .of_some(running.iter().map(|region| region.index));
        let predictions = &predictions.as_slice()[..running.len() * fuser.prediction_len()];
        let mask = spec.plan.mask.as_ref();
        // The level at which the next step finds what is kept.
        let next = sampling.steps.get(index + 1).map_or(Level::CLEAN, |step| step.level);
        let block = structure.block();
        let band = (STEP_BAND / zl.row_len() / block * block).clamp(block, height.max(block));
        // One noise field per step, drawn band by band.
        let draw = DRAW_STEPS + step.index as u32;
        let mut predicted = vec![0.0; band * zl.row_len()];
        let mut fresh = vec![0.0; if update.needs_noise() { predicted.len() } else { 0 }];
        let mut held = vec![0.0; if mask.is_some() { predicted.len() } else { 0 }];
        let bands = || (0..height).step_by(band).map(|top| top..(top + band).min(height));
        // z after the structure prior, and the prediction that the step is taken with.
        let corrected = |rows: Range<usize>, z: &mut [f32], predicted: &mut [f32]| {
            fuser.band(rows.clone(), predictions, predicted)?;
            z.copy_from_slice(before.rows(rows.clone()));
            spec.schedule.convert(step, z, predicted)?;
            let (zl, row) = (zl.rows(rows), (width, channels));
            correct(&structure, lambda, step, (z, predicted), zl, row)
        };
        let known = match update.quantile() {
            None => None,
            Some((x0_of, share)) => {
                let cells = mask.map_or(height * width, MaskPlan::repainted);
                let mut search = QuantileSearch::new((cells * channels) as u64, share);
                for pass in 0..2 {
                    if pass == 1 {
                        search.begin_second();
                    }
                    for rows in bands() {
                        let z = after.rows_mut(rows.clone());
                        let predicted = &mut predicted[..z.len()];
                        corrected(rows.clone(), z, predicted)?;
                        let x0 = z.iter().zip(&*predicted);
                        let x0 = x0.map(|(z, p)| x0_of.z * z + x0_of.prediction * p);
                        match mask {
                            None => search.count(x0),
                            // What is kept is not the model's.
                            Some(mask) => {
                                let cells = mask.cells.rows(rows).iter();
                                let counts =
                                    cells.flat_map(|&share| repeat_n(share > 0.0, channels));
                                search.count(x0.zip(counts).filter(|it| it.1).map(|it| it.0));
                            }
                        }
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
            if let (Some(preview), Ok(x0)) = (&mut preview, step.x0()) {
                let pairs = z.iter().zip(&*predicted);
                let clean = pairs.map(|(z, p)| x0.z * z + x0.prediction * p);
                match mask {
                    None => preview.put_latent(clean),
                    Some(mask) => {
                        let cells = mask.cells.rows(rows.clone()).iter();
                        let shares = cells.flat_map(|&share| repeat_n(share, channels));
                        let kept = zl.rows(rows.clone()).iter();
                        let mixed = clean.zip(kept).zip(shares);
                        preview.put_latent(mixed.map(|((x0, zl), share)| zl + share * (x0 - zl)));
                    }
                }
            }
            let fresh = if update.needs_noise() {
                let fresh = &mut fresh[..predicted.len()];
                self.noise.fill(draw, rows.clone(), 0..width, channels, fresh)?;
                Some(&*fresh)
            } else {
                None
            };
            let earlier: Vec<_> = earlier.iter().map(|canvas| &canvas[values.clone()]).collect();
            let kept = kept.as_deref_mut().map(|canvas| &mut canvas[values]);
            update.apply_with(z, predicted, fresh, &earlier, kept)?;
            if let Some(mask) = mask {
                let held = &mut held[..z.len()];
                self.noise.fill(DRAW_CANVAS, rows.clone(), 0..width, channels, held)?;
                add_noise(next, zl.rows(rows.clone()), held)?;
                hold(z, held, mask.cells.rows(rows));
            }
        }
        Ok(())
    }
}

/// Brings the cells of `z`, `[…, C]`, to those of `held` as far as a mask keeps them: `shares` are those of the repaint.
fn hold(z: &mut [f32], held: &[f32], shares: &[f32]) {
    let channels = z.len() / shares.len();
    let cells = z.chunks_exact_mut(channels).zip(held.chunks_exact(channels));
    for ((z, held), &share) in cells.zip(shares).filter(|(_, share)| **share < 1.0) {
        for (z, held) in z.iter_mut().zip(held) {
            *z = share * *z + (1.0 - share) * held;
        }
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

#[cfg(test)]
mod tests;
