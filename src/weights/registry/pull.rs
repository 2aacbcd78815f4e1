//! Download of a known model: settles the commit and the files, checks that there is room, fetches what is missing,
//! and writes the manifest last, so that a model that has one is complete.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::{FileEntry, ModelEntry, ModelError, Registry, Source, Store};
use crate::units;
use crate::weights::hub::{
    Hub, HubError, RemoteFile, TransferProgress, Wanted, fetch, names, part_path,
};

/// Bytes left free on the disk: a full one hurts more than a model that is not there.
const MARGIN: u64 = 64 << 20;

/// Outcome of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullReport {
    /// The model.
    pub name: String,
    /// files of the model
    pub files: usize,
    /// their bytes
    pub bytes: u64,
    /// bytes that came over the network
    pub received: u64,
    /// place of its main files
    pub path: PathBuf,
}

/// Downloads what a model lacks; files that are here are checked, and fetched again where they are
/// damaged. `revision` (a branch, a tag, a commit) takes the place of the pinned one of the model's
/// own repository, and with it go the registry's hashes.
///
/// # Errors
/// A name that is not known, or is the user's own; no room; whatever the hub or the network does.
/// Bytes that arrived are kept, and the next pull resumes from there.
pub fn pull(
    store: &Store,
    hub: &Hub,
    name: &str,
    revision: Option<&str>,
    progress: &mut dyn TransferProgress,
) -> Result<PullReport, ModelError> {
    let registry = Registry::load(store.root())?;
    let previous = store.manifest(name)?;
    if previous.as_ref().is_some_and(ModelEntry::is_own) {
        return Err(ModelError::OwnWeights { name: name.to_owned() });
    }
    let mut entry = registry.complete(name)?;
    if let Some(revision) = revision {
        let own = registry.get(name).map_or(0, |entry| entry.sources.len());
        free_revision(&mut entry, own, revision)?;
    }
    for (index, source) in entry.sources.iter_mut().enumerate() {
        let moved = revision.filter(|_| index == 0);
        if moved.is_none() {
            remember(source, previous.as_ref());
        }
        settle(hub, name, source, moved, progress)?;
    }
    // Nothing is made before it is known what is to come, and that there is room for it.
    if check_room(store, &entry)? > 0 {
        hub.check_online(&entry.name)?;
        progress.note(&terms(&entry));
    }
    let _in_use = store.lock_for_use(progress)?;
    let mut received = 0;
    for source in &mut entry.sources {
        received += fetch_source(store, hub, source, progress)?;
    }
    store.write_manifest(&entry)?;
    Ok(PullReport {
        name: entry.name.clone(),
        files: entry.sources.iter().map(|source| source.files.len()).sum(),
        bytes: entry.size().0,
        received,
        path: entry.sources.first().map(|source| store.place(source)).unwrap_or_default(),
    })
}

/// Forgets sizes and digests of the first source, since another revision has other bytes.
fn free_revision(entry: &mut ModelEntry, own: usize, revision: &str) -> Result<(), ModelError> {
    let Some(source) = entry.sources.first_mut().filter(|_| own > 0) else {
        let parts = entry.run.loras.iter().filter_map(|lora| lora.model.as_deref());
        let parts = parts.collect::<Vec<_>>().join(", ");
        return Err(ModelError::NoRevision { name: entry.name.clone(), parts });
    };
    source.revision = names::is_commit(revision).then(|| revision.to_ascii_lowercase());
    for file in &mut source.files {
        (file.size, file.sha256) = (None, None);
    }
    Ok(())
}

/// Takes over what an earlier pull found out, so that it is not asked again: the commit of a source that is not
/// pinned, the files behind a `*`, sizes and digests.
fn remember(source: &mut Source, previous: Option<&ModelEntry>) {
    let same = |old: &&Source| old.repository == source.repository && old.role == source.role;
    let Some(old) = previous.and_then(|previous| previous.sources.iter().find(same)) else {
        return;
    };
    let has = |file: &FileEntry| old.files.iter().any(|it| names::matches(&file.path, &it.path));
    if (source.revision.is_none() || source.revision == old.revision)
        && source.files.iter().all(|file| file.optional || has(file))
    {
        source.revision.clone_from(&old.revision);
        source.files.clone_from(&old.files);
    }
}

/// Settles what is open in a source: its commit, the files that a `*` stands for, sizes and digests. The hub is
/// asked only where something is open.
fn settle(
    hub: &Hub,
    name: &str,
    source: &mut Source,
    revision: Option<&str>,
    progress: &mut dyn TransferProgress,
) -> Result<(), ModelError> {
    let Some(repository) = source.repository.clone() else { return Ok(()) };
    let open = |file: &FileEntry| {
        file.optional || file.path.contains('*') || file.size.is_none() || file.sha256.is_none()
    };
    if source.revision.is_none() || source.files.iter().any(open) {
        let asked = revision.or(source.revision.as_deref()).unwrap_or("main");
        let info = hub.revision(&repository, asked, progress)?;
        source.files = expand(name, &repository, &source.files, &info.files)?;
        source.revision = Some(info.commit);
    }
    let commit = source.revision.as_deref().unwrap_or_default();
    source.path = Some(Store::repository_folder(&repository).join(commit));
    Ok(())
}

/// Files of the registry with the hub's facts about each.
fn expand(
    name: &str,
    repository: &str,
    wanted: &[FileEntry],
    listed: &[RemoteFile],
) -> Result<Vec<FileEntry>, ModelError> {
    let (mut files, mut known) = (Vec::new(), HashSet::new());
    // Files that are named come before those that a `*` finds: more is known of them.
    let (patterns, plain): (Vec<_>, Vec<_>) =
        wanted.iter().partition(|file| file.path.contains('*'));
    for file in plain.into_iter().chain(patterns) {
        let mut found = listed.iter().filter(|it| names::matches(&file.path, &it.path)).peekable();
        if found.peek().is_none() && !file.optional {
            return Err(ModelError::NotListed {
                name: name.to_owned(),
                repository: repository.to_owned(),
                path: file.path.clone(),
            });
        }
        for remote in found {
            if !known.insert(&remote.path) {
                continue;
            }
            let differs = |expected: &dyn ToString, got: &dyn ToString| HubError::Differs {
                file: format!("{repository}/{}", remote.path),
                expected: expected.to_string(),
                got: got.to_string(),
            };
            if let (Some(expected), Some(got)) = (file.size, remote.size)
                && expected != got
            {
                return Err(differs(&format!("{expected} bytes"), &got).into());
            }
            if let (Some(expected), Some(got)) = (&file.sha256, &remote.sha256)
                && expected != got
            {
                return Err(differs(&format!("SHA-256 {expected}"), got).into());
            }
            files.push(FileEntry {
                path: remote.path.clone(),
                size: file.size.or(remote.size),
                sha256: file.sha256.clone().or_else(|| remote.sha256.clone()),
                optional: false,
            });
        }
    }
    Ok(files)
}

/// Line with the terms that a user of the model agrees to.
fn terms(entry: &ModelEntry) -> String {
    let Some(licence) = &entry.licence else { return format!("{}: no licence known", entry.name) };
    let accept = licence.accept.as_ref().map_or_else(String::new, |text| format!(": {text}"));
    format!("{}: licence {} ({}){accept}", entry.name, licence.name, licence.url)
}

/// Checks that the bytes still to come fit on the disk, and returns their number as far as it is known; at least
/// one for a file of unknown size.
fn check_room(store: &Store, entry: &ModelEntry) -> Result<u64, ModelError> {
    let length = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    let needed = entry
        .sources
        .iter()
        .flat_map(|source| store.files(source))
        .map(|(path, file)| {
            let whole = path.is_file();
            let there = if whole { length(&path) } else { length(&part_path(&path)) };
            file.size.unwrap_or(u64::from(!whole)).saturating_sub(there)
        })
        .fold(0, u64::saturating_add);
    let root = store.root();
    // The disk on which the folder is, or will be.
    let there = root.ancestors().find(|folder| folder.is_dir()).unwrap_or(root);
    let free = fs4::available_space(there).map_err(|error| ModelError::io(root, error))?;
    if needed > 0 && needed.saturating_add(MARGIN) > free {
        return Err(ModelError::NoSpace {
            name: entry.name.clone(),
            size: units::bytes(needed),
            folder: root.display().to_string(),
            free,
            margin: MARGIN,
        });
    }
    Ok(needed)
}

/// Fetches the files of a source and records their sizes and digests. Returns the number of bytes received.
fn fetch_source(
    store: &Store,
    hub: &Hub,
    source: &mut Source,
    progress: &mut dyn TransferProgress,
) -> Result<u64, ModelError> {
    let (Some(repository), Some(commit)) = (source.repository.clone(), source.revision.clone())
    else {
        return Ok(0);
    };
    let _alone = store.lock_source(&repository, &commit, progress)?;
    let folder = store.place(source);
    let mut received = 0;
    for file in &mut source.files {
        let wanted = Wanted {
            repository: repository.clone(),
            commit: commit.clone(),
            path: file.path.clone(),
            size: file.size,
            sha256: file.sha256.clone(),
        };
        let fetched =
            fetch(hub, &wanted, &folder.join(&file.path), progress).inspect_err(|_| {
                remove_empty(&folder.join(&file.path), store.root());
            })?;
        received += fetched.received;
        (file.size, file.sha256) = (Some(fetched.size), Some(fetched.sha256));
    }
    Ok(received)
}

/// Removes the folders of a file that did not come, as far as there is nothing in them.
fn remove_empty(file: &Path, root: &Path) {
    let inside = file.ancestors().skip(1).take_while(|folder| *folder != root);
    for folder in inside {
        if std::fs::remove_dir(folder).is_err() {
            return;
        }
    }
}
