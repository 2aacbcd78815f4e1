//! Feature maps of an autoencoder that computes a canvas layer by layer: files without names in the work folder, so that
//! nothing is left of them however the process ends. They are read and written by plain calls, so that a full disk is an
//! error and that they are no memory of the process.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::Path,
};

use crate::{pipeline::error::Error, temporary};

/// Bytes of a value.
pub const VALUE_BYTES: usize = size_of::<f32>();

/// A map `[height, width, C]` on the disk.
#[derive(Debug)]
pub struct MapFile {
    file: File,
    width: usize,
    channels: usize,
}

impl MapFile {
    /// A new map in `folder` of this width and number of channels.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub fn create(folder: &Path, (width, channels): (usize, usize)) -> Result<Self, Error> {
        let file = temporary::unlinked_file(folder)?;
        Ok(Self { file, width, channels })
    }

    /// Its channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The window of these rows and columns, `[rows, columns, C]`.
    ///
    /// # Errors
    /// An I/O error.
    pub fn read(&mut self, rows: Range<usize>, columns: Range<usize>) -> io::Result<Vec<f32>> {
        let mut values = vec![0.0; rows.len() * columns.len() * self.channels];
        let length = self.run(&columns);
        for (y, out) in rows.step_by(length.1).zip(values.chunks_mut(length.0.max(1))) {
            self.seek(y, columns.start)?;
            self.file.read_exact(bytemuck::cast_slice_mut(out))?;
        }
        Ok(values)
    }

    /// Writes the window that begins with this row and has these columns.
    ///
    /// # Errors
    /// An I/O error.
    pub fn write(&mut self, first: usize, columns: Range<usize>, values: &[f32]) -> io::Result<()> {
        let length = self.run(&columns);
        for (y, values) in (first..).step_by(length.1).zip(values.chunks(length.0.max(1))) {
            self.seek(y, columns.start)?;
            self.file.write_all(bytemuck::cast_slice(values))?;
        }
        Ok(())
    }

    /// Values of a window of these columns that lie one after the other, and rows that they are: whole rows follow each
    /// other.
    fn run(&self, columns: &Range<usize>) -> (usize, usize) {
        let row = columns.len() * self.channels;
        if columns.len() == self.width { (row * ROWS_AT_ONCE, ROWS_AT_ONCE) } else { (row, 1) }
    }

    fn seek(&mut self, y: usize, x: usize) -> io::Result<()> {
        let place = (y * self.width + x) * self.channels;
        self.file.seek(SeekFrom::Start((place * VALUE_BYTES) as u64)).map(drop)
    }
}

/// Whole rows that go in one call.
const ROWS_AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_as_they_were_written_and_the_file_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let (height, width, channels) = (150, 7, 3);
        let mut map = MapFile::create(folder.path(), (width, channels)).unwrap();
        let value = |y: usize, x: usize, c: usize| (y * 100 + x * 10 + c) as f32;
        let window = |rows: Range<usize>, columns: Range<usize>| -> Vec<f32> {
            rows.flat_map(|y| {
                columns.clone().flat_map(move |x| (0..channels).map(move |c| value(y, x, c)))
            })
            .collect()
        };
        for columns in [0..4, 4..7] {
            map.write(0, columns.clone(), &window(0..80, columns)).unwrap();
        }
        map.write(80, 0..7, &window(80..150, 0..7)).unwrap();
        for (rows, columns) in [(0..height, 0..width), (3..90, 2..5), (149..150, 6..7)] {
            let read = map.read(rows.clone(), columns.clone()).unwrap();
            assert_eq!(read, window(rows, columns));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
