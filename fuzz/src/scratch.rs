//! A file of this process alone, for readers that take a path.

use std::path::{Path, PathBuf};
use std::{env, fs, process};

/// A file in memory, if the system has a place for such files; removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Names the file; it is there after [`write`](Self::write).
    ///
    /// # Panics
    /// Where no folder can be made.
    pub fn new(name: &str) -> Self {
        let shared = Path::new("/dev/shm");
        let place = if shared.is_dir() { shared.to_owned() } else { env::temp_dir() };
        let folder = place.join(format!("cupscale-fuzz-{}", process::id()));
        fs::create_dir_all(&folder).expect("a folder for temporary files");
        Self(folder.join(name))
    }

    /// Replaces the contents; returns the path.
    ///
    /// # Panics
    /// Where the file cannot be written.
    pub fn write(&self, bytes: &[u8]) -> &Path {
        fs::write(&self.0, bytes).expect("a temporary file");
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        // Not while other files are in it.
        let _ = self.0.parent().map(fs::remove_dir);
    }
}
