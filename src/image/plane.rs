//! Planes: the samples of a picture, in memory where they are few and in a mapped file where they are many, so that
//! an input of any size costs the rows that are worked on.
//!
//! The file has no name from the beginning: nobody else can shorten it under the mapping, and nothing is left of it
//! however the process ends. It is written by plain writes, so that a full disk is an error and never a bus fault.
//! The program reads rows of it; the whole is mapped for callers who want a slice.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::{Deref, Range},
    path::PathBuf,
    sync::Arc,
};

use memmap2::Mmap;

use crate::temporary;

/// The most bytes of a plane that is held in memory.
pub(crate) const MEMORY_BYTES: u64 = 64 << 20;

/// Rows of a band in which pixels go from a decoder to the planes: some 256 Ki pixels leave work for every thread and
/// cost little memory.
pub(crate) fn band_rows(width: u32) -> usize {
    ((1 << 18) / width as usize).max(1)
}

/// Place and threshold of planes in files.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    /// Folder of the files; `None` is the user's own for temporary files.
    pub folder: Option<PathBuf>,
    /// The most bytes of a plane in memory.
    pub memory_bytes: u64,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { folder: None, memory_bytes: MEMORY_BYTES }
    }
}

impl Scratch {
    /// A new file without a name.
    pub(crate) fn file(&self) -> io::Result<File> {
        let folder = match &self.folder {
            Some(folder) => folder.clone(),
            None => temporary::private_folder()?,
        };
        Ok(temporary::unlinked_file(&folder)?)
    }
}

/// Samples of a picture, read as a slice. Clones share them.
#[derive(Clone)]
pub struct Plane(Arc<Storage>);

enum Storage {
    Memory(Vec<f32>),
    File { file: File, map: Mmap },
}

impl Plane {
    /// The samples are in a file.
    pub(crate) fn is_in_file(&self) -> bool {
        matches!(*self.0, Storage::File { .. })
    }

    /// These samples. Those of a plane in a file are read into `buffer`: mapped pages would count as the process's
    /// memory, and some around them, until they are given back one by one.
    pub(crate) fn samples<'a>(
        &'a self,
        range: Range<usize>,
        buffer: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        match &*self.0 {
            Storage::Memory(samples) => &samples[range],
            Storage::File { file, .. } => {
                buffer.resize(range.len(), 0.0);
                let start = (range.start * size_of::<f32>()) as u64;
                match read_at(file, bytemuck::cast_slice_mut(&mut buffer[..]), start) {
                    Ok(()) => &buffer[..],
                    Err(_) => &self[range],
                }
            }
        }
    }
}

/// Reads from a place in the file without moving its own.
#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, start)
}

/// There is no such call: the mapping serves.
#[cfg(not(unix))]
fn read_at(_: &File, _: &mut [u8], _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Deref for Plane {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.0 {
            Storage::Memory(samples) => samples,
            // A map begins at a page, and the file holds whole samples.
            Storage::File { map, .. } => bytemuck::cast_slice(map),
        }
    }
}

impl Plane {
    /// The samples in a file, those of a few in memory.
    ///
    /// # Errors
    /// A file that cannot be read or mapped.
    ///
    /// # Safety
    /// Nobody changes or shortens the file while the plane lives.
    pub(crate) unsafe fn in_file(file: File, samples: usize) -> io::Result<Self> {
        if (samples * size_of::<f32>()) as u64 <= MEMORY_BYTES {
            let mut values = vec![0.0f32; samples];
            let mut file = file;
            file.rewind()?;
            file.read_exact(bytemuck::cast_slice_mut(&mut values))?;
            return Ok(values.into());
        }
        // SAFETY: the caller's promise.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self(Arc::new(Storage::File { file, map })))
    }
}

impl From<Vec<f32>> for Plane {
    fn from(samples: Vec<f32>) -> Self {
        Self(Arc::new(Storage::Memory(samples)))
    }
}

impl FromIterator<f32> for Plane {
    fn from_iter<I: IntoIterator<Item = f32>>(samples: I) -> Self {
        samples.into_iter().collect::<Vec<_>>().into()
    }
}

impl PartialEq for Plane {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

/// The size instead of the samples.
impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = if self.is_in_file() { "in a file" } else { "in memory" };
        write!(f, "Plane({} samples {place})", self.len())
    }
}

/// A plane while it is made: rows are written in order, and may be read and rewritten.
pub(crate) struct PlaneBuilder {
    store: Store,
    row_len: usize,
}

enum Store {
    Memory(Vec<f32>),
    File(File),
}

impl PlaneBuilder {
    /// An empty plane for `rows` rows of `row_len` samples.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub(crate) fn new(rows: usize, row_len: usize, scratch: &Scratch) -> io::Result<Self> {
        let samples = rows * row_len;
        let store = if (samples * size_of::<f32>()) as u64 <= scratch.memory_bytes {
            Store::Memory(Vec::with_capacity(samples))
        } else {
            Store::File(scratch.file()?)
        };
        Ok(Self { store, row_len })
    }

    /// Appends whole rows.
    ///
    /// # Errors
    /// A full disk, among others.
    pub(crate) fn push(&mut self, rows: &[f32]) -> io::Result<()> {
        match &mut self.store {
            Store::Memory(samples) => samples.extend_from_slice(rows),
            Store::File(file) => file.write_all(bytemuck::cast_slice(rows))?,
        }
        Ok(())
    }

    /// Reads whole rows that were written; `out` is as long as they are.
    ///
    /// # Errors
    /// An error of the operating system.
    pub(crate) fn read(&mut self, first: usize, out: &mut [f32]) -> io::Result<()> {
        let start = first * self.row_len;
        match &mut self.store {
            Store::Memory(samples) => out.copy_from_slice(&samples[start..start + out.len()]),
            Store::File(file) => {
                file.seek(SeekFrom::Start((start * size_of::<f32>()) as u64))?;
                file.read_exact(bytemuck::cast_slice_mut(out))?;
            }
        }
        Ok(())
    }

    /// Replaces whole rows that were written.
    ///
    /// # Errors
    /// An error of the operating system.
    pub(crate) fn rewrite(&mut self, first: usize, rows: &[f32]) -> io::Result<()> {
        let start = first * self.row_len;
        match &mut self.store {
            Store::Memory(samples) => samples[start..start + rows.len()].copy_from_slice(rows),
            Store::File(file) => {
                file.seek(SeekFrom::Start((start * size_of::<f32>()) as u64))?;
                file.write_all(bytemuck::cast_slice(rows))?;
            }
        }
        Ok(())
    }

    /// The plane, complete.
    ///
    /// # Errors
    /// A file that cannot be mapped.
    pub(crate) fn finish(self) -> io::Result<Plane> {
        Ok(Plane(Arc::new(match self.store {
            Store::Memory(samples) => Storage::Memory(samples),
            Store::File(file) => {
                // SAFETY: the file has no name, and its only handle is not written to from here on, so nobody
                // changes or shortens it.
                let map = unsafe { Mmap::map(&file) }?;
                Storage::File { file, map }
            }
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plane_in_a_file_holds_what_one_in_memory_does() {
        let folder = tempfile::tempdir().unwrap();
        let (rows, row_len) = (37, 211);
        let samples: Vec<f32> = (0..rows * row_len).map(|at| at as f32).collect();
        for memory_bytes in [0, u64::MAX] {
            let scratch = Scratch { folder: Some(folder.path().to_owned()), memory_bytes };
            let mut plane = PlaneBuilder::new(rows, row_len, &scratch).unwrap();
            for band in samples.chunks(5 * row_len) {
                plane.push(band).unwrap();
            }
            let mut read = vec![0.0; 2 * row_len];
            plane.read(7, &mut read).unwrap();
            assert_eq!(read, samples[7 * row_len..9 * row_len]);
            plane.rewrite(7, &vec![-1.0; row_len]).unwrap();
            plane.rewrite(7, &read[..row_len]).unwrap();
            let plane = plane.finish().unwrap();
            assert_eq!(plane[..], samples);
            let part = 3 * row_len + 5..4 * row_len;
            assert_eq!(plane.samples(part.clone(), &mut Vec::new()), &samples[part]);
            assert_eq!(plane, Plane::from(samples.clone()));
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no name");
        }
    }
}
