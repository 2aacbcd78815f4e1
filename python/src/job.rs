//! Keywords of a job, made into the pipeline's settings: the one place where a keyword gets its meaning. Defaults are the
//! library's.

use std::sync::Arc;

use cupscale::{
    canvas::{Fusion, SizeSpec},
    caption::{
        Captioner, attributes::Attributes, document::Document, file::FromFile, none::PromptOnly,
    },
    model::text::{LoraTag, Prompt, PromptSyntax, without_networks},
    pipeline::{self, ColourFix, Mask, Profile, Settings},
    sampler::Denoise,
    weights::LoraScale,
};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict},
};

use crate::{
    errors::{Class, Failure},
    keywords::{Fault, Keywords, integer, named, number, path, size, text},
    loaded::Loaded,
    machine,
    names::{self, FILE, READ, SETTINGS},
    picture::Picture,
    values,
};

/// Keywords of a job without a file, or of one with files.
///
/// # Errors
/// A name that is none of them.
pub fn keywords<'py>(given: &Bound<'py, PyDict>, files: bool) -> PyResult<Keywords<'py>> {
    let own: Vec<&str> = if files {
        names::job()
    } else {
        SETTINGS.iter().copied().filter(|name| !READ.contains(name)).collect()
    };
    let of_files: Vec<&str> = READ.iter().chain(&FILE).copied().collect();
    let misplaced = given
        .keys()
        .iter()
        .any(|name| name.extract::<String>().is_ok_and(|name| of_files.contains(&name.as_str())));
    if misplaced && !files {
        return Keywords::new(given, &own, (&of_files, "upscale_file, for files"));
    }
    Keywords::new(given, &own, (names::ENGINE, "cupscale.Engine"))
}

/// Who describes the regions.
#[derive(Debug)]
enum Describes {
    /// The engine's captioner.
    Engine,
    /// The engine's model, which it must have.
    Model,
    This(Arc<dyn Captioner>),
}

/// Settings of a job before they meet their engine.
#[derive(Debug)]
pub struct Job {
    settings: Settings,
    profile: Option<Profile>,
    /// What a profile's row does not change: overlap, gsp, rap, rsp, blend.
    given: [bool; 5],
    describes: Describes,
    /// LoRAs that the prompt names.
    tags: Vec<LoraTag>,
}

impl Job {
    /// Reads the keywords.
    ///
    /// # Errors
    /// A value of another type, out of its range, or beside one that excludes it.
    pub fn read(keywords: &Keywords<'_>) -> PyResult<Self> {
        for (one, other) in [
            ("scale", "size"),
            ("scale", "long_edge"),
            ("size", "long_edge"),
            ("strength", "denoise_steps"),
            ("steps", "timesteps"),
            ("captions", "captioner"),
        ] {
            keywords.refuse_both(one, other)?;
        }
        let mut settings = Settings::default();
        if let Some(spec) = output_size(keywords)? {
            settings.size = spec;
        }
        let tags = prompts(keywords, &mut settings)?;
        let given = repainting(keywords, &mut settings)?;
        settings.mask = mask(keywords)?;
        machine::machine(keywords, &mut settings)?;
        let profile = keywords.get("profile", named)?;
        Ok(Self { settings, profile, given, describes: describes(keywords)?, tags })
    }

    /// The settings that this job has on an engine.
    ///
    /// # Errors
    /// A LoRA or a captioner that the engine does not have; settings that its model does not take.
    pub fn settings(&self, loaded: &Loaded) -> Result<Settings, Failure> {
        let is_loaded = |tag: &&LoraTag| {
            let scale = LoraScale::from(tag.scale);
            loaded.loras.iter().any(|lora| lora.is_named(&tag.name) && lora.scale == scale)
        };
        if let Some(tag) = self.tags.iter().find(|tag| !is_loaded(tag)) {
            return Err(Failure::settings(format!(
                "prompt {}: LoRAs are merged when an engine is made: Engine(loras=[(\"{}\", {})])",
                tag.tag, tag.name, tag.scale
            )));
        }
        let mut settings = self.settings.clone();
        let defaults = &loaded.defaults;
        settings.batch = settings.batch.or(defaults.batch);
        settings.tile = settings.tile.or(defaults.tile);
        settings.max_memory = settings.max_memory.or(defaults.max_memory);
        settings.vae_disk = settings.vae_disk.or(defaults.vae_disk);
        settings.first.clone_from(&loaded.first);
        settings.controls.clone_from(&loaded.controls);
        settings.captioner = match &self.describes {
            Describes::This(captioner) => Arc::clone(captioner),
            Describes::Model if !loaded.describes_with_a_model => {
                return Err(Failure::settings(
                    "captioner=\"llava\": the engine has none: Engine(captioner=\"llava\")"
                        .to_owned(),
                ));
            }
            Describes::Engine | Describes::Model => Arc::clone(&loaded.captioner),
        };
        if let Some(profile) = self.profile.or(loaded.engine.profile()) {
            let mut row = pipeline::profile_row(&loaded.engine, profile, &settings)?;
            row.denoise = row.denoise.filter(|_| settings.denoise.is_none());
            let values =
                [&mut row.overlap, &mut row.gsp, &mut row.rap, &mut row.rsp, &mut row.blend];
            for (value, given) in values.into_iter().zip(self.given) {
                *value = value.filter(|_| !given);
            }
            settings.start_from(&row);
        }
        Ok(settings)
    }

    /// The settings for changes that files bring.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}

fn output_size(keywords: &Keywords<'_>) -> PyResult<Option<SizeSpec>> {
    let scale = keywords.get("scale", |value| number(value, values::positive))?;
    let exact = keywords.get("size", size)?;
    let long_edge = keywords.get("long_edge", |value| integer(value, 1..=u32::MAX.into()))?;
    Ok(scale
        .map(SizeSpec::Scale)
        .or(exact.map(|(width, height)| SizeSpec::Exact(width, height)))
        .or(long_edge.map(|edge| SizeSpec::LongEdge(edge as u32))))
}

/// The prompts, with the LoRAs that a weighted one names taken out.
fn prompts(keywords: &Keywords<'_>, settings: &mut Settings) -> PyResult<Vec<LoraTag>> {
    let prompt = keywords.get("prompt", text)?.unwrap_or_default();
    let negative = keywords.get("negative_prompt", text)?.unwrap_or_default();
    settings.prompt_syntax = keywords.get("prompt_syntax", named)?.unwrap_or_default();
    negative.trim().clone_into(&mut settings.negative_prompt);
    if settings.prompt_syntax == PromptSyntax::Plain {
        prompt.trim().clone_into(&mut settings.prompt);
        return Ok(Vec::new());
    }
    let (words, tags) =
        without_networks(&prompt).map_err(|error| Failure::settings(format!("prompt: {error}")))?;
    words.trim().clone_into(&mut settings.prompt);
    let (_, of_negative) = without_networks(&negative)
        .map_err(|error| Failure::settings(format!("negative_prompt: {error}")))?;
    if let Some(tag) = of_negative.first() {
        let reason = "a LoRA changes the model: name it in the prompt";
        return Err(Failure::settings(format!("negative_prompt: {}: {reason}", tag.tag)).into());
    }
    for (name, words) in
        [("prompt", &settings.prompt), ("negative_prompt", &settings.negative_prompt)]
    {
        Prompt::parse(settings.prompt_syntax, words)
            .map_err(|error| Failure::settings(format!("{name}: {error}")))?;
    }
    Ok(tags)
}

/// How much is repainted, and how; returns which of the values that a profile may set are given.
fn repainting(keywords: &Keywords<'_>, settings: &mut Settings) -> PyResult<[bool; 5]> {
    let weight = |name| keywords.get(name, |value| number(value, values::weight));
    let whole = |name, range| keywords.get(name, |value| integer(value, range));
    settings.seed = whole("seed", 0..=u64::MAX)?.unwrap_or(settings.seed);
    settings.steps = whole("steps", 1..=1000)?.map(|steps| steps as usize);
    let strength = keywords.get("strength", |value| number(value, values::share))?;
    let steps = whole("denoise_steps", 0..=1000)?;
    settings.denoise =
        strength.map(Denoise::Strength).or(steps.map(|steps| Denoise::Steps(steps as usize)));
    settings.sampler = keywords.get("sampler", named)?;
    settings.eta = weight("eta")?;
    settings.spacing = keywords.get("spacing", named)?;
    settings.sigmas = keywords.get("sigmas", named)?;
    settings.timesteps = keywords.get("timesteps", |value| {
        value.extract().map_err(|_| Fault::Type("a list of whole numbers"))
    })?;
    settings.guidance = keywords.get("guidance", |value| number(value, values::guidance))?;
    settings.overlap = keywords.get("overlap", |value| number(value, values::overlap))?;
    let fusion = [("feather", Fusion::Feather), ("average", Fusion::Average)];
    settings.fusion = one_of(keywords, "fusion", &fusion)?.unwrap_or(settings.fusion);
    settings.tile_jitter = keywords.flag("tile_jitter")?;
    let (gsp, rap, rsp, blend) = (weight("gsp")?, weight("rap")?, weight("rsp")?, weight("blend")?);
    settings.gsp = gsp.unwrap_or(settings.gsp);
    settings.rap = rap.unwrap_or(settings.rap);
    settings.rsp = rsp.unwrap_or(settings.rsp);
    settings.blend = blend.unwrap_or(settings.blend);
    settings.sharpen = keywords.get("sharpen", |value| number(value, values::sharpen))?;
    settings.grain = keywords.get("grain", |value| number(value, values::grain))?;
    settings.fidelity = keywords.get("fidelity", |value| number(value, values::weight))?;
    settings.first_share = keywords.get("first_share", |value| number(value, values::weight))?;
    settings.coherence = keywords.get("coherence", |value| number(value, values::weight))?;
    settings.texture = keywords.get("texture", |value| number(value, values::weight))?;
    let fixes = [ColourFix::Wavelet, ColourFix::Adain, ColourFix::Lab, ColourFix::None]
        .map(|fix| (fix.name(), fix));
    settings.colour_fix = one_of(keywords, "color_fix", &fixes)?.unwrap_or(settings.colour_fix);
    settings.detail_only = keywords.flag("detail_only")?;
    Ok([settings.overlap, gsp, rap, rsp, blend].map(|value| value.is_some()))
}

/// The value that a name stands for.
fn one_of<T: Copy>(
    keywords: &Keywords<'_>,
    keyword: &str,
    known: &[(&str, T)],
) -> PyResult<Option<T>> {
    keywords.get(keyword, |value| {
        let name = text(value)?;
        let found = known.iter().find(|(known, _)| *known == name);
        let names = || known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        found
            .map(|(_, value)| *value)
            .ok_or_else(|| Fault::Value(format!("not one of {}", names())))
    })
}

fn mask(keywords: &Keywords<'_>) -> PyResult<Option<Mask>> {
    let picture = keywords.get("mask", |value| {
        let picture = value.cast::<Picture>().map_err(|_| Fault::Type("a picture"))?;
        Ok(Arc::clone(&picture.get().picture))
    })?;
    let inverted = keywords.flag("invert_mask")?;
    let feather = keywords.get("mask_feather", |value| integer(value, 0..=1000))?;
    match picture {
        Some(picture) => {
            let mask = Mask::new(Arc::unwrap_or_clone(picture));
            Ok(Some(mask.inverted(inverted).feathered(feather.unwrap_or(0) as u32)))
        }
        None if inverted || feather.is_some() => {
            let name = if inverted { "invert_mask" } else { "mask_feather" };
            Err(Failure::settings(format!("{name}: there is no mask")).into())
        }
        None => Ok(None),
    }
}

fn describes(keywords: &Keywords<'_>) -> PyResult<Describes> {
    // Bytes are the JSON of a captions document, everything else the path of its file.
    let captions = keywords.get("captions", |value| match value.cast::<PyBytes>() {
        Ok(json) => Ok(Ok(String::from_utf8_lossy(json.as_bytes()).into_owned())),
        Err(_) => path(value).map(Err),
    })?;
    let of_file = |error: cupscale::caption::CaptionError| {
        PyErr::from(Failure::new(Class::Input, error.to_string()))
    };
    let document = match captions {
        Some(Ok(json)) => Some(Document::parse(&json, "captions").map_err(of_file)?),
        Some(Err(path)) => Some(Document::read(&path).map_err(of_file)?),
        None => None,
    };
    if let Some(document) = document {
        return Ok(Describes::This(Arc::new(FromFile::from(document))));
    }
    let known = [("attributes", 0), ("none", 1), ("llava", 2)];
    Ok(match one_of(keywords, "captioner", &known)? {
        Some(0) => Describes::This(Arc::new(Attributes)),
        Some(1) => Describes::This(Arc::new(PromptOnly)),
        Some(_) => Describes::Model,
        None => Describes::Engine,
    })
}
