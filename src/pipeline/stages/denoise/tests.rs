//! The sampling loop on devices that compute without a model.

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
        mask::Mask,
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
    for level in [Level::variance_preserving(0.36), Level::flow(0.4)] {
        moves_the_same(level);
    }
}

fn moves_the_same(level: Level) {
    let values = |k: f32| (0..32).map(|at| (at as f32 * k).sin()).collect::<Vec<f32>>();
    let (z, eps, zl) = (values(0.3), values(1.1), values(0.7));
    let structure = StructurePrior::new(0.8).unwrap();
    let step =
        |form| Step { index: 0, t: 0.0, t_prev: None, level, to: Level::CLEAN, form, last: true };
    let x0_of = |z: &[f32], eps: &[f32]| -> Vec<f32> {
        let (signal, spread) = (level.signal as f32, level.spread as f32);
        z.iter().zip(eps).map(|(z, eps)| (z - spread * eps) / signal).collect()
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

/// A mask of the output that keeps its left half.
fn right_half() -> Mask {
    let rgb = (0..60 * 40).flat_map(|at| [if at % 60 < 30 { 0.0 } else { 1.0 }; 3]).collect();
    Mask::new(Picture::from_rgb(60, 40, rgb).unwrap())
}

#[test]
fn what_a_mask_keeps_ends_as_the_latent_of_the_input_and_its_regions_do_not_run() {
    let (picture, all) = (picture(), job(settings()));
    for jitter in [false, true] {
        let mask = Some(right_half());
        let spec = job(Settings { mask, tile_jitter: jitter, ..settings() });
        let predicted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&predicted);
        let runner = Fake::new(move |call| {
            counted.fetch_add(call.z.dims()[0], Ordering::Relaxed);
            share(call)
        });
        let bench = Bench::new();
        let mut watcher = Watcher::default();
        let ours = denoise(&runner, (&picture, &spec), &bench, &mut watcher).unwrap();
        let running: usize = spec.plan.regions.iter().map(|step| step.len()).sum();
        assert_eq!(predicted.load(Ordering::Relaxed), running);
        assert_eq!((watcher.done, watcher.total), (running, running));
        assert!(running < 2 * spec.plan.regions[0].grid.len(), "{running}");
        let whole = Fake::new(share);
        let other =
            denoise(&whole, (&picture, &all), &Bench::new(), &mut Watcher::default()).unwrap();
        for (at, (ours, other)) in ours.iter().zip(&other).enumerate() {
            // Thirty cells of four channels in a row.
            if at / 4 % 30 < 15 {
                assert_eq!(*ours, (at % 13) as f32 / 6.0 - 1.0, "{at}");
            } else {
                // Noise that is a share of the canvas is the same whatever the grid.
                let bound = 1e-6 * other.abs().max(1.0);
                assert!((ours - other).abs() < bound, "{at}: {ours} for {other}");
            }
        }
    }
}

#[test]
fn a_stopped_stage_and_smaller_batches_give_the_same_bytes() {
    let (picture, spec) = (picture(), job(settings()));
    let whole = Fake::new(share);
    let expected =
        denoise(&whole, (&picture, &spec), &Bench::new(), &mut Watcher::default()).unwrap();
    let small = Fake::new(|call| if call.z.dims()[0] > 1 { Err(exhausted()) } else { share(call) });
    let bench = Bench::new();
    let mut watcher = Watcher { stop_at: Some(5), ..Watcher::default() };
    let error = denoise(&small, (&picture, &spec), &bench, &mut watcher).unwrap_err();
    assert!(matches!(error, Error::Interrupted(None)), "{error}");
    assert_eq!(bench.open(&spec).journal.done().regions, 5);
    let resumed = denoise(&small, (&picture, &spec), &bench, &mut Watcher::default()).unwrap();
    assert_eq!(resumed, expected);
}

/// A device whose results are waited for one batch later: alone, interrupted, without memory for a batch, overflowing, and
/// beside one that has its own at once.
#[test]
fn a_device_that_has_the_next_batch_before_its_results_are_read_gives_the_same_bytes() {
    let (picture, spec) = (picture(), job(settings()));
    let usual = Fake::new(share);
    let expected =
        denoise(&usual, (&picture, &spec), &Bench::new(), &mut Watcher::default()).unwrap();
    let late = |predict: fn(&Call) -> Result<Vec<f32>, Error>| {
        let mut fake = Fake::new(predict);
        fake.is_late = true;
        fake
    };
    let bench = Bench::new();
    let mut watcher = Watcher { stop_at: Some(5), ..Watcher::default() };
    let runner = late(share);
    let error = denoise(&runner, (&picture, &spec), &bench, &mut watcher).unwrap_err();
    assert!(matches!(error, Error::Interrupted(None)), "{error}");
    // What was under way is computed again.
    assert_eq!(bench.open(&spec).journal.done().regions, watcher.done);
    let small = late(|call| if call.z.dims()[0] > 1 { Err(exhausted()) } else { share(call) });
    let resumed = denoise(&small, (&picture, &spec), &bench, &mut Watcher::default()).unwrap();
    assert_eq!(resumed, expected);

    let mut overflowing = late(|call| match call.z.dtype() {
        DType::F64 => Ok(vec![f32::NAN; call.z.elem_count()]),
        _ => share(call),
    });
    overflowing.dtype = DType::F64;
    let mut watcher = Watcher::default();
    let redone = denoise(&overflowing, (&picture, &spec), &Bench::new(), &mut watcher);
    assert_eq!(redone.unwrap(), expected);
    assert_eq!(watcher.done, watcher.total);

    let others: [&dyn Compute; 1] = [&usual];
    let of_two = context_of(&runner, &others, &picture, &spec);
    let shared = denoise_on(of_two, &Bench::new(), &mut Watcher::default()).unwrap();
    assert_eq!(shared, expected);
}

#[test]
fn what_was_computed_before_a_device_failed_is_kept() {
    let (picture, spec) = (picture(), job(settings()));
    let calls = AtomicUsize::new(0);
    let mut failing = Fake::new(move |call| {
        if calls.fetch_add(1, Ordering::Relaxed) == 1 {
            return Err(Error::Tensor(candle_core::Error::Msg("it fell off".to_owned())));
        }
        share(call)
    });
    failing.is_late = true;
    let bench = Bench::new();
    let mut watcher = Watcher::default();
    let error = denoise(&failing, (&picture, &spec), &bench, &mut watcher).unwrap_err();
    assert!(error.to_string().contains("fell off"), "{error}");
    assert_eq!(bench.open(&spec).journal.done().regions, spec.plan.memory.batch);
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
    assert!(watcher.notes.iter().any(|note| note.contains("overflowed")), "{:?}", watcher.notes);
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
