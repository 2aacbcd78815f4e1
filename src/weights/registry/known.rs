//! The registry: models that have a name. The list is part of the program (`models/registry.json`);
//! a `registry.json` in the models folder adds to it, in the same form.

use std::path::Path;

use serde::Deserialize;
use strsim::levenshtein;

use super::store::LONGEST_DESCRIPTION;
use super::{Kind, LoraRef, ModelEntry, ModelError, Role, check};
use crate::weights::small_file::read_small;

const EMBEDDED: &str = include_str!("../../../models/registry.json");
const EMBEDDED_NAME: &str = "models/registry.json";

/// Models that have a name.
#[derive(Clone, Debug)]
pub struct Registry {
    models: Vec<ModelEntry>,
}

#[derive(Deserialize)]
struct RegistryFile {
    version: u32,
    models: Vec<ModelEntry>,
}

impl Registry {
    /// Loads the program's own list and the additions of the models folder `root`: an addition replaces an entry of
    /// the same name.
    ///
    /// # Errors
    /// Additions that cannot be read, or that are not what a registry must be.
    pub fn load(root: &Path) -> Result<Self, ModelError> {
        let mut registry = Self { models: Vec::new() };
        registry.extend(EMBEDDED.as_bytes(), EMBEDDED_NAME)?;
        let additions = root.join("registry.json");
        match read_small(&additions, LONGEST_DESCRIPTION) {
            Ok(bytes) => registry.extend(&bytes, &additions.display().to_string())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ModelError::io(&additions, error)),
        }
        Ok(registry)
    }

    fn extend(&mut self, bytes: &[u8], file: &str) -> Result<(), ModelError> {
        let bad = |reason: String| ModelError::Registry { file: file.to_owned(), reason };
        let parsed: RegistryFile =
            serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        if parsed.version != 1 {
            return Err(bad(format!("version {}: this program reads version 1", parsed.version)));
        }
        for entry in parsed.models {
            check::check_entry(&entry).map_err(|reason| bad(reason.to_string()))?;
            match self.models.iter_mut().find(|known| known.name == entry.name) {
                Some(known) => *known = entry,
                None => self.models.push(entry),
            }
        }
        Ok(())
    }

    /// All entries, in the order of the list.
    #[must_use]
    pub fn models(&self) -> &[ModelEntry] {
        &self.models
    }

    /// Entry of that name, as it is in the list.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&ModelEntry> {
        self.models.iter().find(|entry| entry.name == name)
    }

    /// Entry of that name with the sources of everything that it names: of its base, of its LoRAs, of its VAE.
    /// Its own sources come first.
    ///
    /// # Errors
    /// A name that the registry does not have, at whatever depth.
    pub fn complete(&self, name: &str) -> Result<ModelEntry, ModelError> {
        let mut entry = self.get(name).ok_or_else(|| self.unknown(name))?.clone();
        if let Some(base) = entry.base.take() {
            let base = self.part(name, &base, Kind::Diffusion)?;
            entry
                .sources
                .extend(base.sources.iter().filter(|source| source.role == Role::Model).cloned());
        }
        for LoraRef { model, file, .. } in &mut entry.run.loras {
            let Some(model) = model else { continue };
            let lora = self.part(name, model, Kind::Lora)?;
            let first = lora.sources.iter().flat_map(|source| &source.files).next();
            file.clone_from(&first.map(|file| file.path.clone()));
            entry.sources.extend(lora.sources.iter().cloned());
        }
        if let Some(vae) = &entry.run.vae {
            entry.sources.extend(self.part(name, vae, Kind::Vae)?.sources.iter().cloned());
        }
        Ok(entry)
    }

    fn part(&self, of: &str, name: &str, kind: Kind) -> Result<&ModelEntry, ModelError> {
        self.get(name).filter(|entry| entry.kind == kind).ok_or_else(|| ModelError::Registry {
            file: of.to_owned(),
            reason: format!("it needs `{name}`, which is no {} of the registry", kind.name()),
        })
    }

    /// Error for a name that nothing has, with names that look like it.
    #[must_use]
    pub fn unknown(&self, name: &str) -> ModelError {
        let mut close: Vec<(usize, &str)> = self
            .models
            .iter()
            .map(|entry| {
                (levenshtein(&name.to_lowercase(), &entry.name.to_lowercase()), entry.name.as_str())
            })
            .filter(|&(distance, known)| distance <= 3.max(name.len() / 3) || known.contains(name))
            .collect();
        close.sort_unstable();
        ModelError::Unknown {
            name: name.to_owned(),
            close: close.into_iter().take(3).map(|(_, name)| name.to_owned()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded() -> Registry {
        Registry::load(Path::new("no-such-folder")).unwrap()
    }

    #[test]
    fn every_known_model_is_whole_once_its_parts_are_added() {
        let registry = embedded();
        for entry in registry.models() {
            let whole = registry.complete(&entry.name).unwrap();
            assert!(whole.base.is_none() && !whole.sources.is_empty(), "{}", entry.name);
            assert!(whole.licence.is_some(), "{}", entry.name);
            let wanted = if entry.kind == Kind::Lora { Role::Lora } else { Role::Model };
            let wanted = if entry.kind == Kind::Vae { Role::Vae } else { wanted };
            let wanted = if entry.kind == Kind::Control { Role::Control } else { wanted };
            let mains = whole.sources.iter().filter(|source| source.role == wanted).count();
            assert_eq!(mains, 1, "{}", entry.name);
            for lora in &whole.run.loras {
                let file = lora.file.as_deref().unwrap();
                let mut sources = whole.sources.iter().filter(|source| source.role == Role::Lora);
                assert!(sources.any(|source| source.files.iter().any(|entry| entry.path == file)));
            }
            assert_eq!(whole.run.native_size.is_some(), entry.kind == Kind::Diffusion);
        }
    }

    #[test]
    fn hyper_sdxl_is_sdxl_base_with_a_lora_run_as_its_card_says() {
        let hyper = embedded().complete("hyper-sdxl").unwrap();
        let base = embedded().complete("sdxl-base").unwrap();
        assert!(hyper.sources.contains(&base.sources[0]));
        let run = hyper.run;
        assert_eq!((run.sampler.as_deref(), run.steps), (Some("ddim"), Some(8)));
        assert_eq!(run.timestep_spacing.as_deref(), Some("trailing"));
        assert_eq!((run.guidance, run.eta), (Some(1.0), Some(0.0)));
        assert_eq!(run.loras[0].file.as_deref(), Some("Hyper-SDXL-8steps-lora.safetensors"));
        assert_eq!((run.loras[0].scale, run.native_size), (1.0, Some(1024)));
    }

    #[test]
    fn a_misspelt_name_is_answered_with_names_like_it() {
        for (typed, meant) in
            [("hypersdxl", "hyper-sdxl"), ("SD-15", "sd15"), ("llava", "llava-1.5-7b")]
        {
            let ModelError::Unknown { close, .. } = embedded().unknown(typed) else { panic!() };
            assert!(close.iter().any(|name| name == meant), "{typed}: {close:?}");
        }
        let line = embedded().unknown("something-else-entirely").to_string();
        assert!(line.contains("no such model"), "{line}");
    }
}
