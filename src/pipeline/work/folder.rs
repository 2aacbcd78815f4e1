//! Work folder of a job: it holds the canvases while the job runs, so that a killed job resumes when the same command
//! is given again.
//!
//! The folder lies beside the output (in the cache for a stream), is locked by one process at a time, and is removed
//! when the output is complete. It is read back only by the same job: same picture, same settings, same weights.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    difference::difference,
    files::{
        CAPTIONS, CAPTIONS_PART, Files, JOB, JOB_PART, JOURNAL, WorkLayout, clear, remove,
        write_whole,
    },
    journal::Journal,
    lock::lock,
    place::place,
};
use crate::{image::Output, pipeline::error::Error};

/// Place of the work folder, and handling of unfinished work in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkOptions {
    /// Parent of the work folder; `None`: beside the output, or in the cache for a stream.
    pub folder: Option<PathBuf>,
    /// Handling of unfinished work.
    pub resume: Resume,
}

/// Handling of unfinished work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Resume work of the same job, or start if there is none.
    #[default]
    Auto,
    /// Resume; fail if there is none.
    Required,
    /// Discard it and start again.
    Never,
}

/// The work folder of a running job, locked.
#[derive(Debug)]
pub struct WorkFolder {
    path: PathBuf,
    /// Base name of the job's other files.
    tag: OsString,
    /// The locked file.
    lock: File,
    pub files: Files,
    pub journal: Journal,
}

impl WorkFolder {
    /// Opens the work folder of the job that `job` describes (an object, which must be equal for
    /// work to be resumed) and that writes `output`.
    ///
    /// # Errors
    /// Another process with the lock, unfinished work of another job, insufficient disk space, or an I/O
    /// error.
    pub fn open(
        work: &WorkOptions,
        output: &Output,
        job: &Value,
        layout: &WorkLayout,
    ) -> Result<Self, Error> {
        let (path, tag) = place(work.folder.as_deref(), output, job)?;
        let lock = lock(&path)?;
        let job_file = path.join(JOB);
        let old = match fs::read(&job_file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::in_file(&job_file, error)),
        };
        let old = old.filter(|_| work.resume != Resume::Never);
        let files_and_journal = match old {
            Some(text) => {
                let old: Value = serde_json::from_slice(&text).unwrap_or_default();
                if let Some(what) = difference(&old, job) {
                    return Err(Error::OtherJob { output: output.name(), folder: path, what });
                }
                Self::take_up(&path, layout)
            }
            None if work.resume == Resume::Required => {
                remove(&path);
                return Err(Error::NothingToResume { output: output.name(), folder: path });
            }
            None => Self::begin(&path, job, layout),
        };
        let (files, journal) = files_and_journal?;
        Ok(Self { path, tag, lock, files, journal })
    }

    fn begin(path: &Path, job: &Value, layout: &WorkLayout) -> Result<(Files, Journal), Error> {
        clear(path);
        let need = layout.bytes();
        let free = fs4::available_space(path).map_err(|error| Error::in_file(path, error))?;
        if need > free {
            remove(path);
            return Err(Error::NoRoom { folder: path.to_owned(), need, free });
        }
        let made = Files::create(path, layout)
            .and_then(|files| Ok((files, Journal::create(&path.join(JOURNAL))?)));
        // The description is written last: its presence marks the folder as complete.
        let made =
            made.and_then(|made| write_whole(path, JOB, JOB_PART, &job.to_string()).map(|()| made));
        if made.is_err() {
            remove(path);
        }
        made
    }

    fn take_up(path: &Path, layout: &WorkLayout) -> Result<(Files, Journal), Error> {
        Ok((Files::open(path, layout)?, Journal::open(&path.join(JOURNAL))?))
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// File name of the partial output until it is complete.
    pub fn partial_name(&self) -> OsString {
        let mut name = self.tag.clone();
        name.push(".part");
        name
    }

    /// Stored captions, if they can be read.
    pub fn captions(&self) -> Option<String> {
        fs::read_to_string(self.path.join(CAPTIONS)).ok()
    }

    /// Stores the captions atomically.
    ///
    /// # Errors
    /// An I/O error.
    pub fn keep_captions(&self, text: &str) -> Result<(), Error> {
        write_whole(&self.path, CAPTIONS, CAPTIONS_PART, text)
    }

    /// Removes the folder after the output is complete.
    pub fn remove(self) {
        let Self { path, lock, files, journal, .. } = self;
        drop((files, journal));
        remove(&path);
        drop(lock);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::journal::{Done, Record},
        *,
    };

    const LAYOUT: WorkLayout = WorkLayout {
        canvas: (8, 12, 4),
        history: 2,
        regions: (6, 8),
        low_resolution: Some((4, 6)),
        rows: (32, 144),
    };

    fn open(output: &Path, work: &WorkOptions, job: &Value) -> Result<WorkFolder, Error> {
        WorkFolder::open(work, &Output::Path(output.to_owned()), job, &LAYOUT)
    }

    fn job(seed: u64) -> Value {
        serde_json::json!({ "seed": seed, "input": "0".repeat(64) })
    }

    #[test]
    fn work_that_is_left_is_taken_up_and_work_that_is_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a.png");
        let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
        let used: u64 = ["zl", "z0", "z1", "history", "predictions", "low_resolution", "rows"]
            .map(|name| fs::metadata(work.path().join(name)).unwrap().len())
            .iter()
            .sum();
        assert_eq!(used, LAYOUT.bytes());
        work.files.z[1].as_mut_slice()[5] = 3.5;
        work.files.history.as_mut().unwrap().of_step(1).0[7] = 2.5;
        work.files.rows.write(31, &[7; 144]).unwrap();
        work.journal.append(Record::Stepped { steps: 2 }).unwrap();
        assert_eq!(work.partial_name(), ".a.png.cupscale.part");
        drop(work);

        let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
        assert_eq!(work.journal.done().steps, 2);
        assert_eq!(work.files.z[1].as_slice()[5], 3.5);
        assert_eq!(work.files.history.as_mut().unwrap().of_step(2).1[0][7], 2.5);
        assert_eq!(work.files.rows.read(30..32).unwrap()[144..], [7; 144]);
        work.remove();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn another_job_is_refused_with_what_differs_and_a_fresh_one_begins() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a.png");
        let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
        work.journal.append(Record::Stepped { steps: 2 }).unwrap();
        drop(work);
        let error = open(&output, &WorkOptions::default(), &job(2)).unwrap_err().to_string();
        assert!(error.contains("seed: 1 there, 2 now"), "{error}");
        let other = serde_json::json!({ "seed": 1, "input": "1".repeat(64) });
        let error = open(&output, &WorkOptions::default(), &other).unwrap_err().to_string();
        assert!(error.contains("input differs"), "{error}");
        let fresh = WorkOptions { resume: Resume::Never, ..WorkOptions::default() };
        assert_eq!(open(&output, &fresh, &job(2)).unwrap().journal.done(), Done::default());
        assert_eq!(
            open(&output, &WorkOptions::default(), &job(2)).unwrap().journal.done().steps,
            0
        );
    }

    #[test]
    fn a_second_process_is_kept_out_and_nothing_to_resume_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a.png");
        let required = WorkOptions { resume: Resume::Required, ..WorkOptions::default() };
        let error = open(&output, &required, &job(1)).unwrap_err();
        assert!(matches!(error, Error::NothingToResume { .. }), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let held = open(&output, &WorkOptions::default(), &job(1)).unwrap();
        assert!(matches!(open(&output, &WorkOptions::default(), &job(1)), Err(Error::Busy { .. })));
        drop(held);
        assert!(open(&output, &required, &job(1)).is_ok());
    }

    #[test]
    fn a_folder_of_its_own_keeps_outputs_of_one_name_apart_and_strangers_files() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("work");
        let work = WorkOptions { folder: Some(elsewhere.clone()), ..WorkOptions::default() };
        for name in ["x", "y"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let [x, y] = ["x", "y"].map(|name| folder.path().join(name).join("a.png"));
        let first = open(&x, &work, &job(1)).unwrap();
        let second = open(&y, &work, &job(1)).unwrap();
        assert_ne!(first.path(), second.path());
        let strange = first.path().join("mine.txt");
        fs::write(&strange, "").unwrap();
        second.remove();
        first.remove();
        assert!(strange.exists());
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
    }

    #[test]
    fn a_killed_beginning_counts_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a.png");
        drop(open(&output, &WorkOptions::default(), &job(1)).unwrap());
        let path = folder.path().join(".a.png.cupscale");
        fs::remove_file(path.join(JOB)).unwrap();
        fs::write(path.join(JOURNAL), "no journal").unwrap();
        fs::remove_file(path.join("zl")).unwrap();
        let work = open(&output, &WorkOptions::default(), &job(2)).unwrap();
        assert_eq!(work.journal.done(), Done::default());
    }

    #[test]
    fn long_names_and_missing_room_are_dealt_with() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join(format!("{}.png", "n".repeat(251)));
        let work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
        assert!(work.partial_name().len() < 64);
        drop(work);
        let huge = WorkLayout { rows: (1 << 30, 1 << 30), ..LAYOUT };
        let output = Output::Path(folder.path().join("b.png"));
        let error = WorkFolder::open(&WorkOptions::default(), &output, &job(1), &huge).unwrap_err();
        assert!(matches!(error, Error::NoRoom { .. }), "{error}");
        assert!(!folder.path().join(".b.png.cupscale").exists());
    }
}
