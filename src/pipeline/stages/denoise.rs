//! Denoising of the canvas by regions (docs/method.md §2): the canvas is noised to the first timestep of the run; for
//! each timestep the noise of every region is predicted, fused, corrected by the structure prior, and a sampler step
//! follows.

use std::ops::Range;

use tracing::{debug_span, info_span};

use super::{
    condition::Conditions,
    context::Context,
    predict::{Predictor, StepInputs, diffuse},
    preview::PreviewCanvas,
};
use crate::{
    canvas::{Fuser, NoiseField, Region},
    pipeline::{
        error::Error,
        progress::{Progress, Stage},
        queue::share,
        work::{
            files::Files,
            folder::WorkFolder,
            journal::{Journal, Record},
        },
    },
    priors::structure::StructurePrior,
    sampler::{Level, PredictionForm, QuantileSearch, Step},
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
    regions: Vec<Region>,
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
        regions: spec.plan.geometry.grid.regions().collect(),
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
        let grid = &plan.geometry.grid;
        let (files, journal) = (&mut work.files, &mut work.journal);
        let done = journal.done();
        if done.steps == 0 {
            diffuse(&self.noise, &files.zl, &mut files.z[0], &steps[0], DRAW_CANVAS)?;
        }
        progress.begin(Stage::Denoise, grid.len() * steps.len());
        progress.resumed(grid.len() * done.steps + done.regions);
        let fuser = Fuser::new(spec.settings.fusion, grid, files.zl.channels());
        let mut preview = None;
        if progress.wants_preview() && done.steps < steps.len() {
            let preview = preview.insert(PreviewCanvas::new(self.context, &files.zl)?);
            preview.put_latent(files.zl.as_slice().iter().copied());
            preview.show(progress, Stage::Denoise, (done.steps, steps.len()));
        }
        for (index, step) in steps.iter().enumerate().skip(done.steps) {
            let _span = debug_span!("step", index, t = step.t).entered();
            self.predict_regions(index, files, journal, progress)?;
            let wanted = progress.wants_preview();
            self.take_step(index, &fuser, files, preview.as_mut().filter(|_| wanted))?;
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
        let inputs = StepInputs {
            step: &plan.sampling.steps[index],
            z: &z[index % 2],
            zl,
            low_resolution: low_resolution.as_ref(),
            noise: &self.noise,
            regions: &self.regions,
        };
        let side = plan.geometry.grid.region_side();
        let left = journal.done().regions..self.regions.len();
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
        fuser: &Fuser,
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
            if let (Some(preview), Ok(x0)) = (&mut preview, step.x0()) {
                let pairs = z.iter().zip(&*predicted);
                preview.put_latent(pairs.map(|(z, p)| x0.z * z + x0.prediction * p));
            }
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
mod tests {
    use std::sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use candle_core::DType;

    use super::{
        super::testing::{
            Bench, Fake, Watcher, context, context_of, exhausted, job, job_with, picture,
        },
        *,
    };
    use crate::{
        image::Picture,
        pipeline::{
            job::JobSpec,
            runner::{Call, Compute},
            settings::Settings,
        },
        sampler::add_noise,
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
        denoise_on(context(runner, picture, spec), bench, watcher)
    }

    /// The same on the devices of a context.
    fn denoise_on(
        context: Context<'_>,
        bench: &Bench,
        watcher: &mut Watcher,
    ) -> Result<Vec<f32>, Error> {
        let spec = context.spec;
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

    /// Three devices, of which none goes on before each has had a call: one has memory for a single region, one
    /// overflows in f16, one is as it should be.
    #[test]
    fn devices_that_share_the_regions_give_the_bytes_of_one_whatever_each_of_them_meets() {
        let (picture, spec) = (picture(), job(settings()));
        let one = Fake::new(share);
        let mut watcher = Watcher::default();
        let expected = denoise(&one, (&picture, &spec), &Bench::new(), &mut watcher).unwrap();
        let calls = [const { AtomicUsize::new(0) }; 3].map(Arc::new);
        let all = Arc::new(Barrier::new(3));
        let device = |number: usize| {
            let (calls, all) = (Arc::clone(&calls[number]), Arc::clone(&all));
            move |call: &Call| {
                if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                    all.wait();
                }
                match number {
                    1 if call.z.dims()[0] > 1 => Err(exhausted()),
                    2 if call.z.dims()[0] > 1 => Ok(vec![f32::NAN; call.z.elem_count()]),
                    _ => share(call),
                }
            }
        };
        let mut devices = [0, 1, 2].map(|number| Fake::new(device(number)));
        // In f16 what is redone in f32 would differ; f64 stands for a precision that overflows.
        devices[2].dtype = DType::F64;
        let others: [&dyn Compute; 2] = [&devices[1], &devices[2]];
        let context = context_of(&devices[0], &others, &picture, &spec);
        let mut watcher = Watcher::default();
        let shared = denoise_on(context, &Bench::new(), &mut watcher).unwrap();
        assert_eq!(shared, expected);
        let regions = spec.plan.geometry.grid.len();
        assert_eq!((watcher.done, watcher.total), (2 * regions, 2 * regions));
        assert!(
            watcher.notes.iter().any(|note| note.contains("overflowed")),
            "{:?}",
            watcher.notes
        );
        assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) > 0), "{calls:?}");
    }

    #[test]
    fn a_device_that_fails_ends_the_stage_and_any_number_of_devices_goes_on() {
        let (picture, spec) = (picture(), job(settings()));
        let good = Fake::new(share);
        let expected =
            denoise(&good, (&picture, &spec), &Bench::new(), &mut Watcher::default()).unwrap();
        // Both have a batch when one of them fails.
        let (at_work, of_other) = (Arc::new(Barrier::new(2)), AtomicUsize::new(0));
        let both = Arc::clone(&at_work);
        let failing = Fake::new(move |_| {
            both.wait();
            Err(Error::Tensor(candle_core::Error::Msg("the device fell off".to_owned())))
        });
        let waiting = Fake::new(move |call| {
            if of_other.fetch_add(1, Ordering::Relaxed) == 0 {
                at_work.wait();
            }
            share(call)
        });
        let bench = Bench::new();
        let others: [&dyn Compute; 1] = [&failing];
        let of_two = context_of(&waiting, &others, &picture, &spec);
        let mut watcher = Watcher::default();
        let error = denoise_on(of_two, &bench, &mut watcher).unwrap_err();
        assert!(error.to_string().contains("fell off"), "{error}");
        let done = bench.open(&spec).journal.done();
        assert_eq!(done.steps * spec.plan.geometry.grid.len() + done.regions, watcher.done);
        let mut watcher = Watcher { stop_at: Some(watcher.done + 4), ..Watcher::default() };
        let stopped = denoise(&good, (&picture, &spec), &bench, &mut watcher).unwrap_err();
        assert!(matches!(stopped, Error::Interrupted(None)), "{stopped}");
        let others: [&dyn Compute; 2] = [&good, &good];
        let of_three = context_of(&good, &others, &picture, &spec);
        let resumed = denoise_on(of_three, &bench, &mut Watcher::default()).unwrap();
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
