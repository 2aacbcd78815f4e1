//! Work folder of a job: it holds the canvases while the job runs, so that a killed job resumes when the same command
//! is given again.
//!
//! The folder lies beside the output (in the cache for a stream), is locked by one process at a time, and is removed
//! when the output is complete. It is read back only by the same job: same picture, same settings, same weights.
//! A job of which nothing is kept ([`Resume::Disabled`]) has the same files without names, or in memory.

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
        CAPTIONS, CAPTIONS_PART, FAILED, Files, JOB, JOB_PART, JOURNAL, WorkLayout, clear,
        read_whole, remove, write_whole,
    },
    journal::{Done, Journal},
    lock::lock,
    place::place,
    room,
};
use crate::{
    canvas::CanvasError,
    image::{Format, Output},
    pipeline::error::{Error, Left},
    temporary::private_folder,
};

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
    /// Keep none: canvases are in memory, or, if they are large, in files without names, and nothing waits for the disk.
    /// For many small jobs, and for outputs that nobody would wait for again.
    Disabled,
}

/// The work folder of a running job, locked.
#[derive(Debug)]
pub struct WorkFolder {
    /// The folder; of a job of which nothing is kept, that of its files without names.
    pub path: PathBuf,
    /// `None` if nothing is kept.
    kept: Option<Kept>,
    pub files: Files,
    pub journal: Journal,
    /// What became of work that was found in the folder, and what may come of little room, for the user.
    pub notes: Vec<String>,
}

/// What a work folder has that is kept.
#[derive(Debug)]
struct Kept {
    /// Base name of the job's other files.
    tag: OsString,
    /// The locked file.
    lock: File,
}

impl WorkFolder {
    /// The files of a job of which nothing is kept; `output` is `None` for a caller who takes the rows. `folder` is for
    /// what is large, instead of the user's own for temporary files.
    ///
    /// # Errors
    /// Insufficient disk space, or an I/O error.
    pub fn temporary(
        folder: Option<&Path>,
        output: Option<(&Output, Format)>,
        layout: &WorkLayout,
    ) -> Result<Self, Error> {
        let path = match folder {
            Some(folder) => folder.to_owned(),
            None => private_folder()?,
        };
        let work = (&*path, layout.temporary_bytes(), layout.map_bytes);
        let room = room::check(work, output, layout.samples())?;
        let files = Files::temporary(&path, layout)?;
        let journal = Journal::without_file(&path);
        Ok(Self { path, kept: None, files, journal, notes: room.into_iter().collect() })
    }

    /// Opens the work folder of the job that `job` describes (an object, which must be equal for
    /// work to be resumed) and that writes `output` as `format`.
    ///
    /// # Errors
    /// Another process with the lock, unfinished work of another job, insufficient disk space (for the output as
    /// well, so that this is known before the work), or an I/O error.
    pub fn open(
        work: &WorkOptions,
        (output, format): (&Output, Format),
        job: &Value,
        layout: &WorkLayout,
    ) -> Result<Self, Error> {
        let (path, tag) = place(work.folder.as_deref(), output, job)?;
        let lock = lock(&path)?;
        let job_file = path.join(JOB);
        let old = match read_whole(&job_file) {
            _ if work.resume == Resume::Never => None,
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::in_file(&job_file, error)),
        };
        let nothing = || Error::NothingToResume { output: output.name(), folder: path.clone() };
        let room = |need: u64| {
            let work = (&*path, need, layout.map_bytes.min(need));
            room::check(work, Some((output, format)), layout.samples())
        };
        let begin = |note: Option<String>| -> Result<_, Error> {
            clear(&path);
            let begun = room(layout.bytes())
                .and_then(|room| Self::begin(&path, job, layout).map(|begun| (begun, room)));
            if begun.is_err() {
                remove(&path);
            }
            begun.map(|((files, journal), room)| (files, journal, [note, room]))
        };
        let (files, journal, notes) = match old {
            Some(text) => match Self::take_up(&path, &text, job, layout) {
                Ok((files, journal)) => {
                    // The other files have their room, or have had it.
                    let is_decoded = journal.done().rows == layout.rows.0;
                    let room = room(if is_decoded { 0 } else { layout.map_bytes })?;
                    let _ = fs::remove_file(path.join(FAILED));
                    let going_on = journal.done() != Done::default();
                    let note = || format!("going on with what is done in {}", path.display());
                    (files, journal, [going_on.then(note), room])
                }
                Err(Unusable::OtherJob(what))
                    if has_results(&path) && !path.join(FAILED).exists() =>
                {
                    return Err(Error::OtherJob { output: output.name(), folder: path, what });
                }
                Err(Unusable::OtherJob(_)) if work.resume == Resume::Required => {
                    return Err(nothing());
                }
                Err(Unusable::OtherJob(_)) if !has_results(&path) => begin(None)?,
                Err(Unusable::OtherJob(_)) => {
                    let left = "what a job that failed left there was of no use to this one";
                    begin(Some(format!("{}: {left}", path.display())))?
                }
                Err(Unusable::Damaged(what)) if work.resume == Resume::Required => {
                    return Err(Error::DamagedWork { folder: path, what });
                }
                Err(Unusable::Damaged(what)) => {
                    let error = Error::DamagedWork { folder: path.clone(), what };
                    begin(Some(format!("{error}: begun anew")))?
                }
                Err(Unusable::Unreadable(error)) => return Err(error),
            },
            None if work.resume == Resume::Required => {
                remove(&path);
                return Err(nothing());
            }
            None => begin(None)?,
        };
        let notes = notes.into_iter().flatten().collect();
        Ok(Self { path, kept: Some(Kept { tag, lock }), files, journal, notes })
    }

    fn begin(path: &Path, job: &Value, layout: &WorkLayout) -> Result<(Files, Journal), Error> {
        let files = Files::create(path, layout)?;
        let journal = Journal::create(&path.join(JOURNAL))?;
        // The description is written last: its presence marks the folder as complete.
        write_whole(path, JOB, JOB_PART, &job.to_string())?;
        Ok((files, journal))
    }

    /// Files and journal of the job whose description is `old`, if that is `job`.
    fn take_up(
        path: &Path,
        old: &[u8],
        job: &Value,
        layout: &WorkLayout,
    ) -> Result<(Files, Journal), Unusable> {
        let Ok(old) = serde_json::from_slice(old) else {
            return Err(Unusable::Damaged(format!("{JOB} cannot be read")));
        };
        match difference(&old, job) {
            Some(what) => Err(Unusable::OtherJob(what)),
            None => {
                let files = Files::open(path, layout)?;
                Ok((files, Journal::open(&path.join(JOURNAL), &layout.all())?))
            }
        }
    }

    /// File name of the partial output until it is complete; `None` if nothing is kept, for a name of its own.
    pub fn partial_name(&self) -> Option<OsString> {
        let mut name = self.kept.as_ref()?.tag.clone();
        name.push(".part");
        Some(name)
    }

    /// Stored captions, if they can be read.
    pub fn captions(&self) -> Option<String> {
        self.kept.as_ref()?;
        String::from_utf8(read_whole(&self.path.join(CAPTIONS)).ok()?).ok()
    }

    /// Stores the captions atomically, if anything is kept.
    ///
    /// # Errors
    /// An I/O error.
    pub fn keep_captions(&self, text: &str) -> Result<(), Error> {
        if self.kept.is_none() {
            return Ok(());
        }
        write_whole(&self.path, CAPTIONS, CAPTIONS_PART, text)
    }

    /// Leaves the folder of a job that ended with an error; one with nothing done in it is removed in any case.
    /// Returns its path if it is kept.
    pub fn leave(self, left: Left) -> Option<PathBuf> {
        if self.kept.is_none() || left == Left::Removed || !has_results(&self.path) {
            self.remove();
            return None;
        }
        if left == Left::Replaceable {
            // Without the mark another job is refused, which loses nothing.
            let _ = fs::write(self.path.join(FAILED), "");
        }
        Some(self.path)
    }

    /// Removes the folder after the output is complete.
    pub fn remove(self) {
        let Self { path, kept, files, journal, .. } = self;
        drop((files, journal));
        if let Some(Kept { lock, .. }) = kept {
            remove(&path);
            drop(lock);
        }
    }

    /// The folder, if what is done is kept in it.
    pub fn into_kept(self) -> Option<PathBuf> {
        self.kept.map(|_| self.path)
    }
}

/// True if something is done in the folder that a job could go on with.
fn has_results(folder: &Path) -> bool {
    fs::metadata(folder.join(JOURNAL)).is_ok_and(|journal| journal.len() > 0)
        || folder.join(CAPTIONS).exists()
}

/// Reason for which the work in a folder is not taken up.
enum Unusable {
    /// It is another job's; the text says how they differ.
    OtherJob(String),
    /// It could not go on; the text says why.
    Damaged(String),
    /// The system did not let it be read.
    Unreadable(Error),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        use io::ErrorKind::{InvalidData, NotFound};
        let is_damage = match &error {
            Error::Canvas(CanvasError::FileLength { .. }) => true,
            Error::Canvas(CanvasError::File { source, .. }) | Error::Work { source, .. } => {
                matches!(source.kind(), InvalidData | NotFound)
            }
            _ => false,
        };
        if is_damage { Self::Damaged(error.to_string()) } else { Self::Unreadable(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::journal::Record, *};

    const LAYOUT: WorkLayout = WorkLayout {
        canvas: (8, 12, 4),
        history: 2,
        regions: (6, 8),
        low_resolution: Some((4, 6)),
        rows: (32, 144),
        map_bytes: 0,
        tiles: 1,
        steps: 3,
    };
    /// What such a job appends up to its second step.
    const TWO_STEPS: [Record; 6] = [
        Record::Encoded { tiles: 1 },
        Record::LowResolution,
        Record::Predicted { regions: 6 },
        Record::Stepped { steps: 1 },
        Record::Predicted { regions: 6 },
        Record::Stepped { steps: 2 },
    ];

    fn append(work: &mut WorkFolder, records: &[Record]) {
        records.iter().for_each(|&record| work.journal.append(record).unwrap());
    }

    fn open(output: &Path, work: &WorkOptions, job: &Value) -> Result<WorkFolder, Error> {
        let output = Output::Path(output.to_owned());
        WorkFolder::open(work, (&output, Format::Png), job, &LAYOUT)
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
            .map(|name| fs::metadata(work.path.join(name)).unwrap().len())
            .iter()
            .sum();
        assert_eq!(used, LAYOUT.bytes());
        work.files.z[1].as_mut_slice()[5] = 3.5;
        work.files.history.as_mut().unwrap().of_step(1).0[7] = 2.5;
        work.files.rows.as_mut().unwrap().write(31, &[7; 144]).unwrap();
        append(&mut work, &TWO_STEPS);
        assert_eq!(work.partial_name().unwrap(), ".a.png.cupscale.part");
        drop(work);

        let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
        assert_eq!(work.journal.done().steps, 2);
        assert_eq!(work.files.z[1].as_slice()[5], 3.5);
        assert_eq!(work.files.history.as_mut().unwrap().of_step(2).1[0][7], 2.5);
        let rows = work.files.rows.as_mut().unwrap();
        assert_eq!(rows.read(30..32).unwrap()[144..], [7; 144]);
        work.remove();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn of_a_job_that_keeps_nothing_no_file_has_a_name_and_records_count_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let output = Output::Path(folder.path().join("a.png"));
        let target = Some((&output, Format::Png));
        let mut work = WorkFolder::temporary(Some(folder.path()), target, &LAYOUT).unwrap();
        append(&mut work, &TWO_STEPS);
        work.keep_captions("{}").unwrap();
        assert_eq!(work.journal.done().steps, 2);
        assert_eq!((work.partial_name(), work.captions()), (None, None));
        assert!(work.files.rows.is_none());
        assert_eq!(work.leave(Left::Kept), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let huge = WorkLayout { canvas: (1 << 20, 1 << 20, 4), ..LAYOUT };
        let error = WorkFolder::temporary(Some(folder.path()), None, &huge).unwrap_err();
        assert!(matches!(error, Error::NoRoom { .. }), "{error}");
    }

    #[test]
    fn another_job_is_refused_with_what_differs_and_a_fresh_one_begins() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a.png");
        let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
        append(&mut work, &TWO_STEPS);
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
        assert_ne!(first.path, second.path);
        let strange = first.path.join("mine.txt");
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
        assert!(work.partial_name().unwrap().len() < 64);
        drop(work);
        let huge = WorkLayout { rows: (1 << 30, 1 << 30), ..LAYOUT };
        let output = Output::Path(folder.path().join("b.png"));
        let error =
            WorkFolder::open(&WorkOptions::default(), (&output, Format::Png), &job(1), &huge)
                .unwrap_err();
        assert!(matches!(error, Error::NoRoom { maps: 0, .. }), "{error}");
        assert!(!folder.path().join(".b.png.cupscale").exists());
        // Of a job that goes on the maps alone are missing.
        let open = |map_bytes: u64| {
            let layout = WorkLayout { map_bytes, ..LAYOUT };
            let output = (&output, Format::Png);
            WorkFolder::open(&WorkOptions::default(), output, &job(1), &layout)
        };
        for _ in 0..2 {
            let error = open(1 << 60).unwrap_err();
            assert!(matches!(error, Error::NoRoom { maps, .. } if maps == 1 << 60), "{error}");
            drop(open(0).unwrap());
        }
    }

    #[test]
    fn work_that_cannot_go_on_is_begun_anew_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a.png");
        let required = WorkOptions { resume: Resume::Required, ..WorkOptions::default() };
        let path = folder.path().join(".a.png.cupscale");
        let lie = b"00000000 {\"stepped\":{\"steps\":3}}\n";
        for (file, wrong) in
            [("z1", &b"short"[..]), ("rows", b"short"), (JOURNAL, lie), (JOB, b"{"), ("zl", b"")]
        {
            let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
            append(&mut work, &TWO_STEPS);
            drop(work);
            fs::write(path.join(file), wrong).unwrap();
            let error = open(&output, &required, &job(1)).unwrap_err();
            assert!(matches!(error, Error::DamagedWork { .. }), "{file}: {error}");
            let work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
            assert_eq!(work.journal.done(), Done::default(), "{file}");
            let note = work.notes.concat();
            assert!(note.contains(file) || file == JOB && note.contains("job.json"), "{note}");
            assert!(note.ends_with("begun anew"), "{note}");
            work.remove();
        }
        drop(open(&output, &WorkOptions::default(), &job(1)).unwrap());
        fs::remove_file(path.join("z0")).unwrap();
        assert!(open(&output, &WorkOptions::default(), &job(1)).unwrap().notes.len() == 1);
    }

    #[test]
    fn what_a_failed_job_leaves_goes_on_and_refuses_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a.png");
        let begun = |records: &[Record], left: Left| {
            let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
            append(&mut work, records);
            work.leave(left)
        };
        drop(open(&output, &WorkOptions::default(), &job(1)).unwrap());
        // An empty folder refuses nobody.
        open(&output, &WorkOptions::default(), &job(2)).unwrap().remove();
        // Nothing done, or nothing to go on with.
        for (records, left) in [(&[][..], Left::Kept), (&TWO_STEPS, Left::Removed)] {
            assert_eq!(begun(records, left), None);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
        let path = folder.path().join(".a.png.cupscale");
        assert_eq!(begun(&TWO_STEPS, Left::Replaceable).as_ref(), Some(&path));
        let work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
        assert_eq!(work.journal.done().steps, 2);
        assert_eq!(work.leave(Left::Replaceable).as_ref(), Some(&path));
        let required = WorkOptions { resume: Resume::Required, ..WorkOptions::default() };
        let error = open(&output, &required, &job(2)).unwrap_err();
        assert!(matches!(error, Error::NothingToResume { .. }), "{error}");
        let mut work = open(&output, &WorkOptions::default(), &job(2)).unwrap();
        assert!(work.notes.concat().contains("failed"));
        append(&mut work, &TWO_STEPS[..1]);
        assert!(work.leave(Left::Kept).is_some());
        let error = open(&output, &WorkOptions::default(), &job(1)).unwrap_err();
        assert!(matches!(error, Error::OtherJob { .. }), "{error}");
    }

    #[test]
    fn a_job_file_that_no_job_wrote_is_not_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a.png");
        drop(open(&output, &WorkOptions::default(), &job(1)).unwrap());
        let file = File::options().write(true).open(folder.path().join(".a.png.cupscale/job.json"));
        file.unwrap().set_len(1 << 40).unwrap();
        let error = open(&output, &WorkOptions::default(), &job(1)).unwrap_err();
        assert!(error.to_string().contains("larger than 16.0 MiB"), "{error}");
        let fresh = WorkOptions { resume: Resume::Never, ..WorkOptions::default() };
        open(&output, &fresh, &job(1)).unwrap().remove();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_bears_the_folders_name_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (output, elsewhere) = (folder.path().join("a.png"), folder.path().join("elsewhere"));
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("zl"), "precious").unwrap();
        let path = folder.path().join(".a.png.cupscale");
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        let error = open(&output, &WorkOptions::default(), &job(1)).unwrap_err();
        assert!(matches!(error, Error::NotOwn { .. }), "{error}");
        fs::remove_file(&path).unwrap();
        // A link within the folder.
        let mut work = open(&output, &WorkOptions::default(), &job(1)).unwrap();
        append(&mut work, &TWO_STEPS[..1]);
        drop(work);
        fs::remove_file(path.join("zl")).unwrap();
        std::os::unix::fs::symlink(elsewhere.join("zl"), path.join("zl")).unwrap();
        assert!(open(&output, &WorkOptions::default(), &job(1)).is_err());
        let fresh = WorkOptions { resume: Resume::Never, ..WorkOptions::default() };
        open(&output, &fresh, &job(1)).unwrap().remove();
        assert_eq!(fs::read(elsewhere.join("zl")).unwrap(), b"precious");
    }
}
