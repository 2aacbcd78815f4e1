//! List of models: installed ones first, then those that could be.

use std::path::PathBuf;

use serde::Serialize;

use super::{Kind, Licence, ModelEntry, ModelError, Registry, Store};

/// State of a model on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// All files are here.
    Installed,
    /// Some files are missing or too short.
    Incomplete,
    /// Known by name only.
    Known,
}

/// One model of the list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    /// name that the user types
    pub name: String,
    /// one line
    pub title: String,
    /// purpose
    pub kind: Kind,
    /// state on this machine
    pub state: State,
    /// `true` if these are the user's own files
    pub own: bool,
    /// bytes of the files whose size is known, shared ones included
    pub size: u64,
    /// `true` if that is all of them
    pub size_is_exact: bool,
    /// none for the user's own files
    pub licence: Option<Licence>,
    /// place of an installed model's main files
    pub path: Option<PathBuf>,
}

/// Lists every model, installed ones first, in the registry's order.
///
/// # Errors
/// A manifest or a registry that cannot be read.
pub fn list(store: &Store) -> Result<Vec<Listed>, ModelError> {
    let registry = Registry::load(store.root())?;
    let mut installed = store.manifests()?;
    let rank = |name: &str| registry.models().iter().position(|known| known.name == name);
    installed.sort_by_key(|entry| (rank(&entry.name).is_none(), rank(&entry.name)));
    let known = registry
        .models()
        .iter()
        .filter(|known| !installed.iter().any(|entry| entry.name == known.name));
    let known = known
        .map(|entry| Ok(listed(&registry.complete(&entry.name)?, State::Known, None)))
        .collect::<Result<Vec<_>, ModelError>>()?;
    let installed = installed.iter().map(|entry| {
        let state =
            if missing(store, entry).is_none() { State::Installed } else { State::Incomplete };
        listed(entry, state, entry.sources.first().map(|source| store.place(source)))
    });
    Ok(installed.chain(known).collect())
}

fn listed(entry: &ModelEntry, state: State, path: Option<PathBuf>) -> Listed {
    let (size, size_is_exact) = entry.size();
    Listed {
        name: entry.name.clone(),
        title: entry.title.clone(),
        kind: entry.kind,
        state,
        own: entry.is_own(),
        size,
        size_is_exact,
        licence: entry.licence.clone(),
        path,
    }
}

/// First file of an installed model that is not there in its full length.
pub(super) fn missing(store: &Store, entry: &ModelEntry) -> Option<PathBuf> {
    entry.sources.iter().flat_map(|source| store.files(source)).find_map(|(path, file)| {
        let there = path.metadata().ok().filter(std::fs::Metadata::is_file);
        let whole = there.is_some_and(|it| file.size.is_none_or(|size| size == it.len()));
        (!whole).then_some(path)
    })
}
