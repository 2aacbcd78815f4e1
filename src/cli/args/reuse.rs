//! `--reuse`: the settings that an output carries, as words of the command line. They are parsed as if they had been typed,
//! so that each has its option's range and meaning; what the user typed goes before them.

use std::{collections::HashSet, ffi::OsString, path::PathBuf};

use clap::Args;
use cupscale::{
    image::read_settings,
    pipeline::LANCZOS,
    weights::{
        names_embedded,
        registry::{Kind, Store},
    },
};
use serde_json::{Map, Value};

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Repainting")]
pub struct ReuseArgs {
    /// Take the settings that made this picture as defaults; options go before them
    #[arg(long, value_name = "PICTURE")]
    pub reuse: Option<PathBuf>,
    /// What is said of the settings that were taken.
    #[arg(skip)]
    pub notes: Vec<String>,
}

/// The words for a picture's settings, and notes for the user.
#[derive(Debug, Default)]
pub struct Reused {
    pub words: Vec<OsString>,
    pub notes: Vec<String>,
}

/// Settings whose value is the option's value: key of the settings, options that go before it, kind of the value.
const PLAIN: [(&str, &[&str], Shape); 24] = [
    ("prompt", &["prompt", "words"], Shape::Text),
    ("negative_prompt", &["negative_prompt"], Shape::Text),
    ("prompt_syntax", &["prompt_syntax"], Shape::Text),
    ("seed", &["seed"], Shape::Number),
    ("sampler", &["sampler"], Shape::Text),
    ("eta", &["eta"], Shape::Number),
    ("denoise_steps", &["denoise_steps", "strength"], Shape::Number),
    ("guidance", &["guidance"], Shape::Number),
    ("overlap", &["overlap"], Shape::Number),
    ("fusion", &["fusion"], Shape::Text),
    ("gsp", &["gsp"], Shape::Number),
    ("rap", &["rap"], Shape::Number),
    ("rsp", &["rsp"], Shape::Number),
    ("first_share", &["first_share"], Shape::Number),
    ("sharpen", &["sharpen"], Shape::Number),
    ("grain", &["grain"], Shape::Number),
    ("fidelity", &["fidelity"], Shape::Number),
    ("coherence", &["coherence"], Shape::Number),
    ("texture", &["texture"], Shape::Number),
    ("color_fix", &["color_fix"], Shape::Text),
    ("blend", &["blend"], Shape::Number),
    ("spacing", &["spacing", "timesteps"], Shape::Text),
    ("sigmas", &["sigmas", "timesteps"], Shape::Text),
    ("bit_depth", &["bit_depth"], Shape::Number),
];
/// Settings of LLaVA's sampling and weights.
const CAPTION: [(&str, Shape); 4] = [
    ("caption_quantize", Shape::Text),
    ("caption_temperature", Shape::Number),
    ("caption_top_p", Shape::Number),
    ("caption_seed", Shape::Number),
];
/// Settings that are read elsewhere here, or that say nothing of a next run.
const OTHERS: [&str; 17] = [
    "version",
    "model",
    "first",
    "loras",
    "embeddings",
    "controls",
    "size",
    "captioner",
    "caption_model",
    "steps",
    "timesteps",
    "detail_only",
    "tile_jitter",
    "mask",
    "invert_mask",
    "mask_feather",
    GENERATED,
];
/// How the input was made from words.
const GENERATED: &str = "generated";
/// Settings of a base picture: key, and option of `generate`.
const OF_BASE: [(&str, &str); 2] = [("steps", "base_steps"), ("guidance", "base_guidance")];
/// What a file that ended early left in its output's settings.
const OF_INPUT: &str = "truncated_input";

#[derive(Clone, Copy, Debug)]
enum Shape {
    Number,
    Text,
}

/// The settings of the picture at `path`, but for those of which an option was typed: `typed` holds the options' names.
/// Those of a base picture are for another that is made from words, and the bits of samples for verbs that write picture files.
///
/// # Errors
/// One line that says what cannot be taken: a file that is no picture or carries no settings, a value that is none, a model
/// that is not installed.
pub fn reused(path: &std::path::Path, typed: &HashSet<&str>, verb: &str) -> Result<Reused, String> {
    let settings = read_settings(path).map_err(|error| error.to_string())?;
    let Some(settings) = settings else {
        return Err("it carries no settings of this program".to_owned());
    };
    let Ok(Value::Object(record)) = serde_json::from_str(&settings) else {
        return Err("its settings are damaged".to_owned());
    };
    let mut reused = Reused::default();
    let free = |options: &[&str]| !options.iter().any(|option| typed.contains(option));
    // What is recorded is what a profile set, and what is not was not set.
    if free(&["profile"]) {
        reused.words.push("--profile=balanced".into());
    }
    let has_depth = !matches!(verb, "caption" | "raw" | "pipe" | "serve");
    for (key, options, shape) in PLAIN {
        let is_wanted = free(options) && (key != "bit_depth" || has_depth);
        if let (Some(value), true) = (record.get(key), is_wanted) {
            reused.push(key, &plain(key, value, shape)?);
        }
    }
    if verb == "generate" {
        reused.base(&record, &free)?;
    }
    // A base picture by itself was not enlarged.
    let is_enlarged = !record.contains_key(GENERATED) || record.contains_key("denoise_steps");
    reused.size(&record, is_enlarged && free(&["scale", "size", "long_edge"]))?;
    reused.schedule(&record, free(&["steps", "timesteps"]))?;
    if record.get("detail_only").is_some_and(|value| *value == true) && free(&["detail_only"]) {
        reused.words.push("--detail-only".into());
    }
    if record.get("tile_jitter").is_some_and(|value| *value == true) && free(&["tile_jitter"]) {
        reused.words.push("--tile-jitter".into());
    }
    reused.mask(&record, &free)?;
    reused.captioner(&record, &free)?;
    reused.model(&record, &free)?;
    reused.embeddings(&record, &free)?;
    reused.controls(&record, free(&["control", "control_kind", "control_image"]))?;
    reused.others(&record);
    Ok(reused)
}

impl Reused {
    /// Adds an option and its value as one word, whatever the value begins with.
    fn push(&mut self, key: &str, value: &str) {
        self.words.push(format!("--{}={value}", key.replace('_', "-")).into());
    }

    fn size(&mut self, record: &Map<String, Value>, free: bool) -> Result<(), String> {
        match record.get("size").filter(|_| free) {
            Some(value) => self.push_size("size", value),
            None => Ok(()),
        }
    }

    fn push_size(&mut self, key: &str, value: &Value) -> Result<(), String> {
        match value.as_array().map(Vec::as_slice) {
            Some([width, height]) if width.is_u64() && height.is_u64() => {
                self.push(key, &format!("{width}x{height}"));
                Ok(())
            }
            _ => Err(wrong(key, value)),
        }
    }

    /// The base picture of one that was made from words.
    fn base(
        &mut self,
        record: &Map<String, Value>,
        free: &impl Fn(&[&str]) -> bool,
    ) -> Result<(), String> {
        let Some(value) = record.get(GENERATED) else { return Ok(()) };
        let base = value.as_object().ok_or_else(|| wrong(GENERATED, value))?;
        if let Some(value) = base.get("size").filter(|_| free(&["base_size"])) {
            self.push_size("base_size", value)?;
        }
        for (key, option) in OF_BASE {
            if let Some(value) = base.get(key).filter(|_| free(&[option])) {
                self.push(option, &plain(key, value, Shape::Number)?);
            }
        }
        Ok(())
    }

    /// A list of timesteps goes before a number of steps.
    fn schedule(&mut self, record: &Map<String, Value>, free: bool) -> Result<(), String> {
        if !free {
            return Ok(());
        }
        if let Some(value) = record.get("timesteps") {
            let list = value.as_array().filter(|list| list.iter().all(Value::is_u64));
            let list = list.ok_or_else(|| wrong("timesteps", value))?;
            let list: Vec<String> = list.iter().map(Value::to_string).collect();
            self.push("timesteps", &list.join(","));
        } else if let Some(value) = record.get("steps") {
            self.push("steps", &plain("steps", value, Shape::Number)?);
        }
        Ok(())
    }

    /// A picture says that it had a mask, and not which file that was.
    fn mask(
        &mut self,
        record: &Map<String, Value>,
        free: &impl Fn(&[&str]) -> bool,
    ) -> Result<(), String> {
        if !record.contains_key("mask") {
            return Ok(());
        }
        if free(&["mask"]) {
            return Err("its mask came from a file: name that with --mask".to_owned());
        }
        if record.get("invert_mask").is_some_and(|value| *value == true) && free(&["invert_mask"]) {
            self.words.push("--invert-mask".into());
        }
        match record.get("mask_feather").filter(|_| free(&["mask_feather"])) {
            Some(value) => {
                self.push("mask_feather", &plain("mask_feather", value, Shape::Number)?);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn captioner(
        &mut self,
        record: &Map<String, Value>,
        free: &impl Fn(&[&str]) -> bool,
    ) -> Result<(), String> {
        let Some(value) = record.get("captioner").filter(|_| free(&["captioner", "captions"]))
        else {
            return Ok(());
        };
        match value.as_str() {
            Some(name @ ("attributes" | "none")) => {
                self.push("captioner", name);
                return Ok(());
            }
            Some("llava") => self.push("captioner", "llava"),
            Some("mistralrs") => {
                self.push("captioner", "llava");
                self.push("caption_engine", "mistralrs");
            }
            Some("file") => {
                return Err("its captions came from a file: name that with --captions".to_owned());
            }
            _ => return Err(wrong("captioner", value)),
        }
        for (key, shape) in CAPTION {
            if let (Some(value), true) = (record.get(key), free(&[key])) {
                self.push(key, &plain(key, value, shape)?);
            }
        }
        if let (Some(value), true) = (record.get("caption_model"), free(&["caption_model"])) {
            let name = plain("caption_model", value, Shape::Text)?;
            if !is_installed(&name, Kind::Captioner) {
                return Err(format!(
                    "its caption_model {value} is not installed under this name: name it with --caption-model"
                ));
            }
            self.push("caption_model", &name);
        }
        Ok(())
    }

    /// The first enlarger, the model and its LoRAs, by the names that they are installed under.
    fn model(
        &mut self,
        record: &Map<String, Value>,
        free: &impl Fn(&[&str]) -> bool,
    ) -> Result<(), String> {
        if let Some(value) = record.get("first").filter(|_| free(&["first"])) {
            let name = plain("first", value, Shape::Text)?;
            if name != LANCZOS && !is_installed(&name, Kind::Enlarger) {
                return Err(format!(
                    "its first enlarger {value} is not installed under this name: name it with --first"
                ));
            }
            self.push("first", &name);
        }
        let Some(value) = record.get("model").filter(|_| free(&["model"])) else { return Ok(()) };
        let name = plain("model", value, Shape::Text)?;
        if !names_embedded(&name) {
            if !is_installed(&name, Kind::Diffusion) {
                return Err(format!(
                    "its model {value} is not installed under this name: name it with --model"
                ));
            }
            self.push("model", &name);
        }
        let Some(value) = record.get("loras").filter(|_| free(&["lora"])) else { return Ok(()) };
        let loras = value.as_array().ok_or_else(|| wrong("loras", value))?;
        // Those of the installed model come with it, and are the first.
        let own = loras_of(&name);
        for lora in loras.iter().skip(own) {
            let (Some(file), Some(scale)) =
                (lora.get(0).and_then(Value::as_str), lora.get(1).and_then(Value::as_f64))
            else {
                return Err(wrong("loras", lora));
            };
            let Some(name) = installed_lora(file) else {
                return Err(format!("its LoRA {} is not installed: name it with --lora", lora[0]));
            };
            let blocks = match lora.get(2) {
                None => String::new(),
                Some(blocks) => {
                    let numbers = blocks.as_array().map(|list| list.iter().map(Value::as_f64));
                    let numbers: Option<Vec<_>> = numbers.and_then(Iterator::collect);
                    let numbers = numbers.ok_or_else(|| wrong("loras", lora))?;
                    numbers.iter().fold(String::new(), |text, number| {
                        format!("{text}{}{number}", if text.is_empty() { ':' } else { ',' })
                    })
                }
            };
            self.push("lora", &format!("{name}:{scale}{blocks}"));
        }
        Ok(())
    }

    /// Embeddings are known by name alone, and their files may be anywhere.
    fn embeddings(
        &self,
        record: &Map<String, Value>,
        free: &impl Fn(&[&str]) -> bool,
    ) -> Result<(), String> {
        match record.get("embeddings").filter(|_| free(&["embedding"])) {
            None => Ok(()),
            Some(names) => Err(format!(
                "its prompts use embeddings {names}: name their files with --embedding"
            )),
        }
    }

    /// The ControlNets, by the names that they are installed under. They were there for an enlargement.
    fn controls(&mut self, record: &Map<String, Value>, free: bool) -> Result<(), String> {
        let Some(value) = record.get("controls").filter(|_| free) else { return Ok(()) };
        let controls = value.as_array().ok_or_else(|| wrong("controls", value))?;
        for control in controls {
            let number = |value: &Value| value.as_f64().map(|number| number.to_string());
            let text = |key: &str| control.get(key).and_then(Value::as_str);
            let numbers = ["/scale", "/range/0", "/range/1"];
            let numbers = numbers.map(|place| control.pointer(place).and_then(number));
            let (Some(name), Some(kind), [Some(scale), Some(start), Some(end)]) =
                (text("model"), text("kind"), numbers)
            else {
                return Err(wrong("controls", control));
            };
            if let Some(image) = text("image") {
                return Err(format!(
                    "its ControlNet {name} saw a picture of its own ({image}): name both with --control and --control-image"
                ));
            }
            if !is_installed(name, Kind::Control) {
                return Err(format!(
                    "its ControlNet {name} is not installed under this name: name it with --control"
                ));
            }
            self.push("control", &format!("{name}:{scale}:{start}-{end}"));
            self.push("control_kind", kind);
        }
        Ok(())
    }

    /// Says what is left out.
    fn others(&mut self, record: &Map<String, Value>) {
        let is_known = |key: &str| {
            key == OF_INPUT
                || OTHERS.contains(&key)
                || PLAIN.iter().any(|plain| plain.0 == key)
                || CAPTION.iter().any(|caption| caption.0 == key)
        };
        for key in record.keys().filter(|key| !is_known(key)) {
            self.notes
                .push(format!("--reuse leaves out `{key}`, which this version does not know"));
        }
        let version = record.get("version").and_then(Value::as_str).unwrap_or_default();
        if version != env!("CARGO_PKG_VERSION") {
            self.notes.push(format!(
                "--reuse: version {version} made that picture; this is {}",
                env!("CARGO_PKG_VERSION")
            ));
        }
    }
}

/// A value as its option takes it.
fn plain(key: &str, value: &Value, shape: Shape) -> Result<String, String> {
    match (shape, value) {
        (Shape::Number, Value::Number(number)) => Ok(number.to_string()),
        (Shape::Text, Value::String(text)) => Ok(text.clone()),
        _ => Err(wrong(key, value)),
    }
}

fn wrong(key: &str, value: &Value) -> String {
    format!("its `{key}` cannot be {value}")
}

/// `true` for the name of an installed model of this kind.
fn is_installed(name: &str, kind: Kind) -> bool {
    let manifest = Store::open().and_then(|store| store.manifest(name));
    manifest.is_ok_and(|entry| entry.is_some_and(|entry| entry.kind == kind))
}

/// Number of LoRAs that an installed model brings.
fn loras_of(name: &str) -> usize {
    let manifest = Store::open().and_then(|store| store.manifest(name));
    manifest.ok().flatten().map_or(0, |entry| entry.run.loras.len())
}

/// Name under which a LoRA's file is installed.
fn installed_lora(file: &str) -> Option<String> {
    let store = Store::open().ok()?;
    let entries = store.manifests().ok()?.into_iter().filter(|entry| entry.kind == Kind::Lora);
    let has_it = |name: &str| {
        let found = store.resolve(name.as_ref()).ok();
        found.is_some_and(|found| found.weights.file_name() == Some(file.as_ref()))
    };
    entries.map(|entry| entry.name).find(|name| has_it(name))
}
