//! Spool: rows of samples that a file gives in an order of its own, put in their places before they are passed on. Those of
//! a large picture go to a file without a name.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
};

use crate::image::plane::Scratch;

pub(super) struct Spool {
    store: Store,
    row_len: usize,
}

enum Store {
    Memory(Vec<f32>),
    File(File),
}

impl Spool {
    /// Zeros for `rows` rows of `row_len` samples.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub(super) fn new(rows: usize, row_len: usize, scratch: &Scratch) -> io::Result<Self> {
        let store = if Self::memory_bytes(rows, row_len, scratch) > 0 {
            Store::Memory(vec![0.0; rows * row_len])
        } else {
            let file = scratch.file()?;
            file.set_len((rows * row_len * size_of::<f32>()) as u64)?;
            Store::File(file)
        };
        Ok(Self { store, row_len })
    }

    /// Bytes that such a spool takes in memory: 0 where it goes to a file.
    pub(super) fn memory_bytes(rows: usize, row_len: usize, scratch: &Scratch) -> u64 {
        let bytes = (rows * row_len * size_of::<f32>()) as u64;
        if bytes <= scratch.memory_bytes { bytes } else { 0 }
    }

    /// Puts samples into a row, from one of its places on.
    ///
    /// # Errors
    /// A full disk, among others.
    pub(super) fn write(&mut self, row: usize, from: usize, samples: &[f32]) -> io::Result<()> {
        let start = row * self.row_len + from;
        match &mut self.store {
            Store::Memory(all) => all[start..start + samples.len()].copy_from_slice(samples),
            Store::File(file) => {
                file.seek(SeekFrom::Start((start * size_of::<f32>()) as u64))?;
                file.write_all(bytemuck::cast_slice(samples))?;
            }
        }
        Ok(())
    }

    /// Reads a row.
    ///
    /// # Errors
    /// An error of the operating system.
    pub(super) fn read(&mut self, row: usize, out: &mut Vec<f32>) -> io::Result<()> {
        let start = row * self.row_len;
        out.resize(self.row_len, 0.0);
        match &mut self.store {
            Store::Memory(all) => out.copy_from_slice(&all[start..start + self.row_len]),
            Store::File(file) => {
                file.seek(SeekFrom::Start((start * size_of::<f32>()) as u64))?;
                file.read_exact(bytemuck::cast_slice_mut(out))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_where_they_were_put_in_memory_and_in_a_file() {
        for memory_bytes in [0, u64::MAX] {
            let scratch = Scratch { memory_bytes, ..Scratch::default() };
            let mut spool = Spool::new(3, 4, &scratch).unwrap();
            spool.write(2, 1, &[1.0, 2.0]).unwrap();
            spool.write(0, 0, &[3.0; 4]).unwrap();
            let mut row = Vec::new();
            spool.read(2, &mut row).unwrap();
            assert_eq!(row, [0.0, 1.0, 2.0, 0.0]);
            spool.read(0, &mut row).unwrap();
            assert_eq!(row, [3.0; 4]);
        }
    }
}
