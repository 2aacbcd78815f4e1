//! Pictures from words: the base picture is made from noise at the model's native size, by the stages that repaint (with
//! the whole schedule, and nothing to encode), and is then the input of an upscale like any other.
//!
//! Both are one job with one work folder. The work on the base picture is a folder in it with a journal of its own, and
//! stays until the output is written, so that a job that is killed goes on wherever it was.

use std::{io, sync::Arc};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tracing::info_span;

use super::{
    engine::Engine,
    error::Error,
    first::First,
    job::JobSpec,
    plan::{Plan, geometry::native_pixels},
    progress::Progress,
    run::{Report, carry_out, encoder_of, end_stage, ended, plan_notes, run, stages},
    settings::{ColourFix, Defaults, Settings},
    stages::write::{Rows, Target},
    work::folder::{Resume, WorkFolder, WorkOptions},
};
use crate::{
    canvas::SizeSpec,
    caption::none::PromptOnly,
    image::{EncodeOptions, Encoder, Format, Output, Picture},
    sampler::{Denoise, SamplerError},
    units,
};

/// Samplers that keep a little signal in pure noise.
const BEGIN_ANYWHERE: &str =
    "euler, euler-a, heun, dpmpp-2m, dpmpp-2m-sde, dpmpp-2s, dpmpp-sde, unipc";

/// Grey of the sheet that stands in the place of the input while a picture is made, and that nothing looks at.
const SHEET: f32 = 0.5;

/// Pixels of a picture that are given to its file at once.
const BAND: usize = 1 << 20;

/// How a picture is made from words.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Generation {
    /// Width and height of the base picture in pixels; by default the model's native number of pixels, in the output's
    /// aspect ratio.
    pub size: Option<(u32, u32)>,
    /// Steps of the base picture, all of which run; by default those of the settings.
    pub steps: Option<usize>,
    /// Guidance of the base picture; by default that of the settings.
    pub guidance: Option<f64>,
    /// The base picture is enlarged to the settings' size; else it is the output.
    pub enlarged: bool,
    /// Where the base picture of an enlarged one is written besides.
    pub keep: Option<(Output, Format)>,
}

/// Plans of a picture that is made from words: of the base picture, and of its enlargement.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GenerationPlan {
    /// Making the base picture.
    pub base: Plan,
    /// Enlarging it, if that is asked for.
    pub enlarged: Option<Plan>,
}

/// A picture that was made from words.
#[derive(Debug)]
#[non_exhaustive]
pub struct Generated {
    /// Summary of the output.
    pub report: Report,
    /// The base picture of an enlarged one.
    pub base: Option<Picture>,
}

/// Makes a picture from the settings' prompt into `output`. The same settings give the same bytes, as in
/// [`upscale`](super::upscale), of which the second half is one: its settings, denoising strength and priors included, are
/// those of the enlargement.
///
/// # Errors
/// [`Error::SizeOfNoise`], [`Error::NotFromNoise`] and [`Error::NoFirstStep`] for what this model cannot make; else see
/// [`Error`].
pub fn generate(
    engine: &Engine,
    generation: &Generation,
    (output, format): (&Output, Format),
    settings: &Settings,
    work: &WorkOptions,
    progress: &mut dyn Progress,
) -> Result<Generated, Error> {
    let _span = info_span!("generate", output = output.name()).entered();
    let base = base_spec(engine, generation, settings)?;
    if !generation.enlarged {
        let (sheet, of_input) = (sheet(&base)?, Value::from("noise"));
        let to = (output, format);
        let report = carry_out(engine, &sheet, &base, of_input, to, work, progress)?;
        return Ok(Generated { report, base: None });
    }
    let spec = enlarged_spec(engine, &base, settings)?;
    end_stage(engine, &base.plan);
    let blank = Picture::from_rgb(1, 1, vec![SHEET; 3])?;
    let encoder = encoder_of(&spec, &blank, (output, format))?;
    output.check_writable()?;
    if let Some((keep, _)) = &generation.keep {
        keep.check_writable()?;
    }
    let layout = spec.plan.layout(encoder.row_bytes());
    let mut folder = match work.resume {
        Resume::Disabled => {
            WorkFolder::temporary(work.folder.as_deref(), Some((output, format)), &layout)?
        }
        _ => {
            let of_base = base.identity("noise".into(), None)?;
            let job = spec.identity(digest(&of_base).into(), Some(format))?;
            WorkFolder::open(work, (output, format), &job, &layout)?
        }
    };
    std::mem::take(&mut folder.notes).iter().for_each(|note| progress.note(note));
    let made = base_picture(engine, &base, &folder, work, progress).and_then(|picture| {
        if let Some(keep) = &generation.keep {
            write(&picture, &base, keep, progress)?;
        }
        Ok(picture)
    });
    let picture = match made {
        Ok(picture) => picture,
        Err(error) => return Err(ended(folder, error, progress)),
    };
    end_stage(engine, &spec.plan);
    progress.outlined(&spec.plan.outline());
    plan_notes(engine, &spec).iter().for_each(|note| progress.note(note));
    encoder.warnings().iter().for_each(|warning| progress.note(&warning.to_string()));
    let target = Target::Picture(Box::new(encoder), output);
    let report = run(engine, &picture, &spec, target, folder, progress)?;
    Ok(Generated { report, base: Some(picture) })
}

/// Plans a picture that is made from words, without making it.
///
/// # Errors
/// As [`generate`], before it computes anything.
pub fn plan_generation(
    engine: &Engine,
    generation: &Generation,
    settings: &Settings,
) -> Result<GenerationPlan, Error> {
    let base = base_spec(engine, generation, settings)?;
    let enlarged = match generation.enlarged {
        true => Some(enlarged_spec(engine, &base, settings)?.plan),
        false => None,
    };
    Ok(GenerationPlan { base: base.plan, enlarged })
}

/// The job of the base picture.
fn base_spec(
    engine: &Engine,
    generation: &Generation,
    settings: &Settings,
) -> Result<JobSpec, Error> {
    let shape = engine.shape();
    if shape.sees_low_resolution {
        return Err(Error::NotFromNoise { model: engine.name().to_owned() });
    }
    let size = generation.size.unwrap_or_else(|| {
        let aspect = match settings.size {
            SizeSpec::Exact(width, height) if generation.enlarged => (width.max(1), height.max(1)),
            _ => (1, 1),
        };
        native_pixels(aspect, shape)
    });
    let own = Settings {
        profile: None,
        denoise: Some(Denoise::Strength(1.0)),
        steps: generation.steps.or(settings.steps),
        timesteps: settings.timesteps.clone().filter(|_| generation.steps.is_none()),
        guidance: generation.guidance.or(settings.guidance),
        gsp: 0.0,
        rap: 0.0,
        rsp: 0.0,
        first: First::Lanczos,
        captioner: Arc::new(PromptOnly),
        controls: Vec::new(),
        sharpen: Some(0.0),
        grain: Some(0.0),
        fidelity: Some(0.0),
        first_share: Some(0.0),
        coherence: Some(0.0),
        texture: Some(0.0),
        colour_fix: ColourFix::None,
        detail_only: false,
        blend: Defaults::BLEND,
        mask: None,
        ..settings.clone()
    };
    JobSpec::of_noise(engine, size, &own).map_err(|error| match error {
        Error::Sampler(SamplerError::NoSignal { t }) => {
            let sampler = own.sampler.map_or("the model's sampler", |sampler| sampler.name());
            Error::NoFirstStep { sampler, t, known: BEGIN_ANYWHERE }
        }
        error => error,
    })
}

/// The job of enlarging the base picture.
fn enlarged_spec(engine: &Engine, base: &JobSpec, settings: &Settings) -> Result<JobSpec, Error> {
    let Plan { geometry, sampling, .. } = &base.plan;
    let size = (geometry.canvas.width as u32, geometry.canvas.height as u32);
    let mut spec = JobSpec::new(engine, size.into(), settings)?;
    spec.generated = Some(json!({
        "size": [size.0, size.1],
        "steps": sampling.schedule_steps,
        "guidance": sampling.strength(),
    }));
    Ok(spec)
}

/// What stands in the place of the input of a picture that is made.
fn sheet(spec: &JobSpec) -> Result<Picture, Error> {
    let canvas = spec.plan.geometry.canvas;
    let (width, height) = (canvas.width, canvas.height);
    Ok(Picture::from_rgb(width as u32, height as u32, vec![SHEET; 3 * width * height])?)
}

/// Makes the base picture, or takes what an earlier run of the job made of it.
fn base_picture(
    engine: &Engine,
    base: &JobSpec,
    folder: &WorkFolder,
    work: &WorkOptions,
    progress: &mut dyn Progress,
) -> Result<Picture, Error> {
    let canvas = base.plan.geometry.canvas;
    let (width, height) = (canvas.width as u32, canvas.height as u32);
    progress.outlined(&base.plan.outline());
    plan_notes(engine, base).iter().for_each(|note| progress.note(note));
    let layout = base.plan.layout(canvas.width * 3 * size_of::<f32>());
    let sheet = sheet(base)?;
    let mut rows = Collected(Vec::new());
    let mut own = match folder.inner(&base.identity("noise".into(), None)?, &layout)? {
        Some(own) => own,
        None => WorkFolder::temporary(work.folder.as_deref(), None, &layout)?,
    };
    std::mem::take(&mut own.notes).iter().for_each(|note| progress.note(note));
    let target = match own.files.rows {
        Some(_) => Target::Kept,
        None => Target::Rows(&mut rows),
    };
    stages(engine, &sheet, base, target, &mut own, progress)?;
    let samples = match &mut own.files.rows {
        None => rows.0,
        Some(file) => {
            let bytes = file.read(0..canvas.height).map_err(|error| own.journal.failed(error))?;
            let (samples, _) = bytes.as_chunks::<4>();
            samples.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
        }
    };
    Ok(Picture::from_rgb(width, height, samples)?)
}

/// Rows in memory.
struct Collected(Vec<f32>);

impl Rows for Collected {
    fn put(&mut self, rgb: &[f32], _: Option<&[f32]>) -> io::Result<()> {
        self.0.extend_from_slice(rgb);
        Ok(())
    }
}

/// Writes the base picture to where it is kept.
fn write(
    picture: &Picture,
    base: &JobSpec,
    (output, format): &(Output, Format),
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let options = EncodeOptions {
        quality: base.settings.jpeg_quality,
        bit_depth: base.settings.bit_depth.unwrap_or(picture.bit_depth),
        settings: Some(base.record(&base.known_prompt()).to_string()),
        ..EncodeOptions::like(picture)
    };
    let (width, height) = (picture.width, picture.height);
    let encoder = Encoder::new(&output.name(), *format, width, height, options)?;
    let mut writer = encoder.open(output, None)?;
    writer.warnings().iter().for_each(|warning| progress.note(&warning.to_string()));
    let row = 3 * width as usize;
    let band = (BAND / width as usize).max(1) * row;
    let mut buffer = Vec::new();
    for start in (0..picture.rgb.len()).step_by(band) {
        let end = (start + band).min(picture.rgb.len());
        writer.write_rows(picture.rgb.samples(start..end, &mut buffer), None)?;
    }
    writer.finish()?;
    Ok(())
}

/// Digest of what decides the base picture's bytes.
fn digest(identity: &Value) -> String {
    units::hex(&Sha256::digest(identity.to_string()))
}

#[cfg(test)]
mod tests;
