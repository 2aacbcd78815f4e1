//! Fingerprint of a model's files: their places, lengths, times of change, and a sample of their bytes. A job that
//! resumes compares it, to know without reading gigabytes that the model is the same, although a file was replaced by
//! one of the same length and time.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use sha2::{Digest as _, Sha256};

use super::QuantType;
use crate::units::hex;

/// A file up to this length is read whole.
const WHOLE: u64 = 8 << 20;
/// Bytes at the beginning of a longer file that are read: the header of most, with names, types and places of tensors.
const HEAD: u64 = 1 << 20;
/// Parts of the rest of a longer file of which the first [`BLOCK`] bytes are read: another training changes all of
/// them.
const PARTS: u64 = 64;
const BLOCK: u64 = 64 << 10;

/// Digest, in hexadecimal digits, that changes with any file of `paths` (folders with their contents), with the
/// numbers of a LoRA's scale, and with the type that weights are rounded to.
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
    // A named pipe would wait for somebody to write.
    if found.is_file() { add_sample(hash, path, found.len()) } else { Ok(()) }
}

/// Adds a sample of a file's bytes, about 5 MiB at most.
fn add_sample(hash: &mut Sha256, path: &Path, length: u64) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut block = vec![0; BLOCK as usize];
    let mut read = |from: u64, length: u64| {
        file.seek(SeekFrom::Start(from))?;
        let mut part = (&file).take(length);
        loop {
            match part.read(&mut block)? {
                0 => return Ok::<_, io::Error>(()),
                count => hash.update(&block[..count]),
            }
        }
    };
    if length <= WHOLE {
        return read(0, length);
    }
    read(0, HEAD)?;
    let part = (length - HEAD) / PARTS;
    for index in 0..PARTS {
        read(HEAD + index * part, BLOCK)?;
    }
    // The last tensor's end.
    read(length - BLOCK, BLOCK)
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
        let third = now();
        assert_ne!(third, second);
        // Of the same length and time.
        fs::write(&file, "12354").unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
        assert_ne!(now(), third);
        assert_ne!(fingerprint(&paths, [0.5].into_iter(), None), now());
        assert_ne!(fingerprint(&paths, std::iter::empty(), Some(QuantType::Q8_0)), now());
    }

    #[cfg(unix)]
    #[test]
    fn other_weights_in_a_long_file_are_noticed_wherever_they_begin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let file = File::create(&path).unwrap();
        // Sparse: no disk is written.
        file.set_len(100 << 20).unwrap();
        let length = file.metadata().unwrap().len();
        let now = || {
            let mut hash = Sha256::new();
            add_sample(&mut hash, &path, length).unwrap();
            hash.finalize()
        };
        let first = now();
        let tensor = 2 << 20;
        for from in [0, HEAD - 1, 10 << 20, length - tensor as u64] {
            use std::os::unix::fs::FileExt as _;
            file.write_all_at(&vec![7; tensor], from).unwrap();
            assert_ne!(now(), first, "at {from}");
            file.write_all_at(&vec![0; tensor], from).unwrap();
            assert_eq!(now(), first);
        }
    }
}
