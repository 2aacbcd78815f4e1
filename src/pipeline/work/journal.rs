//! Journal of a job's progress on disk: one line with a checksum for every finished piece of work whose results are
//! on the disk. A last line cut by a kill or a full disk is recognised and ignored. Any other line that cannot be true
//! makes the whole journal worthless: the canvases have gone on since, so that the lines before it alone would give
//! another picture.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{lease::LeaseWatch, pipeline::error::Error, temporary::not_through_links};

/// A finished piece of work whose results are on the disk; counts are totals since the start of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A network has enlarged the picture.
    Enlarged,
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
    pub enlarged: bool,
    pub tiles: usize,
    pub low_resolution: bool,
    pub steps: usize,
    /// Predicted regions of the step after `steps`.
    pub regions: usize,
    pub rows: usize,
}

impl Done {
    /// True if the next record of a job whose whole work is `all` can be this one.
    fn allows(&self, record: Record, all: &Self) -> bool {
        let next = |done: usize, new: usize, all: usize| done < new && new <= all;
        let enlarged = self.enlarged == all.enlarged;
        let encoded = self.tiles == all.tiles && self.low_resolution == all.low_resolution;
        match record {
            Record::Enlarged => all.enlarged && !self.enlarged,
            Record::Encoded { tiles } => enlarged && next(self.tiles, tiles, all.tiles),
            Record::LowResolution => {
                all.low_resolution && !self.low_resolution && self.tiles == all.tiles
            }
            Record::Predicted { regions } => {
                encoded && self.steps < all.steps && next(self.regions, regions, all.regions)
            }
            Record::Stepped { steps } => {
                steps == self.steps + 1 && steps <= all.steps && self.regions == all.regions
            }
            Record::Decoded { rows } => {
                encoded && self.steps == all.steps && next(self.rows, rows, all.rows)
            }
        }
    }

    fn add(&mut self, record: Record) {
        match record {
            Record::Enlarged => self.enlarged = true,
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
    /// `None` where nothing is kept.
    file: Option<File>,
    path: PathBuf,
    done: Done,
    /// Of the folder: without it nothing is written.
    lease: Option<LeaseWatch>,
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
        Ok(Self { file: Some(file), path: path.to_owned(), done: Done::default(), lease: None })
    }

    /// The journal of a job of which nothing is kept; `path` is named in errors.
    pub fn without_file(path: &Path) -> Self {
        Self { file: None, path: path.to_owned(), done: Done::default(), lease: None }
    }

    /// Opens an earlier process's journal of a job whose whole work is `all`.
    ///
    /// # Errors
    /// An I/O error; of the kind [`io::ErrorKind::InvalidData`] for a line that no such job writes.
    pub fn open(path: &Path, all: &Done) -> Result<Self, Error> {
        let open = || {
            let mut file = not_through_links().open(path)?;
            let mut text = Vec::new();
            // A line is shorter than 64 bytes and speaks of at least one piece of work.
            let pieces = all.tiles + (all.regions + 1) * all.steps + all.rows + 3;
            (&mut file).take(pieces as u64 * 64).read_to_end(&mut text)?;
            let (mut done, mut whole) = (Done::default(), 0);
            for (number, text) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
                // What a kill left of the last line.
                if !text.ends_with(b"\n") {
                    break;
                }
                let record = parse(text).filter(|&record| done.allows(record, all));
                let Some(record) = record else {
                    let wrong = format!("line {} cannot be true", number + 1);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
                };
                done.add(record);
                whole += text.len() as u64;
            }
            file.set_len(whole)?;
            file.seek(SeekFrom::Start(whole))?;
            Ok((file, done))
        };
        let (file, done) = open().map_err(|error| Error::in_file(path, error))?;
        Ok(Self { file: Some(file), path: path.to_owned(), done, lease: None })
    }

    /// The journal of a folder with this lease, without which it takes no records.
    pub fn under(self, lease: LeaseWatch) -> Self {
        Self { lease: Some(lease), ..self }
    }

    /// Checks that the folder is still this process's.
    ///
    /// # Errors
    /// [`Error::TakenOver`] if it is not, or an I/O error.
    pub fn check_lease(&self) -> Result<(), Error> {
        let Some(lease) = &self.lease else { return Ok(()) };
        match lease.is_held() {
            Ok(true) => Ok(()),
            Ok(false) => {
                let folder = self.path.parent().unwrap_or(&self.path).to_owned();
                Err(Error::TakenOver { folder })
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Progress of the job.
    pub fn done(&self) -> Done {
        self.done
    }

    /// Adds a record and returns after it is on the disk, where the results it refers to must already be.
    ///
    /// # Errors
    /// An I/O error, or another process that has taken the folder over; the record then does not count.
    pub fn append(&mut self, record: Record) -> Result<(), Error> {
        self.check_lease()?;
        if let Some(file) = &mut self.file {
            write(file, record).map_err(|error| Error::in_file(&self.path, error))?;
        }
        self.done.add(record);
        Ok(())
    }

    /// Error of a file in the journal's folder whose record was about to be written.
    pub fn failed(&self, error: io::Error) -> Error {
        Error::in_file(self.path.parent().unwrap_or(&self.path), error)
    }
}

fn write(file: &mut File, record: Record) -> io::Result<()> {
    let start = file.stream_position()?;
    if let Err(error) = file.write_all(&line(record)).and_then(|()| file.sync_data()) {
        // A partial line must not precede the next record; if truncating fails too, the journal ends there.
        let _ = file.set_len(start).and_then(|()| file.seek(SeekFrom::Start(start)).map(drop));
        return Err(error);
    }
    Ok(())
}

/// `checksum record\n`, the checksum in eight hexadecimal digits.
fn line(record: Record) -> Vec<u8> {
    let json = serde_json::to_string(&record).expect("a record is plain data");
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes()
}

/// The record of a line that is exactly what [`line`] makes of it.
fn parse(text: &[u8]) -> Option<Record> {
    let (_, json) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    let record = serde_json::from_str(json).ok()?;
    (line(record) == text).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job of two tiles, one step of three regions and ten rows.
    const ALL: Done =
        Done { enlarged: true, tiles: 2, low_resolution: true, steps: 2, regions: 3, rows: 10 };
    const RECORDS: [Record; 9] = [
        Record::Enlarged,
        Record::Encoded { tiles: 1 },
        Record::Encoded { tiles: 2 },
        Record::LowResolution,
        Record::Predicted { regions: 2 },
        Record::Predicted { regions: 3 },
        Record::Stepped { steps: 1 },
        Record::Predicted { regions: 3 },
        Record::Stepped { steps: 2 },
    ];

    fn after(records: &[Record]) -> Done {
        let mut done = Done::default();
        records.iter().for_each(|&record| done.add(record));
        done
    }

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
        Journal::open(&path, &ALL).unwrap().append(Record::Decoded { rows: 10 }).unwrap();
        assert_eq!(Journal::open(&path, &ALL).unwrap().done(), Done { regions: 0, ..ALL });
    }

    #[test]
    fn a_journal_cut_anywhere_counts_its_whole_lines_and_goes_on_after_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let bytes = written(&path);
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let whole = bytes[..cut].iter().filter(|&&byte| byte == b'\n').count();
            let mut journal = Journal::open(&path, &ALL).unwrap();
            assert_eq!(journal.done(), after(&RECORDS[..whole]), "cut at {cut}");
            RECORDS[whole..].iter().for_each(|&record| journal.append(record).unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "cut at {cut}");
        }
    }

    /// The canvases are further than the lines before it say.
    #[test]
    fn a_journal_with_a_flipped_bit_is_worth_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let bytes = written(&path);
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            match Journal::open(&path, &ALL) {
                // The last line's end: the line counts as cut.
                Ok(journal) if at + 1 == bytes.len() => {
                    assert_eq!(journal.done(), after(&RECORDS[..8]));
                }
                Ok(journal) => panic!("at {at}: {:?}", journal.done()),
                Err(error) => assert!(error.to_string().contains("cannot be true"), "at {at}"),
            }
        }
    }

    #[test]
    fn numbers_that_the_job_cannot_have_are_not_believed_whatever_their_checksum() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let refused = |lies: &[Record], all: &Done| {
            let text: Vec<u8> = lies.iter().flat_map(|&record| line(record)).collect();
            std::fs::write(&path, text).unwrap();
            let error = Journal::open(&path, all).unwrap_err().to_string();
            let expected = format!("line {} cannot be true", lies.len());
            assert!(error.ends_with(&expected), "{lies:?}: {error}");
        };
        for (before, lie) in [
            (0, Record::Encoded { tiles: 1 }),
            (1, Record::Enlarged),
            (1, Record::Encoded { tiles: 3 }),
            (1, Record::Encoded { tiles: 0 }),
            (1, Record::LowResolution),
            (3, Record::Predicted { regions: 1 }),
            (4, Record::LowResolution),
            (4, Record::Predicted { regions: 4 }),
            (4, Record::Predicted { regions: usize::MAX }),
            (5, Record::Predicted { regions: 2 }),
            (5, Record::Stepped { steps: 1 }),
            (6, Record::Stepped { steps: 2 }),
            (6, Record::Decoded { rows: 10 }),
            (7, Record::Stepped { steps: 2 }),
            (9, Record::Predicted { regions: 1 }),
            (9, Record::Stepped { steps: 3 }),
            (9, Record::Decoded { rows: 0 }),
            (9, Record::Decoded { rows: 11 }),
        ] {
            refused(&[&RECORDS[..before], &[lie]].concat(), &ALL);
        }
        refused(&RECORDS[..4], &Done { low_resolution: false, ..ALL });
        refused(&RECORDS[..1], &Done { enlarged: false, ..ALL });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_record_that_does_not_fit_the_disk_is_an_error_and_does_not_count() {
        let file = File::options().read(true).write(true).open("/dev/full").unwrap();
        let mut journal =
            Journal { file: Some(file), ..Journal::without_file(Path::new("/dev/full")) };
        assert!(journal.append(Record::LowResolution).is_err());
        assert_eq!(journal.done(), Done::default());
    }
}
