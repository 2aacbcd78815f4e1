//! Checks of a model's folder before mistral.rs sees it: mistral.rs looks for a missing folder on the network and
//! panics at a file that is not JSON. A model that it runs correctly only with changed files is shown to it as
//! another folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tempfile::TempDir;

use super::MistralrsError;
use crate::temporary::removed_folder;

/// Architectures that mistral.rs 0.8.1 runs correctly only with a workaround.
const HELPED: [(&str, Help); 2] = [
    ("LlavaForConditionalGeneration", Help::Llava),
    ("Idefics3ForConditionalGeneration", Help::OneTile),
];

/// Architectures that mistral.rs 0.8.1 runs incorrectly, with the symptom.
const REFUSED: [(&str, &str); 1] = [(
    "LlavaNextForConditionalGeneration",
    "mistral.rs 0.8.1 gives LLaVA-1.6 pictures that it cannot read (none of its texts is what \
     transformers gives); use --caption-engine builtin",
)];

/// Workarounds that mistral.rs 0.8.1 needs to run a model correctly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Help {
    None,
    /// LLaVA-1.5: see [`super::llava`].
    Llava,
    /// mistral.rs panics if a picture is cut into tiles: the model must see it whole.
    OneTile,
}

/// Fields of `config.json` that decide whether mistral.rs can run the model.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architectures: Vec<String>,
}

/// Checks the model's folder; returns the workaround that it needs.
///
/// # Errors
/// Files on which mistral.rs panics, and architectures that it runs incorrectly.
pub(super) fn check(folder: &Path) -> Result<Help, MistralrsError> {
    if !folder.is_dir() {
        return Err(MistralrsError::NoFolder(folder.to_owned()));
    }
    let mut has_weights = false;
    let read = |source| MistralrsError::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => drop(parse::<IgnoredAny>(&path)?),
            Some("safetensors") => has_weights = true,
            _ => {}
        }
    }
    let missing = |wanted| MistralrsError::Missing { folder: folder.to_owned(), wanted };
    let has = |name: &str| folder.join(name).is_file();
    let config = folder.join("config.json");
    if !config.is_file() {
        return Err(missing("config.json"));
    }
    if !has_weights {
        return Err(missing("*.safetensors"));
    }
    if !has("tokenizer.json") && !has("tekken.json") {
        return Err(missing("tokenizer.json"));
    }
    if !has("preprocessor_config.json") && !has("processor_config.json") {
        return Err(missing("preprocessor_config.json"));
    }
    let [architecture] = &parse::<Config>(&config)?.architectures[..] else {
        return Err(MistralrsError::Architecture(config));
    };
    match REFUSED.iter().find(|(refused, _)| refused == architecture) {
        Some((_, reason)) => {
            Err(MistralrsError::Refused { architecture: architecture.clone(), reason })
        }
        None => {
            let helped = HELPED.iter().find(|(helped, _)| helped == architecture);
            Ok(helped.map_or(Help::None, |(_, help)| *help))
        }
    }
}

/// A folder with the same model that sees a picture whole.
pub(super) fn one_tile(folder: &Path) -> Result<TempDir, MistralrsError> {
    const FILE: &str = "preprocessor_config.json";
    let path = folder.join(FILE);
    let mut preprocessor: Value = if path.is_file() { parse(&path)? } else { Value::Null };
    if let Value::Object(fields) = &mut preprocessor {
        fields.insert("do_image_splitting".to_owned(), false.into());
    }
    shown(folder, &[(FILE, preprocessor)])
}

/// A folder with the same files, but for those in `made`, whose content is given; null leaves one out.
pub(super) fn shown(folder: &Path, made: &[(&str, Value)]) -> Result<TempDir, MistralrsError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| MistralrsError::Read { path, source }
    };
    let other = removed_folder()?;
    for (file, content) in made.iter().filter(|(_, content)| !content.is_null()) {
        let path = other.path().join(file);
        fs::write(&path, content.to_string()).map_err(read(&path))?;
    }
    for entry in fs::read_dir(folder).map_err(read(folder))? {
        let entry = entry.map_err(read(folder))?;
        let (from, name) = (entry.path(), entry.file_name());
        if from.is_file() && !made.iter().any(|(file, _)| name == *file) {
            let from = fs::canonicalize(&from).map_err(read(&from))?;
            let to = other.path().join(name);
            link(&from, &to).map_err(read(&to))?;
        }
    }
    Ok(other)
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(from, to)
}

#[cfg(not(unix))]
fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)
}

/// The content of a JSON file.
pub(super) fn parse<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, MistralrsError> {
    let owned = || PathBuf::from(path);
    let text = fs::read(path).map_err(|source| MistralrsError::Read { path: owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| MistralrsError::Json { path: owned(), source })
}
