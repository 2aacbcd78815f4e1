//! LoRA: small matrices in a file of their own that change a model's weights,
//! `W' = W + scale · (alpha / rank) · up · down`. The file is matched to the model when it is named;
//! the products are computed one weight at a time, when that weight is read. However the file spells
//! its keys (`names`), the model sees ordinary weights.

mod adapted;
mod config;
mod delta;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::WeightsError;
use super::form::Part;
use super::source::{Bytes, in_hub_cache, refuse_pickle};
use super::tensors::TensorMap;
use config::AdapterConfig;
use delta::{Delta, Deltas};
use names::{Place, Role};

pub(super) use adapted::Adapted;
pub(super) use names::Index;

/// Why a LoRA cannot be used with a model.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    #[error("a folder without {}; name the safetensors file in it", FILES.join(" or "))]
    Folder,
    #[error("not a LoRA: no tensors in it")]
    Empty,
    #[error("the scale {0} is not a number")]
    Scale(f64),
    #[error("`{key}` belongs to {kind}, which is not supported (a plain LoRA is)")]
    Kind { key: String, kind: &'static str },
    #[error("not a LoRA: no pair of lora_down and lora_up (its first tensor: `{0}`)")]
    NotLora(String),
    #[error("made for {}, this model is {}", family(*.lora), family(*.model))]
    Family { lora: usize, model: usize },
    #[error("none of its {count} modules is in this model (the first: `{first}`)")]
    NothingMatches { count: usize, first: String },
    #[error("`{module}` has no {missing}")]
    Half { module: String, missing: &'static str },
    #[error("`{0}` has rank 0")]
    NoRank(String),
    #[error(
        "`{down}`: an up of {:?} and a down of {:?} do not make `{weight}` of {expected:?}",
        .shapes[0], .shapes[1]
    )]
    Shape { down: String, shapes: [Vec<usize>; 2], weight: String, expected: Vec<usize> },
    #[error("`{key}` is {value}, not a finite number")]
    Alpha { key: String, value: f64 },
    #[error("`{0}` is not one number")]
    AlphaShape(String),
}

/// A model family by how wide the text is that its UNet reads.
fn family(width: usize) -> String {
    match width {
        768 => "Stable Diffusion 1.x (768-wide text)".to_owned(),
        1024 => "Stable Diffusion 2.x (1024-wide text)".to_owned(),
        2048 => "SDXL (2048-wide text)".to_owned(),
        _ => format!("one with {width}-wide text"),
    }
}

/// What diffusers and peft call the file when they save a LoRA into a folder.
const FILES: [&str; 2] = ["pytorch_lora_weights.safetensors", "adapter_model.safetensors"];

/// The file of a LoRA that is a folder as diffusers or peft save it, on the disk or in the cache of the
/// hub's own tools; every other path is what it is.
pub(super) fn file_of(path: &Path) -> PathBuf {
    let folder = in_hub_cache(path);
    let file = FILES.iter().map(|name| folder.join(name)).find(|file| file.is_file());
    file.unwrap_or_else(|| path.to_owned())
}

/// A LoRA that has been matched to a model.
#[derive(Clone, Debug)]
pub(super) struct Lora {
    /// the file's name without its folder
    pub name: String,
    pub scale: f64,
    pub notes: Vec<String>,
    deltas: HashMap<Part, Arc<Deltas>>,
}

impl Lora {
    /// Opens a safetensors file and matches it to the weights of a model.
    ///
    /// # Errors
    /// A file that cannot be read or is no plain LoRA, one made for another family, or matrices that
    /// do not fit the weights they are named after.
    pub(super) fn open(path: &Path, scale: f64, model: &Index) -> Result<Self, WeightsError> {
        let file = path.display().to_string();
        let fail = |error| WeightsError::Lora { file: file.clone(), error: Box::new(error) };
        if !scale.is_finite() {
            return Err(fail(LoraError::Scale(scale)));
        }
        if path.is_dir() {
            return Err(fail(LoraError::Folder));
        }
        let contents = Contents::read(path)?;
        let (modules, strange) = contents.modules().map_err(fail)?;
        check_family(&contents.tensors, &modules, model).map_err(fail)?;
        let beside = contents.config(path, &modules)?;

        let mut deltas = HashMap::new();
        let mut left_out = Vec::new();
        for (name, module) in &modules {
            let place = Place::parse(name);
            let candidates = model.find(&place);
            if candidates.is_empty() {
                left_out.push(*name);
                continue;
            }
            let config = &beside.configs[&place.part];
            let delta = |weight: &names::Weight| {
                let pair = module.pair(name)?;
                let factor = |rank: usize| {
                    let own = module.alpha.map(|key| contents.alpha(key)).transpose()?;
                    let alpha = own.map(|alpha| alpha / rank as f64);
                    Ok(scale * alpha.unwrap_or_else(|| config.scale(place.module, rank)))
                };
                let weight = (weight.name.as_str(), weight.shape.as_slice());
                Delta::new(&contents.tensors, pair, module.mid, weight, factor)
            };
            // The names of the two text encoders are the same: the shape decides.
            let tried: Vec<_> = candidates.iter().map(|&weight| (weight, delta(weight))).collect();
            let fitting = tried.iter().position(|(_, delta)| delta.is_ok()).unwrap_or(0);
            let (weight, delta) = tried.into_iter().nth(fitting).expect("there are candidates");
            let part =
                deltas.entry(weight.part).or_insert_with(|| Deltas::new(contents.tensors.clone()));
            part.insert(&weight.name, delta.map_err(fail)?);
        }
        if left_out.len() == modules.len() {
            let first = left_out.first().map_or_else(String::new, |&name| name.to_owned());
            return Err(fail(LoraError::NothingMatches { count: modules.len(), first }));
        }
        let mut notes = Vec::new();
        if let Some(first) = left_out.first() {
            notes.push(format!(
                "{file}: {} of its {} modules are not in this model and are left out (the first: `{first}`)",
                left_out.len(),
                modules.len()
            ));
        }
        if let Some(first) = strange.first() {
            notes.push(format!(
                "{file}: {} of its tensors are no part of a LoRA and are left out (the first: `{first}`)",
                strange.len()
            ));
        }
        if beside.missing {
            notes.push(format!(
                "{file}: no adapter_config.json beside it, so alpha is taken to be the rank"
            ));
        }
        Ok(Self {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            scale,
            notes,
            deltas: deltas.into_iter().map(|(part, deltas)| (part, Arc::new(deltas))).collect(),
        })
    }

    /// See [`TensorMap::find_non_finite`].
    pub(super) fn find_non_finite(&self) -> Option<String> {
        self.deltas.values().find_map(|deltas| deltas.file.find_non_finite())
    }

    /// What it changes in a part of the model.
    pub(super) fn deltas(&self, part: Part) -> Option<Arc<Deltas>> {
        self.deltas.get(&part).cloned()
    }
}

/// The tensors of one module, by their keys.
#[derive(Default)]
struct Module<'a> {
    up: Option<&'a str>,
    down: Option<&'a str>,
    mid: Option<&'a str>,
    alpha: Option<&'a str>,
}

impl<'a> Module<'a> {
    /// `up` and `down`.
    fn pair(&self, name: &str) -> Result<[&'a str; 2], LoraError> {
        let missing =
            |role: Role| LoraError::Half { module: name.to_owned(), missing: role.title() };
        Ok([
            self.up.ok_or_else(|| missing(Role::Up))?,
            self.down.ok_or_else(|| missing(Role::Down))?,
        ])
    }
}

/// A LoRA file.
struct Contents {
    tensors: TensorMap,
    file: String,
}

impl Contents {
    fn read(path: &Path) -> Result<Self, WeightsError> {
        let file = path.display().to_string();
        refuse_pickle(path)?;
        let bytes =
            Bytes::map(path).map_err(|source| WeightsError::Read { file: file.clone(), source })?;
        let mut tensors = TensorMap::default();
        tensors.add_safetensors(file.clone(), bytes)?;
        Ok(Self { tensors, file })
    }

    /// Its modules by name, and the tensors that belong to none, both in alphabetical order.
    fn modules(&self) -> Result<(BTreeMap<&str, Module<'_>>, Vec<&str>), LoraError> {
        let mut keys: Vec<_> = self.tensors.names().collect();
        keys.sort_unstable();
        let (mut modules, mut strange) = (BTreeMap::<_, Module>::new(), Vec::new());
        for &key in &keys {
            if let Some(kind) = names::other_kind(key) {
                return Err(LoraError::Kind { key: key.to_owned(), kind });
            }
            let Some((name, role)) = names::split(key) else {
                strange.push(key);
                continue;
            };
            let module = modules.entry(name).or_default();
            *match role {
                Role::Up => &mut module.up,
                Role::Down => &mut module.down,
                Role::Mid => &mut module.mid,
                Role::Alpha => &mut module.alpha,
            } = Some(key);
        }
        if modules.values().all(|module| module.up.is_none() && module.down.is_none()) {
            let first = keys.first().map(|&key| key.to_owned());
            return Err(first.map_or(LoraError::Empty, LoraError::NotLora));
        }
        Ok((modules, strange))
    }

    fn alpha(&self, key: &str) -> Result<f64, LoraError> {
        match self.tensors.number(key) {
            Some(value) if value.is_finite() => Ok(value),
            Some(value) => Err(LoraError::Alpha { key: key.to_owned(), value }),
            None => Err(LoraError::AlphaShape(key.to_owned())),
        }
    }

    /// The configuration that belongs to the file.
    fn config(
        &self,
        path: &Path,
        modules: &BTreeMap<&str, Module>,
    ) -> Result<Beside, WeightsError> {
        // diffusers' copy of peft's configuration.
        if let Some(text) = self.tensors.metadata("lora_adapter_metadata") {
            return Beside::parse(&self.file, text.as_bytes());
        }
        let by_peft = modules.keys().any(|name| Place::parse(name).peft);
        let beside = path.with_file_name("adapter_config.json");
        let file = beside.display().to_string();
        match by_peft.then(|| std::fs::read(&beside)) {
            None => Beside::parse(&file, b"null"),
            Some(Ok(bytes)) => Beside::parse(&file, &bytes),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                let missing = modules.values().any(|module| module.alpha.is_none());
                Ok(Beside { missing, ..Beside::parse(&file, b"null")? })
            }
            Some(Err(source)) => Err(WeightsError::Read { file, source }),
        }
    }
}

/// The configurations of the parts, which stand beside the matrices.
struct Beside {
    configs: HashMap<Option<Part>, AdapterConfig>,
    /// whether there should have been one
    missing: bool,
}

impl Beside {
    /// diffusers puts the parts' names before the fields; peft writes one configuration for whatever
    /// its file is about.
    fn parse(file: &str, bytes: &[u8]) -> Result<Self, WeightsError> {
        let json: Value = serde_json::from_slice(bytes)
            .map_err(|source| WeightsError::Json { file: file.to_owned(), source })?;
        let mut configs = HashMap::new();
        for part in Part::ALL.map(Some).into_iter().chain([None]) {
            let prefix = part.map_or_else(String::new, |part| format!("{part}."));
            let prefixed = json
                .as_object()
                .is_some_and(|fields| fields.keys().any(|field| field.starts_with(&prefix)));
            let config = AdapterConfig::from_json(&json, if prefixed { &prefix } else { "" })
                .map_err(|reason| WeightsError::Config { file: file.to_owned(), reason })?;
            configs.insert(part, config);
        }
        Ok(Self { configs, missing: false })
    }
}

/// Compares the width of the text that the LoRA's layers read with that of the model's.
fn check_family(
    file: &TensorMap,
    modules: &BTreeMap<&str, Module>,
    model: &Index,
) -> Result<(), LoraError> {
    let reader = modules.iter().find(|(name, _)| Place::parse(name).reads_text());
    let lora = reader.and_then(|(_, module)| file.shape(module.down?)?.get(1).copied());
    match (lora, model.text_width()) {
        (Some(lora), Some(model)) if lora != model => Err(LoraError::Family { lora, model }),
        _ => Ok(()),
    }
}
