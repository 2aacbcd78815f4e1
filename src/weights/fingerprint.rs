//! Fingerprint of a model's files: their places, lengths and times of change. A job that resumes compares it, to
//! know without reading gigabytes that the model is the same.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use sha2::{Digest as _, Sha256};

use super::QuantType;
use crate::units::hex;

/// Digest, in hexadecimal digits, that changes with any file of `paths` (folders with their contents), with a
/// LoRA's scale, and with the type that weights are rounded to.
pub(super) fn fingerprint(
    paths: &[PathBuf],
    scales: impl Iterator<Item = f64>,
    quant: Option<QuantType>,
) -> String {
    let mut hash = Sha256::new();
    // The embedded model is a part of the program.
    hash.update(env!("CARGO_PKG_VERSION"));
    for path in paths {
        let _ = add(&mut hash, path);
    }
    scales.for_each(|scale| hash.update(scale.to_le_bytes()));
    hash.update(quant.map_or_else(String::new, |quant| quant.to_string()));
    hex(&hash.finalize())
}

/// Fingerprint of one folder, and of the type that its weights are rounded to.
#[cfg(feature = "mistralrs")]
pub(crate) fn folder_fingerprint(folder: &Path, quant: Option<QuantType>) -> String {
    fingerprint(&[folder.to_owned()], std::iter::empty(), quant)
}

/// Adds a file or a folder. A file that cannot be read is left out: loading the model reports it.
fn add(hash: &mut Sha256, path: &Path) -> io::Result<()> {
    let found = fs::metadata(path)?;
    let name = path.as_os_str().as_encoded_bytes();
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name);
    if found.is_dir() {
        let mut inside: Vec<_> =
            fs::read_dir(path)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        inside.sort();
        for path in inside {
            let _ = add(hash, &path);
        }
        return Ok(());
    }
    hash.update(found.len().to_le_bytes());
    let changed = found.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    hash.update(changed.as_nanos().to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_anywhere_in_a_folder_changes_it_and_reading_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("unet");
        fs::create_dir(&inner).unwrap();
        let file = inner.join("weights");
        fs::write(&file, "1234").unwrap();
        let paths = [folder.path().to_owned()];
        let now = || fingerprint(&paths, std::iter::empty(), None);
        let first = now();
        fs::read(&file).unwrap();
        assert_eq!(now(), first);
        fs::write(&file, "12345").unwrap();
        let second = now();
        assert_ne!(second, first);
        let later = UNIX_EPOCH + std::time::Duration::from_secs(1);
        fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
        assert_ne!(now(), second);
        assert_ne!(fingerprint(&paths, [0.5].into_iter(), None), now());
        assert_ne!(fingerprint(&paths, std::iter::empty(), Some(QuantType::Q8_0)), now());
    }
}
