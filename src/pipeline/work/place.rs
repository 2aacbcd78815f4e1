//! Place of a job's work folder: beside its output, in a folder of the user's choice, or in the cache.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use etcetera::BaseStrategy as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    files::{JOURNAL, remove},
    lock::lock,
};
use crate::{
    image::Output,
    pipeline::error::Error,
    temporary::{is_out_of_reach, make_private, private_folder},
    units,
};

/// Lifetime of a stream's unfinished work in the cache.
const KEEP_STREAMS: Duration = Duration::from_secs(14 * 24 * 3600);

/// The path of the work folder of the job that `job` describes and that writes `output`, and the base name
/// of its other files; `folder` is the parent that the user chose.
///
/// # Errors
/// An output whose path cannot be made absolute; no folder for the work of a stream.
pub fn place(
    folder: Option<&Path>,
    output: &Output,
    job: &Value,
) -> Result<(PathBuf, OsString), Error> {
    let file = match output {
        // A device or a named pipe has nothing beside it.
        Output::Path(path) if is_file_or_none(path) => {
            // A symbolic link is followed: the work folder lies beside its target, which is written.
            let path = fs::canonicalize(path).or_else(|_| std::path::absolute(path));
            Some(path.map_err(|error| Error::in_file(Path::new(&output.name()), error))?)
        }
        _ => None,
    };
    let key = digest(match &file {
        Some(file) => file.as_os_str().as_encoded_bytes().to_vec(),
        None => job.to_string().into_bytes(),
    });
    let key = &key[..16];
    let tag = match (&file, folder) {
        (Some(file), None) => dotted(file, ""),
        (Some(file), Some(_)) => dotted(file, &format!(".{key}")),
        (None, _) => format!("{key}.cupscale").into(),
    };
    let folder = match (folder, &file) {
        (Some(folder), _) => folder.to_owned(),
        (None, Some(file)) => file.parent().unwrap_or(Path::new(".")).to_owned(),
        (None, None) => {
            let folder = cache_folder()?;
            prune(&folder);
            folder
        }
    };
    Ok((folder.join(&tag), tag))
}

/// `true` but for devices and named pipes.
pub fn is_file_or_none(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |found| found.is_file())
}

/// Folder for the work of streams: in the platform's cache folder, or with the user's own temporary files if that is
/// not writable, or another user's (as that of `sudo` may be).
fn cache_folder() -> Result<PathBuf, Error> {
    let in_cache = etcetera::base_strategy::choose_native_strategy()
        .map(|strategy| strategy.cache_dir().join("cupscale").join("work"));
    let is_fit = |folder: &PathBuf| {
        // Nothing is made in the home of another user, who could not remove it.
        let there = folder.ancestors().find(|folder| folder.exists());
        there.is_some_and(is_out_of_reach)
            && fs::create_dir_all(folder).is_ok()
            && is_out_of_reach(folder)
            && tempfile::tempfile_in(folder).is_ok()
    };
    if let Some(folder) = in_cache.ok().filter(is_fit) {
        return Ok(folder);
    }
    let folder = private_folder()?.join("work");
    make_private(&folder).map_err(|error| Error::in_file(&folder, error))?;
    Ok(folder)
}

/// `.NAME.cupscale`, or a shorter name within every file system's limit.
fn dotted(file: &Path, key: &str) -> OsString {
    let name = file.file_name().unwrap_or_default();
    let mut tag = OsString::from(".");
    tag.push(name);
    tag.push(key);
    tag.push(".cupscale");
    // ".part" is to follow.
    if tag.len() <= 250 {
        return tag;
    }
    format!(".{}.cupscale", &digest(name.as_encoded_bytes().to_vec())[..16]).into()
}

/// Removes expired work of streams.
fn prune(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let folder = entry.path();
        let touched = fs::metadata(folder.join(JOURNAL)).and_then(|found| found.modified());
        let age = touched.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        if age.is_ok_and(|age| age > KEEP_STREAMS)
            && let Ok(lock) = lock(&folder)
        {
            remove(&folder);
            drop(lock);
        }
    }
}

fn digest(bytes: Vec<u8>) -> String {
    units::hex(&Sha256::digest(bytes))
}
