//! LoRA and its relatives: small matrices in a file of their own that change a model's weights, in the plainest case
//! `W' = W + scale · (alpha / rank) · up · down`. The file is matched to the model when it is opened; the products
//! are computed one weight at a time, when that weight is read. However the file spells its keys (`roles`, `names`), the
//! network sees ordinary weights.

mod adapted;
mod blocks;
mod builder;
mod changes;
mod config;
mod error;
mod factor;
mod module;
mod names;
mod roles;
mod rotation;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::WeightsError;
use super::families::Family;
use super::part::Part;
use super::small_file::read_small;
use super::source::{Bytes, in_hub_cache, refuse_foreign};
use super::tensors::TensorMap;
use builder::Builder;
use changes::{Change, Changes};
use config::AdapterConfig;
use error::FILES;
use module::{Module, Strength};
use names::Meant;
use roles::LoraTensorRole;

pub use blocks::LoraScale;
pub use error::LoraError;

pub(super) use adapted::Adapted;
pub(super) use names::Index;

/// Name of an adapter's configuration.
const CONFIG: &str = "adapter_config.json";

/// Longest configuration of an adapter in bytes; one with an alpha for every module has some hundred thousand.
const LONGEST_CONFIG: u64 = 16 << 20;

/// Name of a generation of models by the width of the text that its denoiser reads.
fn generation(family: &dyn Family, width: usize) -> String {
    match family.generation(width) {
        Some(name) => format!("{name} ({width}-wide text)"),
        None => format!("one with {width}-wide text"),
    }
}

/// File of a LoRA that is a folder as diffusers or peft save it, on the disk or in the cache of the hub's own
/// tools; every other path is returned as it is.
pub(super) fn file_of(path: &Path) -> PathBuf {
    let folder = in_hub_cache(path);
    let file = FILES.iter().map(|name| folder.join(name)).find(|file| file.is_file());
    file.unwrap_or_else(|| path.to_owned())
}

/// Configuration that lies beside a LoRA's file, if there is one.
pub(super) fn config_of(file: &Path) -> Option<PathBuf> {
    Some(file.with_file_name(CONFIG)).filter(|config| config.is_file())
}

/// A LoRA that has been matched to a model.
#[derive(Clone, Debug)]
pub(super) struct Lora {
    /// name of the file without its folder
    pub name: String,
    pub scale: LoraScale,
    pub notes: Vec<String>,
    changes: HashMap<Part, Arc<Changes>>,
}

impl Lora {
    /// Opens a safetensors file and matches it to the weights of a model.
    ///
    /// # Errors
    /// A file that cannot be read or is of a kind that is not supported, one made for another family, matrices that
    /// do not fit the weights they are named after, or weights of blocks that the model has not.
    pub(super) fn open<'a>(
        path: &Path,
        scale: LoraScale,
        model: &'a Index,
        family: &dyn Family,
    ) -> Result<Self, WeightsError> {
        let file = path.display().to_string();
        let fail = |error| WeightsError::Lora { file: file.clone(), source: Box::new(error) };
        if !scale.scale.is_finite() {
            return Err(fail(LoraError::Scale(scale.scale)));
        }
        let blocks = model.layout().weights(&scale.blocks);
        let blocks = blocks.map_err(|reason| fail(LoraError::Blocks(reason)))?;
        if path.is_dir() {
            return Err(fail(LoraError::Folder));
        }
        let contents = Contents::read(path)?;
        let (modules, strange) = contents.modules().map_err(fail)?;
        check_family(&contents.tensors, &modules, model, family).map_err(fail)?;
        let saved = contents.config(path, &modules, model, family)?;

        let mut changes = HashMap::new();
        let mut left_out = Vec::new();
        for (name, module) in &modules {
            let place = model.place(name);
            let candidates = model.find(&place);
            if candidates.is_empty() {
                left_out.push(*name);
                continue;
            }
            let config = &saved.configs[&place.part];
            let of_weight = |weight: &names::LoraWeight, take| {
                let block = match weight.part {
                    Part::Denoiser => blocks.of_denoiser(weight.block),
                    _ => blocks.of_text(),
                };
                let scale = scale.scale * block;
                let strength = Strength { scale, config, module: place.module };
                let file = &contents.tensors;
                let builder = Builder { module, name, file, weight, take, strength: &strength };
                let change = builder.change()?;
                let bias = module.bias_change(file, weight, take, scale)?;
                let named = change.map(|change| (weight.name.clone(), change));
                Ok(named.into_iter().chain(bias.map(|change| (weight.bias_name(), change))))
            };
            let of_all = |meant: &Meant<'a>| -> Result<Vec<(Part, String, Change)>, LoraError> {
                let mut all = Vec::new();
                for &(weight, take) in meant {
                    let own = of_weight(weight, take)?;
                    all.extend(own.map(|(name, change)| (weight.part, name, change)));
                }
                Ok(all)
            };
            // The names of the two text encoders are the same: the shape decides.
            let tried: Vec<_> = candidates.iter().map(of_all).collect();
            let fitting = tried.iter().position(Result::is_ok).unwrap_or(0);
            let fitting = tried.into_iter().nth(fitting).expect("there are candidates");
            for (part, weight, change) in fitting.map_err(fail)? {
                changes
                    .entry(part)
                    .or_insert_with(|| Changes::new(contents.tensors.clone()))
                    .insert(&weight, change);
            }
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
        if saved.missing {
            notes.push(format!(
                "{file}: no adapter_config.json beside it, so alpha is taken to be the rank, and OFT to be exact"
            ));
        }
        Ok(Self {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            scale,
            notes,
            changes: changes.into_iter().map(|(part, changes)| (part, Arc::new(changes))).collect(),
        })
    }

    /// See [`TensorMap::find_non_finite`].
    pub(super) fn find_non_finite(&self) -> Option<String> {
        self.changes.values().find_map(|changes| changes.file.find_non_finite())
    }

    /// Changes to a part of the model.
    pub(super) fn changes(&self, part: Part) -> Option<Arc<Changes>> {
        self.changes.get(&part).cloned()
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
        refuse_foreign(path)?;
        let bytes =
            Bytes::map(path).map_err(|source| WeightsError::Read { file: file.clone(), source })?;
        let mut tensors = TensorMap::default();
        tensors.add_safetensors(file.clone(), bytes)?;
        Ok(Self { tensors, file })
    }

    /// Modules by name, and the tensors that belong to none, both in alphabetical order.
    fn modules(&self) -> Result<(BTreeMap<&str, Module<'_>>, Vec<&str>), LoraError> {
        let mut keys: Vec<_> = self.tensors.names().collect();
        keys.sort_unstable();
        let (mut modules, mut strange) = (BTreeMap::<_, Module>::new(), Vec::new());
        for &key in &keys {
            if let Some(kind) = roles::other_kind(key) {
                return Err(LoraError::Kind { key: key.to_owned(), kind });
            }
            let Some((name, role)) = roles::split(key) else {
                strange.push(key);
                continue;
            };
            modules.entry(name).or_default().insert(role, key);
        }
        strange.extend(modules.values_mut().filter_map(Module::take_weight));
        strange.sort_unstable();
        modules.retain(|_, module| !module.is_empty());
        if !modules.values().any(Module::changes_something) {
            let first = keys.first().map(|&key| key.to_owned());
            return Err(first.map_or(LoraError::Empty, LoraError::NotLora));
        }
        Ok((modules, strange))
    }

    /// Configuration that belongs to the file.
    fn config(
        &self,
        path: &Path,
        modules: &BTreeMap<&str, Module>,
        model: &Index,
        family: &dyn Family,
    ) -> Result<SavedConfigs, WeightsError> {
        // diffusers' copy of peft's configuration.
        if let Some(text) = self.tensors.metadata("lora_adapter_metadata") {
            return SavedConfigs::parse(&self.file, text.as_bytes(), family);
        }
        let by_peft = modules.keys().any(|name| model.place(name).peft);
        let beside = path.with_file_name(CONFIG);
        let file = beside.display().to_string();
        match by_peft.then(|| read_small(&beside, LONGEST_CONFIG)) {
            None => SavedConfigs::parse(&file, b"null", family),
            Some(Ok(bytes)) => SavedConfigs::parse(&file, &bytes, family),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                let missing = modules.values().any(|module| !module.has(LoraTensorRole::Alpha));
                Ok(SavedConfigs { missing, ..SavedConfigs::parse(&file, b"null", family)? })
            }
            Some(Err(source)) => Err(WeightsError::Read { file, source }),
        }
    }
}

/// Adapter configurations of the parts, which are saved with the matrices.
struct SavedConfigs {
    configs: HashMap<Option<Part>, AdapterConfig>,
    /// `true` if there should have been one
    missing: bool,
}

impl SavedConfigs {
    /// Parses configurations: diffusers puts the parts' names before the fields, peft writes one for whatever its
    /// file is about.
    fn parse(file: &str, bytes: &[u8], family: &dyn Family) -> Result<Self, WeightsError> {
        let json: Value = serde_json::from_slice(bytes)
            .map_err(|source| WeightsError::Json { file: file.to_owned(), source })?;
        let mut configs = HashMap::new();
        let mut parts: Vec<Option<Part>> = vec![None];
        parts.extend(family.lora().prefixes.iter().map(|&(_, part)| Some(part)));
        for part in parts {
            let prefix = part.map_or_else(String::new, |part| format!("{}.", family.folder(part)));
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
    family: &dyn Family,
) -> Result<(), LoraError> {
    let reader = modules.iter().find(|(name, _)| model.place(name).reads_text());
    let lora = reader.and_then(|(_, module)| module.input_width(file));
    match (lora, model.text_width()) {
        (Some(lora), Some(model)) if lora != model => Err(LoraError::Family {
            lora: generation(family, lora),
            model: generation(family, model),
        }),
        _ => Ok(()),
    }
}
