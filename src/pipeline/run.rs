//! Run of a job: the stages that the work folder does not have yet, then the output.

use serde_json::Value;
use tracing::{info, info_span};

use crate::{
    backend::{give_back_freed, peak_memory, place_name},
    caption::document::Document,
    image::{EncodeOptions, Encoder, Format, Output, Picture, PictureShape, Warning},
};

use super::{
    engine::Engine,
    error::Error,
    first::First,
    job::{JobSpec, digest_of},
    plan::{Plan, sampling::SamplingPlan},
    profile::{Profile, ProfileRow},
    progress::{Outline, Progress},
    runner::Compute as _,
    settings::{Defaults, Settings},
    stages::{
        caption,
        condition::Conditions,
        context::Context,
        decode, denoise, encode, enlarge, resized,
        write::{RowWriter, Target},
    },
    work::folder::{Resume, WorkFolder, WorkOptions},
};

/// Summary of a finished job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Output width in pixels.
    pub width: u32,
    /// Output height in pixels.
    pub height: u32,
    /// Regions that ran.
    pub regions: usize,
    /// Steps that ran.
    pub steps: usize,
    /// The captions, as they were used.
    pub captions: Document,
    /// The settings that are in the output's metadata.
    pub settings: Value,
}

/// Enlarges `picture` into `output`.
///
/// The output appears at its path complete or not at all; a stream gets its rows as they are decoded. The same settings give the same
/// bytes: on one backend the result depends neither on the batch size nor on the number of threads,
/// nor on interruptions (see [`WorkOptions`]).
///
/// # Errors
/// See [`Error`]; no partial output is left, and finished work is kept.
pub fn upscale(
    engine: &Engine,
    picture: &Picture,
    output: &Output,
    format: Format,
    settings: &Settings,
    work: &WorkOptions,
    progress: &mut dyn Progress,
) -> Result<Report, Error> {
    let _span = info_span!("upscale", output = output.name()).entered();
    let spec = JobSpec::new(engine, picture.shape(), settings)?;
    let of_input = match work.resume {
        Resume::Disabled => Value::Null,
        _ => digest_of(picture),
    };
    carry_out(engine, picture, &spec, of_input, (output, format), work, progress)
}

/// How the output of a job is written.
pub(super) fn encoder_of(
    spec: &JobSpec,
    picture: &Picture,
    (output, format): (&Output, Format),
) -> Result<Encoder, Error> {
    let canvas = spec.plan.geometry.canvas;
    let (width, height) = (canvas.width as u32, canvas.height as u32);
    format.check_size(&output.name(), width, height)?;
    let options = EncodeOptions {
        quality: spec.settings.jpeg_quality,
        bit_depth: spec.settings.bit_depth.unwrap_or(picture.bit_depth),
        ..EncodeOptions::like(picture)
    };
    Ok(Encoder::new(&output.name(), format, width, height, options)?)
}

/// Carries out a job whose plan is known; `of_input` stands for the picture in its identity.
pub(super) fn carry_out(
    engine: &Engine,
    picture: &Picture,
    spec: &JobSpec,
    of_input: Value,
    (output, format): (&Output, Format),
    work: &WorkOptions,
    progress: &mut dyn Progress,
) -> Result<Report, Error> {
    let plan = &spec.plan;
    // Unload the parts of an earlier job.
    end_stage(engine, plan);
    let encoder = encoder_of(spec, picture, (output, format))?;
    progress.outlined(&plan.outline());
    plan_notes(engine, spec).iter().for_each(|note| progress.note(note));
    for warning in picture.warnings.iter().chain(encoder.warnings()) {
        progress.note(&warning.to_string());
    }
    // Known now, and not after hours.
    output.check_writable()?;
    let layout = plan.layout(encoder.row_bytes());
    // What no network computes is done again sooner than it is kept.
    let folder = if work.resume == Resume::Disabled || !plan.repaints {
        WorkFolder::temporary(work.folder.as_deref(), Some((output, format)), &layout)?
    } else {
        let job = spec.identity(of_input, Some(format))?;
        WorkFolder::open(work, (output, format), &job, &layout)?
    };
    let target = Target::Picture(Box::new(encoder), output);
    run(engine, picture, spec, target, folder, progress)
}

/// What the plan of a job has to say to the user.
pub(super) fn plan_notes(engine: &Engine, spec: &JobSpec) -> Vec<String> {
    let usual = (engine.runner.default_batch(), engine.model.default_tile());
    let of_memory = spec.plan.memory.note(&spec.settings, usual);
    spec.plan.sampling.notes.iter().cloned().chain(of_memory).collect()
}

/// Runs the stages that the work folder does not have, and ends the folder as their result asks.
pub(super) fn run(
    engine: &Engine,
    picture: &Picture,
    spec: &JobSpec,
    target: Target<'_>,
    mut folder: WorkFolder,
    progress: &mut dyn Progress,
) -> Result<Report, Error> {
    folder.notes.iter().for_each(|note| progress.note(note));
    let done = stages(engine, picture, spec, target, &mut folder, progress);
    let (captions, settings) = match done {
        Ok(done) => done,
        Err(error) => return Err(ended(folder, error, progress)),
    };
    folder.remove();
    for runner in engine.runners() {
        if let Some(bytes) = peak_memory(runner.device()) {
            info!(device = place_name(runner.device()), bytes, "peak memory");
        }
    }
    let Outline { width, height, regions, steps, .. } = spec.plan.outline();
    Ok(Report { width, height, regions, steps, captions, settings })
}

/// The error of a job that it ended, whose folder is left as that asks.
pub(super) fn ended(folder: WorkFolder, error: Error, progress: &mut dyn Progress) -> Error {
    // Captions made so far are in their cache, and the job goes on with them.
    if let Error::Interrupted(_) = error {
        return Error::Interrupted(folder.into_kept());
    }
    if let Some(kept) = folder.leave(error.leaves()) {
        progress.note(&format!("what is done is in {}", kept.display()));
    }
    error
}

/// Runs the stages; returns the captions and the settings for the output's metadata.
pub(super) fn stages(
    engine: &Engine,
    picture: &Picture,
    spec: &JobSpec,
    target: Target<'_>,
    work: &mut WorkFolder,
    progress: &mut dyn Progress,
) -> Result<(Document, Value), Error> {
    let others = &engine.others();
    let context = &Context { runner: &engine.runner, others, picture, enlarged: None, spec };
    let plan = &spec.plan;
    let described = caption::describe_or_kept(context, work, progress)?;
    progress.described(&described.document);
    let record = record(spec, picture, &described.prompt);
    let target = match target {
        Target::Picture(encoder, output) => {
            let encoder = encoder.with_settings(record.to_string());
            Target::Picture(Box::new(encoder), output)
        }
        other @ (Target::Rows(_) | Target::Kept) => other,
    };
    if progress.interrupted() {
        return Err(Error::Interrupted(None));
    }
    let enlarged = enlarge::picture(context, work, progress)?;
    let context = &Context { enlarged: enlarged.as_ref(), ..*context };
    if enlarged.is_some() {
        end_stage(engine, plan);
    }
    if !plan.repaints {
        let mut writer = RowWriter::open(target, work, progress)?;
        resized::canvas(context, &mut writer, work, progress)?;
        writer.finish(work, progress)?;
        return Ok((described.document, record));
    }
    if work.journal.done().steps < plan.sampling.steps.len() {
        let conditions = Conditions::new(context, &described.prompt, &described.texts)?;
        for note in &conditions.notes {
            progress.note(note);
        }
        end_stage(engine, plan);
        if !plan.geometry.generated {
            encode::canvas(context, work, progress)?;
            encode::low_resolution(context, work, progress)?;
            end_stage(engine, plan);
        }
        denoise::run(context, &conditions, work, progress)?;
        end_stage(engine, plan);
    }
    let mut writer = RowWriter::open(target, work, progress)?;
    decode::canvas(context, &mut writer, work, progress)?;
    end_stage(engine, plan);
    writer.finish(work, progress)?;
    Ok((described.document, record))
}

/// The settings that are written into the output.
fn record(spec: &JobSpec, picture: &Picture, prompt: &str) -> Value {
    let mut record = spec.record(prompt);
    for warning in &picture.warnings {
        if let Warning::Truncated { rows_read, rows } = warning {
            record["truncated_input"] = serde_json::json!({"rows_read": rows_read, "rows": rows});
        }
    }
    record
}

/// Unloads the model's parts after a stage, unless the plan keeps them, and returns the allocator's free memory to
/// the system, because the next stage's activations would not fit into its holes.
pub(super) fn end_stage(engine: &Engine, plan: &Plan) {
    if plan.memory.keeps_parts {
        give_back_freed();
    } else {
        engine.free_parts();
    }
}

/// Plans the job of enlarging an `input`, without running it; its size, width × height, is enough.
///
/// # Errors
/// A size of zero or beyond the address range, settings that do not match the model, or insufficient memory.
pub fn plan(
    engine: &Engine,
    input: impl Into<PictureShape>,
    settings: &Settings,
) -> Result<Plan, Error> {
    Ok(JobSpec::new(engine, input.into(), settings)?.plan)
}

/// The row of `profile` for a model, as far as `settings` leave its schedule to the model.
///
/// # Errors
/// Settings that do not match the model.
pub fn profile_row(
    engine: &Engine,
    profile: Profile,
    settings: &Settings,
) -> Result<ProfileRow, Error> {
    let model = &engine.model;
    let own = Settings { denoise: None, ..settings.clone() };
    let sampling = SamplingPlan::resolve(&model.scheduler, &model.schedule, &model.defaults, &own)?;
    let steps = (sampling.steps_run, sampling.schedule_steps);
    let overlap = model.defaults.overlap.unwrap_or(Defaults::OVERLAP);
    Ok(ProfileRow::of(profile, steps, overlap, model.shape().sees_low_resolution))
}

/// Captions a picture ahead of its job, so that the captioner's model is loaded once for several pictures
/// instead of alternating with the denoiser; [`Captioner::free`](crate::caption::Captioner::free) ends that.
/// Returns false if there is nothing to gain: the captioner's model stays loaded, or there is none.
///
/// # Errors
/// See [`Error`].
pub fn describe_ahead(
    engine: &Engine,
    picture: &Picture,
    settings: &Settings,
    progress: &mut dyn Progress,
) -> Result<bool, Error> {
    let spec = &JobSpec::new(engine, picture.shape(), settings)?;
    if spec.plan.memory.captions.is_none_or(|batch| batch.stays) {
        return Ok(false);
    }
    let others = &engine.others();
    let context = Context { runner: &engine.runner, others, picture, enlarged: None, spec };
    caption::describe(&context, settings.rsp > 0.0, progress)?;
    Ok(true)
}

/// Captions every region of the job without running it; `--captions` reads the result.
///
/// # Errors
/// See [`Error`].
pub fn describe(
    engine: &Engine,
    picture: &Picture,
    settings: &Settings,
    progress: &mut dyn Progress,
) -> Result<Document, Error> {
    // Whatever a job would make of them.
    let settings = &Settings {
        blend: Defaults::BLEND,
        denoise: None,
        mask: None,
        first: First::Lanczos,
        ..settings.clone()
    };
    let spec = &JobSpec::new(engine, picture.shape(), settings)?;
    let others = &engine.others();
    let context = Context { runner: &engine.runner, others, picture, enlarged: None, spec };
    Ok(caption::describe(&context, true, progress)?.document)
}

#[cfg(test)]
#[path = "../../tests/common/folder.rs"]
pub(super) mod folder;

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs, path::Path};

    use candle_core::{DType, Device, Tensor, safetensors};

    use super::{folder::copy_folder, *};
    use crate::{
        image::{self, Input},
        pipeline::{Resume, Stage},
        weights::{ModelFiles, ModelSource},
    };

    const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

    /// Records the notes.
    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Progress for Notes {
        fn begin(&mut self, _: Stage, _: usize) {}
        fn advance(&mut self, _: usize) {}
        fn note(&mut self, text: &str) {
            self.0.push(text.to_owned());
        }
    }

    /// The small model of the tests with the weights of `layers`, which its denoiser alone has, multiplied by
    /// `factor`.
    fn model(folder: &Path, layers: &str, factor: f64) -> ModelFiles {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/img2img/model");
        copy_folder(&fixture, folder);
        for part in fs::read_dir(folder).unwrap() {
            let file = part.unwrap().path().join(WEIGHTS);
            if !file.exists() {
                continue;
            }
            let tensors = safetensors::load(&file, &Device::Cpu).unwrap();
            if !tensors.keys().any(|name| name.starts_with(layers)) {
                continue;
            }
            let tensors: HashMap<String, Tensor> = (tensors.into_iter())
                .map(|(name, tensor)| {
                    // The fixture is f16, which could not hold the changed values.
                    let changed = name.starts_with(layers);
                    let tensor = tensor.to_dtype(DType::F32).unwrap();
                    (name, if changed { (tensor * factor).unwrap() } else { tensor })
                })
                .collect();
            safetensors::save(&tensors, file).unwrap();
        }
        ModelFiles::open(ModelSource::Path(folder.to_owned())).unwrap()
    }

    /// Pixels and notes of a job on that model.
    fn run(
        files: &ModelFiles,
        dtype: DType,
        folder: &Path,
    ) -> Result<(Vec<u8>, Vec<String>), Error> {
        run_with(files, dtype, folder, Defaults::BLEND)
    }

    /// The same with this share of the repaint.
    fn run_with(
        files: &ModelFiles,
        dtype: DType,
        folder: &Path,
        blend: f64,
    ) -> Result<(Vec<u8>, Vec<String>), Error> {
        let engine = Engine::load_in(files, &Device::Cpu, dtype)?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/nuthatch.jpg");
        let picture = image::decode(&Input::Path(source))?;
        let settings = Settings {
            size: crate::canvas::SizeSpec::Exact(60, 40),
            denoise: Some(crate::sampler::Denoise::Steps(2)),
            blend,
            ..Settings::default()
        };
        let output = folder.join("out.png");
        let _ = fs::remove_file(&output);
        let mut notes = Notes::default();
        let target = Output::Path(output.clone());
        let work = WorkOptions { resume: Resume::Never, ..WorkOptions::default() };
        let report =
            upscale(&engine, &picture, &target, Format::Png, &settings, &work, &mut notes)?;
        assert_eq!(report.steps, if blend > 0.0 { 2 } else { 0 });
        let image = pictures::open(output);
        Ok((image.to_rgb8().into_raw(), notes.0))
    }

    #[test]
    fn what_overflows_in_f16_is_redone_in_f32() {
        let folder = tempfile::tempdir().unwrap();
        // Activations beyond 65 504, which the next norm brings back.
        let files = model(&folder.path().join("model"), "conv_in.", 5e4);
        let (expected, notes) = run(&files, DType::F32, folder.path()).unwrap();
        assert!(!notes.iter().any(|note| note.contains("f32")), "{notes:?}");
        let (redone, notes) = run(&files, DType::F16, folder.path()).unwrap();
        assert!(notes.iter().any(|note| note.contains("overflowed in f16")), "{notes:?}");
        let far = |(a, b): (&u8, &u8)| a.abs_diff(*b) > 2;
        assert!(!expected.iter().zip(&redone).any(far), "the redone picture is another");
    }

    #[test]
    fn a_share_of_none_is_the_resized_input_and_runs_no_network() {
        let folder = tempfile::tempdir().unwrap();
        // It could not run.
        let files = model(&folder.path().join("model"), "conv_out.", f64::NAN);
        let (pixels, notes) = run_with(&files, DType::F32, folder.path(), 0.0).unwrap();
        assert!(notes.iter().any(|note| note.contains("does not run")), "{notes:?}");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/nuthatch.jpg");
        let resized = image::decode(&Input::Path(source)).unwrap();
        let resized = resized.resizer(60, 40).unwrap().rows(0..40);
        let near = |(a, b): (&u8, &f32)| (f32::from(*a) - 255.0 * b).abs() < 0.51;
        assert!(pixels.len() == resized.len() && pixels.iter().zip(&resized).all(near));
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn what_is_no_number_in_f32_either_is_an_error_and_not_a_black_picture() {
        let folder = tempfile::tempdir().unwrap();
        let files = model(&folder.path().join("model"), "conv_out.", f64::NAN);
        for dtype in [DType::F32, DType::F16] {
            let error = run(&files, dtype, folder.path()).unwrap_err();
            let is_told =
                matches!(&error, Error::NonFinite { stage: Stage::Denoise, weight: Some(_) });
            assert!(is_told, "{error}");
            // It could not go on, and another model's job is not to be refused.
            let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
            assert!(left.iter().all(|entry| entry.file_name() == "model"), "{left:?}");
        }
    }
}
