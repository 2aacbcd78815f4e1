//! Small files, read with a bound: what a model's folder, a cache or an option names as one may be anything, also a
//! device that never ends.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::units;

/// Reads a small file whole.
///
/// # Errors
/// A file that cannot be read, or of more than `most` bytes, in which case no more than these are read.
pub(in crate::weights) fn read_small(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let reason = format!("longer than {}, which no such file is", units::bytes(most));
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_has_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(read_small(&file, 5).unwrap(), b"12345");
        let error = read_small(&file, 4).unwrap_err().to_string();
        assert_eq!(error, "longer than 4 B, which no such file is");
    }
}
