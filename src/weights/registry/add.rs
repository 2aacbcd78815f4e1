//! Registration of the user's own weights under a name. Nothing is copied; sizes and digests are recorded, so that
//! `verify` can tell later whether the files are still the same.

use std::path::{Path, PathBuf};

use super::{
    FileEntry, Kind, LoraRef, ModelEntry, ModelError, Registry, Role, RunDefaults, Source, Store,
    check,
};
use crate::weights::control::ControlFiles;
use crate::weights::file_kind::FileKind;
use crate::weights::hub::{TransferProgress, TransferWork, sha256_file};
use crate::weights::source::{has_extension, in_hub_cache, refuse_foreign};
use crate::weights::{EnlargerFiles, LlavaFiles, LoraScale, WeightsError, lora};

/// Extensions of files that belong to a model, among all that may lie in a folder.
const EXTENSIONS: [&str; 6] = ["safetensors", "gguf", "json", "txt", "model", "jinja"];
/// Deepest nesting of a model's folders.
const MAX_DEPTH: usize = 3;

/// The user's own weights.
#[derive(Clone, Debug, Default)]
pub struct OwnWeights {
    /// model: a folder in diffusers layout, a `.safetensors` or a `.gguf` file; or a LLaVA model, a ControlNet, or an enlarging network
    pub weights: PathBuf,
    /// LoRAs, each a file or the name of an installed LoRA, with its scale
    pub loras: Vec<(PathBuf, LoraScale)>,
    /// denoiser in place of the model's own: a folder or a file
    pub denoiser: Option<PathBuf>,
    /// T5 text encoder in place of the model's own: a folder or a file
    pub text_encoder: Option<PathBuf>,
    /// VAE in place of the model's own: a folder, a file, or the name of an installed VAE
    pub vae: Option<PathBuf>,
    /// file with the vision tower of a captioner whose decoder is a GGUF file, where it is not the only one
    /// beside it
    pub mmproj: Option<PathBuf>,
    /// defaults of a run; LoRAs and VAE are filled in
    pub run: RunDefaults,
}

/// Registers weights under a name that is free.
///
/// # Errors
/// A name that is taken or none; a path that does not hold weights; a file that cannot be read.
pub fn add(
    store: &Store,
    name: &str,
    own: OwnWeights,
    progress: &mut dyn TransferProgress,
) -> Result<ModelEntry, ModelError> {
    if !check::is_name(name) {
        return Err(ModelError::BadName { name: name.to_owned() });
    }
    let taken = |by, own| Err(ModelError::NameTaken { name: name.to_owned(), by, own });
    if Registry::load(store.root())?.get(name).is_some() {
        return taken("a known model", false);
    }
    if store.manifest(name)?.is_some() {
        return taken("an installed model", true);
    }
    let kind = kind_of(&own.weights);
    match kind {
        Kind::Captioner => check_alone(
            &own,
            "a LLaVA model describes pictures: it has no LoRA, UNet, text encoder, VAE, or sampling",
        )?,
        Kind::Control => check_alone(
            &own,
            "a ControlNet stands beside a model: it has no LoRA, UNet, text encoder, VAE, or sampling",
        )?,
        Kind::Enlarger => check_alone(
            &own,
            "an enlarging network alone: it has no LoRA, UNet, text encoder, VAE, or sampling",
        )?,
        Kind::Diffusion | Kind::Vae | Kind::Lora => {}
    }
    // What is wrong with the files is said before anything is made for them.
    gather(store, &own, kind)?;
    let _in_use = store.lock_for_use(progress)?;
    let (mut sources, loras) = gather(store, &own, kind)?;
    for source in sources.iter_mut().filter(|source| source.repository.is_none()) {
        measure(source, progress)?;
    }
    let run = RunDefaults { loras, ..own.run };
    let entry = ModelEntry {
        name: name.to_owned(),
        title: own.weights.display().to_string(),
        kind,
        licence: None,
        base: None,
        sources,
        run,
    };
    store.write_manifest(&entry)?;
    Ok(entry)
}

/// Places of all weights, without sizes and digests of the user's own files, and the LoRAs among them.
fn gather(
    store: &Store,
    own: &OwnWeights,
    kind: Kind,
) -> Result<(Vec<Source>, Vec<LoraRef>), ModelError> {
    let main = if kind == Kind::Control { Role::Control } else { Role::Model };
    let mut sources = vec![find(&own.weights, main, kind)?];
    if let Some(path) = mmproj_of(own, kind)? {
        sources.push(find(&path, Role::Mmproj, kind)?);
    }
    let mut loras = Vec::new();
    for (path, scale) in &own.loras {
        let source = part(store, path, Role::Lora)?;
        let file = match (&source.repository, source.files.first()) {
            (Some(_), Some(file)) => file.path.clone(),
            _ => source.path.as_deref().unwrap_or(path).to_string_lossy().into_owned(),
        };
        let LoraScale { scale, blocks } = scale.clone();
        loras.push(LoraRef { model: None, file: Some(file), scale, blocks });
        sources.push(source);
    }
    if let Some(path) = &own.denoiser {
        sources.push(find(path, Role::Denoiser, kind)?);
    }
    if let Some(path) = &own.text_encoder {
        sources.push(find(path, Role::TextEncoder, kind)?);
    }
    if let Some(path) = &own.vae {
        sources.push(part(store, path, Role::Vae)?);
    }
    Ok((sources, loras))
}

/// Purpose of weights, by their description.
fn kind_of(path: &Path) -> Kind {
    if EnlargerFiles::is_at(path) {
        Kind::Enlarger
    } else if LlavaFiles::is_at(path) {
        Kind::Captioner
    } else if ControlFiles::is_at(path) {
        Kind::Control
    } else {
        Kind::Diffusion
    }
}

/// Refuses changes to a diffusion model for what is none.
fn check_alone(own: &OwnWeights, reason: &str) -> Result<(), ModelError> {
    let parts = [&own.denoiser, &own.text_encoder, &own.vae];
    if own.loras.is_empty() && parts.iter().all(|part| part.is_none()) && own.run.is_empty() {
        return Ok(());
    }
    Err(ModelError::NotWeights {
        path: own.weights.display().to_string(),
        reason: reason.to_owned(),
    })
}

/// File with the vision tower that belongs to a decoder in a GGUF file.
fn mmproj_of(own: &OwnWeights, kind: Kind) -> Result<Option<PathBuf>, ModelError> {
    let refuse = |path: &Path, reason: String| {
        Err(ModelError::NotWeights { path: path.display().to_string(), reason })
    };
    match (&own.mmproj, kind == Kind::Captioner && own.weights.is_file()) {
        (Some(path), true) => Ok(Some(path.clone())),
        (Some(path), false) => {
            refuse(path, "goes with a decoder in a .gguf file, which the model is not".to_owned())
        }
        (None, true) => match LlavaFiles::vision_beside(&own.weights) {
            Ok(path) => Ok(Some(path)),
            Err(error) => refuse(&own.weights, format!("{error} (--mmproj)")),
        },
        (None, false) => Ok(None),
    }
}

/// Part that is a path, or the name of an installed model that is such a part.
fn part(store: &Store, path: &Path, role: Role) -> Result<Source, ModelError> {
    let name = path.to_string_lossy();
    if !path.exists() && check::is_name(&name) {
        let entry = super::resolve::installed(store, &name)?;
        if let Some(source) = entry.sources.into_iter().find(|source| source.role == role) {
            return Ok(source);
        }
        let reason = format!("the installed model is a {}", entry.kind.name());
        return Err(ModelError::NotWeights { path: name.into_owned(), reason });
    }
    find(path, role, Kind::Diffusion)
}

/// The user's own files of one role, without their sizes and digests.
fn find(path: &Path, role: Role, kind: Kind) -> Result<Source, ModelError> {
    let not = |reason: &str| {
        Err(ModelError::NotWeights { path: path.display().to_string(), reason: reason.to_owned() })
    };
    let path = &match std::path::absolute(path) {
        Ok(absolute) if absolute.exists() && role == Role::Lora => lora::file_of(&absolute),
        Ok(absolute) if absolute.exists() => in_hub_cache(&absolute),
        _ => return not("no such file or folder"),
    };
    if kind == Kind::Enlarger {
        return Ok(enlarger(path));
    }
    let mut names = Vec::new();
    if path.is_dir() {
        let needed = match role {
            // The folder has been recognised as a captioner already.
            Role::Model if kind == Kind::Captioner => "",
            Role::Model => "model_index.json",
            // Recognised already as well.
            Role::Control => "",
            Role::Denoiser | Role::TextEncoder | Role::Vae => "config.json",
            Role::Lora | Role::Mmproj => return not("a folder; name the file in it"),
        };
        if !needed.is_empty() && !path.join(needed).is_file() {
            return not(&format!("not a model in diffusers layout (no {needed})"));
        }
        walk(path, String::new(), MAX_DEPTH, &mut names)?;
        names.sort_unstable();
    } else {
        match refuse_foreign(path) {
            Ok(()) => {}
            Err(WeightsError::Contents { reason, .. }) => return not(&reason),
            Err(_) => {
                return not(
                    "pickled weights, which can run code of their own when read; convert them to safetensors",
                );
            }
        }
        let (known, read): (&[_], fn(FileKind) -> bool) = match role {
            Role::Lora => (&["safetensors", "sft"], |kind| kind == FileKind::Safetensors),
            Role::Mmproj => (&["gguf"], |kind| kind == FileKind::Gguf),
            Role::Model | Role::Denoiser | Role::TextEncoder | Role::Vae | Role::Control => {
                (&["safetensors", "sft", "gguf"], FileKind::is_read)
            }
        };
        if !has_extension(path, known) && !FileKind::of_file(path).is_some_and(read) {
            return not(&format!("not a file of weights (.{})", known.join(", .")));
        }
        names.push(String::new());
    }
    let files = names
        .into_iter()
        .map(|path| FileEntry { path, size: None, sha256: None, optional: false })
        .collect();
    Ok(Source { repository: None, revision: None, role, path: Some(path.clone()), files })
}

/// The files of an enlarging network, one or a pair, in their folder.
fn enlarger(path: &Path) -> Source {
    let paths =
        EnlargerFiles::open(path).map_or_else(|_| Vec::new(), |files| files.paths().to_vec());
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (place, names) = match &paths[..] {
        [] | [_] => (path.to_owned(), vec![String::new()]),
        several => (path.parent().unwrap_or(path).to_owned(), several.iter().map(name).collect()),
    };
    let files = names
        .into_iter()
        .map(|path| FileEntry { path, size: None, sha256: None, optional: false })
        .collect();
    Source { repository: None, revision: None, role: Role::Model, path: Some(place), files }
}

/// Notes sizes and digests of the user's own files.
fn measure(source: &mut Source, progress: &mut dyn TransferProgress) -> Result<(), ModelError> {
    let place = source.path.clone().unwrap_or_default();
    for entry in &mut source.files {
        let file = if entry.path.is_empty() { place.clone() } else { place.join(&entry.path) };
        let size = file.metadata().map_err(|error| ModelError::io(&file, error))?.len();
        progress.begin(TransferWork::Check, &file.display().to_string(), 0, Some(size));
        let (size, sha256) = sha256_file(&file, progress).map_err(ModelError::of_reading)?;
        (entry.size, entry.sha256) = (Some(size), Some(sha256));
    }
    Ok(())
}

/// Collects the names of a model's files below `folder`, with `/` between folders.
fn walk(
    folder: &Path,
    prefix: String,
    depth: usize,
    names: &mut Vec<String>,
) -> Result<(), ModelError> {
    for entry in std::fs::read_dir(folder).map_err(|error| ModelError::io(folder, error))? {
        let path = entry.map_err(|error| ModelError::io(folder, error))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.starts_with('.') {
            continue;
        }
        let full = format!("{prefix}{name}");
        if path.is_dir() {
            if depth > 0 {
                walk(&path, format!("{full}/"), depth - 1, names)?;
            }
        } else if has_extension(&path, &EXTENSIONS) {
            names.push(full);
        }
    }
    Ok(())
}
