//! How far a job has come, on the disk: one short line for every piece of work that is finished and
//! safe, each with a checksum, so that a line that a kill or a full disk cut short is recognised and
//! counts for nothing.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::pipeline::error::Error;

/// A piece of work that is finished, and whose results are on the disk. Each says how far its stage
/// has come, counted from the job's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// VAE tiles of the canvas that are encoded.
    Encoded { tiles: usize },
    /// The picture at the model's native size is encoded.
    LowResolution,
    /// Regions whose noise is predicted in the current step.
    Predicted { regions: usize },
    /// Steps that are taken; what the last of them kept for later ones is on the disk as well.
    Stepped { steps: usize },
    /// Rows of the output that are decoded.
    Decoded { rows: usize },
}

/// What all records together say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub tiles: usize,
    pub low_resolution: bool,
    pub steps: usize,
    /// Of the step after those.
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

/// The open journal of a job. Its errors name its file.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    done: Done,
}

impl Journal {
    /// A new, empty journal in place of any that is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let create = || {
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(path)?;
            file.sync_all()?;
            Ok(file)
        };
        let file = create().map_err(|error| Error::in_file(path, error))?;
        Ok(Self { file, path: path.to_owned(), done: Done::default() })
    }

    /// The journal that a process before this one left, up to its last whole line.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let open = || {
            let mut file = File::options().read(true).write(true).open(path)?;
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

    /// How far the job has come.
    pub fn done(&self) -> Done {
        self.done
    }

    /// Adds a record, and returns when it is on the disk. What it speaks of must be there before.
    ///
    /// # Errors
    /// What the system says; the record then does not count.
    pub fn append(&mut self, record: Record) -> Result<(), Error> {
        self.write(record).map_err(|error| Error::in_file(&self.path, error))?;
        self.done.add(record);
        Ok(())
    }

    fn write(&mut self, record: Record) -> io::Result<()> {
        let start = self.file.stream_position()?;
        if let Err(error) = self.file.write_all(&line(record)).and_then(|()| self.file.sync_data())
        {
            // Half a line must not stand before the next one; should this fail too, the journal ends there.
            let _ = self
                .file
                .set_len(start)
                .and_then(|()| self.file.seek(SeekFrom::Start(start)).map(drop));
            return Err(error);
        }
        Ok(())
    }

    /// The error of a file in the journal's folder, of which it is about to speak.
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
