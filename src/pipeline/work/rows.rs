//! Row file of the output: decoded samples are stored until the picture's writer reads them, and survive a kill.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::Path,
};

use fs4::FileExt as _;

use crate::{pipeline::error::Error, temporary::not_through_links};

/// The output's rows on disk.
#[derive(Debug)]
pub struct RowFile {
    file: File,
    row_bytes: u64,
}

impl RowFile {
    /// Creates or replaces the file at `path` for `rows` rows of `row_bytes` bytes each.
    ///
    /// # Errors
    /// An I/O error.
    pub fn create(path: &Path, (rows, row_bytes): (usize, usize)) -> Result<Self, Error> {
        let length = (rows * row_bytes) as u64;
        let create = || {
            let file = not_through_links().create(true).truncate(true).open(path)?;
            // On a file system without preallocation a full disk is detected later, at no loss.
            if file.allocate(length).is_err() {
                file.set_len(length)?;
            }
            Ok(file)
        };
        let file = create().map_err(|error| Error::in_file(path, error))?;
        Ok(Self { file, row_bytes: row_bytes as u64 })
    }

    /// Opens an earlier process's file.
    ///
    /// # Errors
    /// An I/O error; of the kind [`io::ErrorKind::InvalidData`] for a file of another length.
    pub fn open(path: &Path, (rows, row_bytes): (usize, usize)) -> Result<Self, Error> {
        let open = || {
            let file = not_through_links().open(path)?;
            let (expected, actual) = ((rows * row_bytes) as u64, file.metadata()?.len());
            if actual != expected {
                let wrong = format!("holds {actual} bytes where {expected} are needed");
                return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
            }
            Ok(file)
        };
        let file = open().map_err(|error| Error::in_file(path, error))?;
        Ok(Self { file, row_bytes: row_bytes as u64 })
    }

    /// Writes whole rows from row `first` and returns after they are on the disk.
    ///
    /// # Errors
    /// An I/O error.
    pub fn write(&mut self, first: usize, samples: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(first as u64 * self.row_bytes))?;
        self.file.write_all(samples)?;
        self.file.sync_data()
    }

    /// Its file, for whoever reads it as a whole.
    ///
    /// # Errors
    /// An I/O error.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Reads a range of rows.
    ///
    /// # Errors
    /// An I/O error.
    pub fn read(&mut self, rows: Range<usize>) -> io::Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(rows.start as u64 * self.row_bytes))?;
        let mut samples = vec![0; rows.len() * self.row_bytes as usize];
        self.file.read_exact(&mut samples)?;
        Ok(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_written_in_any_order_are_read_again_after_the_file_is_reopened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let mut rows = RowFile::create(&path, (4, 3)).unwrap();
        rows.write(2, &[7, 8, 9, 10, 11, 12]).unwrap();
        rows.write(0, &[1, 2, 3]).unwrap();
        drop(rows);
        let mut rows = RowFile::open(&path, (4, 3)).unwrap();
        assert_eq!(rows.read(0..3).unwrap(), [1, 2, 3, 0, 0, 0, 7, 8, 9]);
        assert!(rows.read(3..5).is_err());
        let error = RowFile::open(&path, (5, 3)).unwrap_err().to_string();
        assert!(error.contains("holds 12 bytes where 15 are needed"), "{error}");
    }
}
