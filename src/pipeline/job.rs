//! Specification of a job: settings resolved once against a model, a device and a picture's size; with the job's
//! description for the output's metadata and its identity for resuming.

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    canvas::Fusion,
    caption::none::PromptOnly,
    image::{Format, Picture, PictureShape},
    model::text::PromptSyntax,
    sampler::{Schedule, Timesteps},
    units,
    weights::LoraScale,
};

use super::{
    control::ControlUse,
    engine::Engine,
    error::Error,
    first::{First, FirstEnlarger, LANCZOS},
    plan::Plan,
    prompts::Prompts,
    settings::{Defaults, Settings},
};

/// The specification of a job.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// The user's choices.
    pub settings: Settings,
    /// The network that makes the picture which is repainted.
    pub first: Option<Arc<FirstEnlarger>>,
    /// The settings' prompts, read.
    pub prompts: Prompts,
    /// Plan of the run.
    pub plan: Plan,
    /// The model's noise schedule.
    pub schedule: Schedule,
    /// An empty negative prompt is conditioned on zeros, not on the encoded empty text.
    pub zeros_for_empty_prompt: bool,
    /// How the input was made from words, for the output's metadata.
    pub generated: Option<Value>,
    model: Identity,
}

/// Identity of the model and of the device.
#[derive(Clone, Debug, Default)]
struct Identity {
    name: String,
    loras: Vec<(String, LoraScale)>,
    embeddings: Vec<String>,
    controls: Vec<String>,
    /// It has a network of its own that enlarges the input.
    enlarges: bool,
    fingerprint: String,
    device: String,
}

impl JobSpec {
    /// Specifies the job of enlarging an `input`.
    ///
    /// # Errors
    /// See [`Plan::new`].
    pub fn new(engine: &Engine, input: PictureShape, settings: &Settings) -> Result<Self, Error> {
        let mut settings = settings.clone();
        if settings.repaints() {
            settings = settings.with_finish(&engine.model.defaults);
        } else {
            settings.captioner = Arc::new(PromptOnly);
        }
        let mut plan = Plan::new(engine, input, &settings)?;
        if !plan.repaints && settings.repaints() {
            // A mask that keeps everything.
            settings.captioner = Arc::new(PromptOnly);
            plan = Plan::new(engine, input, &settings)?;
        }
        Self::with(engine, plan, &settings)
    }

    /// Specifies the job of making a picture of this width and height in pixels from noise.
    ///
    /// # Errors
    /// See [`Plan::of_noise`].
    pub fn of_noise(engine: &Engine, size: (u32, u32), settings: &Settings) -> Result<Self, Error> {
        let generated = Some(serde_json::json!({"size": [size.0, size.1]}));
        let plan = Plan::of_noise(engine, size, settings)?;
        Ok(Self { generated, ..Self::with(engine, plan, settings)? })
    }

    fn with(engine: &Engine, plan: Plan, settings: &Settings) -> Result<Self, Error> {
        let Engine { model, runner, .. } = engine;
        Ok(Self {
            prompts: Prompts::new(settings)?,
            first: plan.geometry.first(model, settings),
            plan,
            settings: settings.clone(),
            schedule: model.schedule.clone(),
            zeros_for_empty_prompt: model.zeros_for_empty_prompt,
            generated: None,
            model: Identity {
                name: model.name().to_owned(),
                loras: model.loras().to_owned(),
                embeddings: model.embeddings().to_owned(),
                controls: model.controls().to_owned(),
                enlarges: model.first.is_some(),
                fingerprint: model.fingerprint().to_owned(),
                device: runner.device_name(),
            },
        })
    }

    /// A job without a model.
    #[cfg(test)]
    pub fn for_tests(settings: Settings, plan: Plan, schedule: Schedule) -> Self {
        let model = Identity::default();
        let (zeros_for_empty_prompt, generated) = (true, None);
        let prompts = Prompts::new(&settings).expect("tests ask for prompts that can be read");
        let first = None;
        Self { settings, first, prompts, plan, schedule, zeros_for_empty_prompt, generated, model }
    }

    /// Words of the prompt of the whole picture before captioning: the user's, or the captioner's own.
    pub fn known_prompt(&self) -> String {
        match self.settings.captioner.own_prompt() {
            Some(own) if self.settings.prompt.is_empty() => own.to_owned(),
            _ => self.prompts.words(),
        }
    }

    /// Settings that affect the output, for its metadata; those without effect in this job are left out. `prompt` is the
    /// words of the prompt of the whole picture.
    pub fn record(&self, prompt: &str) -> Value {
        let Self { settings, plan, model, .. } = self;
        let (sampling, canvas) = (&plan.sampling, plan.geometry.canvas);
        let mut record = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": model.name,
            "size": [canvas.width, canvas.height],
            "prompt": self.prompts.recorded(settings, prompt),
            "seed": settings.seed,
            "sampler": sampling.sampler.name(),
            "steps": sampling.schedule_steps,
            "guidance": sampling.strength(),
        });
        if settings.prompt_syntax != PromptSyntax::Plain {
            record["prompt_syntax"] = settings.prompt_syntax.name().into();
        }
        if plan.geometry.grid.len() > 1 || !plan.geometry.generated {
            record["overlap"] = plan.geometry.overlap.into();
            record["fusion"] = match settings.fusion {
                Fusion::Feather => "feather".into(),
                Fusion::Average => "average".into(),
            };
            if settings.tile_jitter {
                record["tile_jitter"] = true.into();
            }
        }
        // What repainting takes from an input, which a picture that is made from noise has not.
        if !plan.geometry.generated {
            record["captioner"] = settings.captioner.name().into();
            record["denoise_steps"] = sampling.steps_run.into();
            record["gsp"] = settings.gsp.into();
            record["rap"] = settings.rap.into();
            record["rsp"] = settings.rsp.into();
            record["color_fix"] = settings.colour_fix.name().into();
            for (key, value) in [
                ("first_share", settings.first_share.filter(|_| plan.first.is_some())),
                ("sharpen", settings.sharpen),
                ("grain", settings.grain),
                ("fidelity", settings.fidelity),
                ("coherence", settings.coherence),
                ("texture", settings.texture),
            ] {
                if let Some(value) = value.filter(|_| plan.repaints) {
                    record[key] = value.into();
                }
            }
        }
        match &settings.first {
            First::Network(first) => record["first"] = first.name().into(),
            First::Lanczos if model.enlarges => record["first"] = LANCZOS.into(),
            First::Own | First::Lanczos => {}
        }
        if let Some(generated) = &self.generated {
            record["generated"] = generated.clone();
        }
        if settings.detail_only {
            record["detail_only"] = true.into();
        }
        if settings.blend < Defaults::BLEND {
            record["blend"] = settings.blend.into();
        }
        if let Some(mask) = &settings.mask {
            record["mask"] = mask.digest().into();
            if mask.is_inverted() {
                record["invert_mask"] = true.into();
            }
            if mask.feather() > 0 {
                record["mask_feather"] = mask.feather().into();
            }
        }
        for (key, value) in settings.captioner.record() {
            record[key] = value;
        }
        if !model.loras.is_empty() {
            let lora = |(name, LoraScale { scale, blocks }): &(String, LoraScale)| match &blocks[..]
            {
                [] => serde_json::json!([name, scale]),
                blocks => serde_json::json!([name, scale, blocks]),
            };
            record["loras"] = model.loras.iter().map(lora).collect();
        }
        let prompts = format!("{prompt} {}", self.prompts.negative.words()).to_lowercase();
        let is_named = |name: &&String| prompts.contains(&name.to_lowercase());
        let embeddings: Vec<_> = model.embeddings.iter().filter(is_named).collect();
        if !embeddings.is_empty() {
            record["embeddings"] = serde_json::json!(embeddings);
        }
        if !settings.controls.is_empty() {
            record["controls"] =
                settings.controls.iter().map(|of| record_of(of, &model.controls)).collect();
        }
        if let Some(bits) = settings.bit_depth {
            record["bit_depth"] = bits.into();
        }
        if let Some(eta) = sampling.eta {
            record["eta"] = eta.into();
        }
        if let Some(spacing) = sampling.spacing {
            record["spacing"] = spacing.name().into();
        }
        if let Some(sigmas) = sampling.sigmas {
            record["sigmas"] = sigmas.name().into();
        }
        if let Timesteps::List(list) = &sampling.timesteps {
            record["timesteps"] = list.clone().into();
        }
        if sampling.guidance.is_some() {
            record["negative_prompt"] = settings.negative_prompt.as_str().into();
        }
        record
    }

    /// Everything that decides the bytes of the output: the [`record`](Self::record), digests of longer inputs, that of
    /// the picture ([`digest_of`]) among them, and the format of the output, if it has one. Unfinished work is resumed only by a job of the same identity.
    ///
    /// Batch size, threads and the number of devices are left out, because the output does not depend on them; VAE tiles and how several of
    /// them are computed are included, because encoding and decoding depend on them.
    ///
    /// # Errors
    /// A captioner whose model cannot be found.
    pub fn identity(&self, input: Value, format: Option<Format>) -> Result<Value, Error> {
        let Self { settings, plan, model, .. } = self;
        let mut job = self.record(&self.known_prompt());
        let captions = settings.captioner.identity()?;
        let mut entry = |key: &str, value: Value| job[key] = value;
        entry("input", input);
        entry("captions", digest(|hash| hash.update(captions)).into());
        if !model.embeddings.is_empty() {
            entry("embeddings", serde_json::json!(model.embeddings));
        }
        entry("weights", model.fingerprint.as_str().into());
        if let Some(first) = &self.first {
            entry("first_weights", first.fingerprint().into());
        }
        entry("device", model.device.as_str().into());
        let pictures = settings.controls.iter().filter_map(|of| of.picture.as_ref());
        let pictures: Vec<Value> = pictures.map(|own| digest_of(&own.picture)).collect();
        if !pictures.is_empty() {
            entry("control_pictures", pictures.into());
        }
        if let Some(format) = format {
            entry("format", format.extension().into());
        }
        if format == Some(Format::Jpeg) {
            entry("quality", settings.jpeg_quality.into());
        }
        entry("vae_tiles", serde_json::json!([plan.tile_columns.len(), plan.tile_rows.len()]));
        if let Some(name) = plan.vae_tiling.name().filter(|_| plan.tiles() > 1) {
            entry("vae_tiling", name.into());
        }
        Ok(job)
    }
}

/// The use of a control, for the output's metadata.
fn record_of(of: &ControlUse, names: &[String]) -> Value {
    let ControlUse { control, scale, start, end, kind, picture } = of;
    let mut record = serde_json::json!({
        "model": names.get(*control),
        "scale": scale,
        "range": [start, end],
        "kind": kind.name(),
    });
    if let Some(own) = picture {
        record["image"] = own.name.as_str().into();
    }
    record
}

/// The digest of a picture that stands for it in a job's identity.
pub fn digest_of(picture: &Picture) -> Value {
    digest(|hash| picture.hash_into(hash)).into()
}

fn digest(feed: impl FnOnce(&mut Sha256)) -> String {
    let mut hash = Sha256::new();
    feed(&mut hash);
    units::hex(&hash.finalize())
}
