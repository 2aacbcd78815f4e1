//! Checks of an entry before it is used: everything in it that becomes a path, or is compared with one.

use super::{ModelEntry, ModelError};
use crate::weights::hub::names;

/// Names in the models folder that are not those of models.
const RESERVED: [&str; 2] = ["files", "registry.json"];

/// `true` if `name` can be a model's: letters, digits, `.`, `_`, `-`, at most 64, no `.` in front.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        // Some disks take upper and lower case for the same.
        && !RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
}

/// Checks everything in an entry that becomes a path or is compared with one.
pub fn check_entry(entry: &ModelEntry) -> Result<(), ModelError> {
    let bad =
        |what: &str| Err(ModelError::Unsafe { name: entry.name.clone(), what: what.to_owned() });
    if !is_name(&entry.name) {
        return bad("its name");
    }
    for source in &entry.sources {
        if let Some(repository) = &source.repository {
            if !names::is_repository(repository) {
                return bad(repository);
            }
            // The user's own files have whatever names they have.
            if let Some(file) =
                source.files.iter().find(|file| !names::is_inside(&file.path.replace('*', "_")))
            {
                return bad(&file.path);
            }
        }
        if let Some(revision) =
            source.revision.as_ref().filter(|revision| !names::is_commit(revision))
        {
            return bad(revision);
        }
        let hashes = source.files.iter().filter_map(|file| file.sha256.as_ref());
        if let Some(hash) = hashes.into_iter().find(|hash| !names::is_sha256(hash)) {
            return bad(hash);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_plain_word_that_no_folder_of_ours_has() {
        for good in ["hyper-sdxl", "llava-v1.6", "X_1"] {
            assert!(is_name(good), "{good}");
        }
        let long = "-".repeat(65);
        for bad in
            ["files", "Files", "registry.json", "a/b", "..", ".locks", "", "a b", long.as_str()]
        {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
