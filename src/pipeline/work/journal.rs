//! Journal of a job's progress on disk: one line with a checksum for every finished piece of work whose results are
//! on the disk. A line truncated by a kill or a full disk is recognised and ignored.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{pipeline::error::Error, temporary::not_through_links};

/// A finished piece of work whose results are on the disk; counts are totals since the start of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// Encoded VAE tiles of the canvas.
    Encoded { tiles: usize },
    /// The picture at the model's native size is encoded.
    LowResolution,
    /// Predicted regions of the current step.
    Predicted { regions: usize },
    /// Completed steps; the sampler's history is on the disk as well.
    Stepped { steps: usize },
    /// Decoded rows of the output.
    Decoded { rows: usize },
}

/// Progress according to all records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub tiles: usize,
    pub low_resolution: bool,
    pub steps: usize,
    /// Predicted regions of the step after `steps`.
    pub regions: usize,
    pub rows: usize,
}

impl Done {
    fn add(&mut self, record: Record) {
        match record {
            Record::Encoded { tiles } => self.tiles = tiles,
            Record::LowResolution => self.low_resolution = true,
            Record::Predicted { regions } => self.regions = regions,
            Record::Stepped { steps } => (self.steps, self.regions) = (steps, 0),
            Record::Decoded { rows } => self.rows = rows,
        }
    }
}

/// Open journal of a job; its errors name the file.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    done: Done,
}

impl Journal {
    /// A new, empty journal that replaces an existing one.
    ///
    /// # Errors
    /// An I/O error.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let create = || {
            let file = not_through_links().create(true).truncate(true).open(path)?;
            file.sync_all()?;
            Ok(file)
        };
        let file = create().map_err(|error| Error::in_file(path, error))?;
        Ok(Self { file, path: path.to_owned(), done: Done::default() })
    }

    /// Opens an earlier process's journal up to its last valid line.
    ///
    /// # Errors
    /// An I/O error.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let open = || {
            let mut file = not_through_links().open(path)?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            let (mut done, mut whole) = (Done::default(), 0);
            for line in text.split_inclusive(|&byte| byte == b'\n') {
                let Some(record) = parse(line) else { break };
                done.add(record);
                whole += line.len() as u64;
            }
            file.set_len(whole)?;
            file.seek(SeekFrom::Start(whole))?;
            Ok((file, done))
        };
        let (file, done) = open().map_err(|error| Error::in_file(path, error))?;
        Ok(Self { file, path: path.to_owned(), done })
    }

    /// Progress of the job.
    pub fn done(&self) -> Done {
        self.done
    }

    /// Adds a record and returns after it is on the disk, where the results it refers to must already be.
    ///
    /// # Errors
    /// An I/O error; the record then does not count.
    pub fn append(&mut self, record: Record) -> Result<(), Error> {
        self.write(record).map_err(|error| Error::in_file(&self.path, error))?;
        self.done.add(record);
        Ok(())
    }

    fn write(&mut self, record: Record) -> io::Result<()> {
        let start = self.file.stream_position()?;
        if let Err(error) = self.file.write_all(&line(record)).and_then(|()| self.file.sync_data())
        {
            // A partial line must not precede the next record; if truncating fails too, the journal ends there.
            let _ = self
                .file
                .set_len(start)
                .and_then(|()| self.file.seek(SeekFrom::Start(start)).map(drop));
            return Err(error);
        }
        Ok(())
    }

    /// Error of a file in the journal's folder whose record was about to be written.
    pub fn failed(&self, error: io::Error) -> Error {
        Error::in_file(self.path.parent().unwrap_or(&self.path), error)
    }
}

/// `checksum record\n`, the checksum in eight hexadecimal digits.
fn line(record: Record) -> Vec<u8> {
    let json = serde_json::to_string(&record).expect("a record is plain data");
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes()
}

fn parse(line: &[u8]) -> Option<Record> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (checksum, json) = line.split_once(' ')?;
    let sum = u32::from_str_radix(checksum, 16).ok()?;
    (sum == crc32fast::hash(json.as_bytes())).then(|| serde_json::from_str(json).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: [Record; 6] = [
        Record::Encoded { tiles: 4 },
        Record::LowResolution,
        Record::Predicted { regions: 8 },
        Record::Stepped { steps: 1 },
        Record::Predicted { regions: 12 },
        Record::Decoded { rows: 512 },
    ];

    fn written(path: &Path) -> Vec<u8> {
        let mut journal = Journal::create(path).unwrap();
        RECORDS.into_iter().for_each(|record| journal.append(record).unwrap());
        std::fs::read(path).unwrap()
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        written(&path);
        let done = Done { tiles: 4, low_resolution: true, steps: 1, regions: 12, rows: 512 };
        assert_eq!(Journal::open(&path).unwrap().done(), done);
    }

    #[test]
    fn a_journal_cut_anywhere_counts_its_whole_lines_and_goes_on_after_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let bytes = written(&path);
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let whole = bytes[..cut].iter().filter(|&&byte| byte == b'\n').count();
            let mut expected = Done::default();
            RECORDS[..whole].iter().for_each(|&record| expected.add(record));
            let mut journal = Journal::open(&path).unwrap();
            assert_eq!(journal.done(), expected, "cut at {cut}");
            RECORDS[whole..].iter().for_each(|&record| journal.append(record).unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "cut at {cut}");
        }
    }

    #[test]
    fn a_line_with_a_flipped_bit_ends_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let bytes = written(&path);
        let first = bytes.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for at in first..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let done = Journal::open(&path).unwrap().done();
            let before = bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
            let mut expected = Done::default();
            RECORDS[..before].iter().for_each(|&record| expected.add(record));
            assert_eq!(done, expected, "at {at}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_record_that_does_not_fit_the_disk_is_an_error_and_does_not_count() {
        let file = File::options().read(true).write(true).open("/dev/full").unwrap();
        let mut journal = Journal { file, path: "/dev/full".into(), done: Done::default() };
        assert!(journal.append(Record::LowResolution).is_err());
        assert_eq!(journal.done(), Done::default());
    }
}
