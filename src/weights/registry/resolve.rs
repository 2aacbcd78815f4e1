//! Resolving a model that the user names: a path, or the name of an installed model.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use super::{Kind, ModelEntry, ModelError, Registry, Role, RunDefaults, Source, Store, list};
use crate::units;
use crate::weights::LoraScale;

/// Everything that loading a model needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedModel {
    /// name, or the path as the user gave it
    pub name: String,
    /// `None` for a path, whose contents tell
    pub kind: Option<Kind>,
    /// folder or file of the weights
    pub weights: PathBuf,
    /// folder or file with a denoiser in place of the weights' own
    pub denoiser: Option<PathBuf>,
    /// folder or file with a T5 text encoder in place of the weights' own
    pub text_encoder: Option<PathBuf>,
    /// folder or file with a VAE in place of the weights' own
    pub vae: Option<PathBuf>,
    /// file with the vision tower of a captioner whose decoder is a GGUF file
    pub mmproj: Option<PathBuf>,
    /// files to merge, in this order, each with its scale
    pub loras: Vec<(PathBuf, LoraScale)>,
    /// defaults of a run
    pub run: RunDefaults,
}

/// Resolves a path or a name, in the user's models folder.
///
/// # Errors
/// A name that nothing has (with names like it), one that is known but not downloaded (with the
/// command that does it), an installed model that lacks a file.
pub fn resolve(name: &OsStr) -> Result<ResolvedModel, ModelError> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(from_path(path));
    }
    Store::open()?.resolve(name)
}

/// Resolves a path or a name, which must be of a model of the kind that is wanted. What is at a path tells its kind when it
/// is read.
///
/// # Errors
/// As [`resolve`], and an installed model of another kind.
pub fn resolve_kind(name: &OsStr, wanted: Kind) -> Result<ResolvedModel, ModelError> {
    let model = resolve(name)?;
    match model.kind {
        Some(kind) if kind != wanted => Err(ModelError::WrongKind {
            name: model.name,
            kind: kind.name(),
            wanted: wanted.name(),
        }),
        _ => Ok(model),
    }
}

impl ResolvedModel {
    /// The name of an installed model, or that of its file: without the folders that it lies in.
    #[must_use]
    pub fn known_name(&self) -> String {
        match self.kind {
            Some(_) => self.name.clone(),
            None => {
                let path = &self.weights;
                path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
            }
        }
    }
}

fn from_path(path: &Path) -> ResolvedModel {
    ResolvedModel {
        name: path.display().to_string(),
        kind: None,
        weights: path.to_owned(),
        denoiser: None,
        text_encoder: None,
        vae: None,
        mmproj: None,
        loras: Vec::new(),
        run: RunDefaults::default(),
    }
}

impl Store {
    /// Resolves a path or a name, in this models folder. A path that exists is itself, whatever
    /// models there are.
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn resolve(&self, name: &OsStr) -> Result<ResolvedModel, ModelError> {
        let path = Path::new(name);
        if path.exists() {
            return Ok(from_path(path));
        }
        let entry = installed(self, &name.to_string_lossy())?;
        if let Some(file) = list::missing(self, &entry) {
            let own = entry.is_own();
            return Err(ModelError::Incomplete {
                name: entry.name,
                file: file.display().to_string(),
                own,
            });
        }
        let of_role = |role| entry.sources.iter().find(move |source| source.role == role);
        let loras = entry.run.loras.iter().filter_map(|lora| {
            let mut files = entry
                .sources
                .iter()
                .filter(|source| source.role == Role::Lora)
                .flat_map(|source| self.files(source));
            let wanted = lora.file.as_deref()?;
            let (path, _) =
                files.find(|(path, file)| file.path == wanted || path == Path::new(wanted))?;
            let (scale, blocks) = (lora.scale, lora.blocks.clone());
            Some((path, LoraScale { scale, blocks }))
        });
        let loras: Vec<_> = loras.collect();
        let main = of_role(Role::Model).or_else(|| entry.sources.first());
        let (Some(main), true) = (main, loras.len() == entry.run.loras.len()) else {
            return Err(ModelError::Manifest {
                file: self.root().join(&entry.name).join("manifest.json").display().to_string(),
                reason: "it names files that it does not have".to_owned(),
            });
        };
        Ok(ResolvedModel {
            kind: Some(entry.kind),
            weights: match entry.kind {
                // Either file of a pair leads to the other.
                Kind::Enlarger => self.files(main).map(|(path, _)| path).next().unwrap_or_default(),
                _ => self.weights(main),
            },
            denoiser: of_role(Role::Denoiser).map(|source| self.weights(source)),
            text_encoder: of_role(Role::TextEncoder).map(|source| self.weights(source)),
            vae: of_role(Role::Vae)
                .filter(|_| entry.kind != Kind::Vae)
                .map(|source| self.weights(source)),
            mmproj: of_role(Role::Mmproj).map(|source| self.weights(source)),
            loras,
            run: entry.run.clone(),
            name: entry.name,
        })
    }

    /// Path of a source for a loader: its one file of weights where it has nothing else, else its folder.
    fn weights(&self, source: &Source) -> PathBuf {
        match source.files.as_slice() {
            [_] => self.files(source).map(|(path, _)| path).next().unwrap_or_default(),
            _ => self.place(source),
        }
    }
}

/// Manifest of an installed model.
///
/// # Errors
/// A name that nothing has, or a known model that is not downloaded.
pub(super) fn installed(store: &Store, name: &str) -> Result<ModelEntry, ModelError> {
    if let Some(entry) = store.manifest(name)? {
        return Ok(entry);
    }
    let entry = Registry::load(store.root())?.complete(name)?;
    let size = match entry.size() {
        (0, _) => "size unknown".to_owned(),
        (size, true) => units::bytes(size),
        (size, false) => format!("more than {}", units::bytes(size)),
    };
    let licence = entry.licence.map_or_else(|| "unknown".to_owned(), |licence| licence.name);
    Err(ModelError::NotInstalled { name: name.to_owned(), size, licence })
}
