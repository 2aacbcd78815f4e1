//! Work folder of a job: it holds the canvases while the job runs, so that a killed job resumes when the same command
//! is given again.
//!
//! The folder lies beside the output (in the cache for a stream), is locked by one process at a time, and is removed
//! when the output is complete. It is read back only by the same job: same picture, same settings, same weights.
//! A job of which nothing is kept ([`Resume::Disabled`]) has the same files without names, or in memory.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    difference::difference,
    files::{
        CAPTIONS, CAPTIONS_PART, FAILED, Files, INPUT, JOB, JOB_PART, JOURNAL, WorkLayout, clear,
        read_whole, remove, write_whole,
    },
    journal::{Done, Journal},
    lock::{Lock, lock},
    place::{is_file_or_none, place},
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

impl WorkOptions {
    /// The work folder of a job that writes this output, whether it is there or not; `None` for a stream, or where nothing
    /// is kept.
    #[must_use]
    pub fn folder_of(&self, output: &Output) -> Option<PathBuf> {
        match output {
            Output::Path(path) if self.resume != Resume::Disabled && is_file_or_none(path) => {
                Some(place(self.folder.as_deref(), output, &Value::Null).ok()?.0)
            }
            _ => None,
        }
    }
}

impl WorkOptions {
    /// Removes the work folder of a job that had completed this output and was killed before it had removed the folder.
    /// Unfinished work on an output that was there before stays, and so does the folder of a process that is at work.
    pub fn clear_finished(&self, output: &Output) {
        let Some(folder) = self.folder_of(output).filter(|folder| folder.is_dir()) else { return };
        let Ok(lock) = lock(&folder) else { return };
        let written = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
        let output = match output {
            Output::Path(path) => written(path),
            _ => None,
        };
        // The output is written after the last record of the journal.
        let is_over = written(&folder.join(JOURNAL)).zip(output).is_some_and(|(at, end)| at <= end);
        if is_over || !has_results(&folder) {
            remove(&folder);
        }
        drop(lock);
        // Where a file that is open has a name until it is closed.
        let _ = fs::remove_dir(&folder);
    }
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
    lock: Lock,
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
        Self::open_in((path, tag), work.resume, Some((output, format)), job, layout)
    }

    /// Opens the folder of the work on this job's input, in this one and as the user asked for this one; `None` if nothing
    /// is kept.
    ///
    /// # Errors
    /// As [`WorkFolder::open`].
    pub fn inner(&self, job: &Value, layout: &WorkLayout) -> Result<Option<Self>, Error> {
        let Some(Kept { tag, .. }) = &self.kept else { return Ok(None) };
        let place = (self.path.join(INPUT), tag.clone());
        Self::open_in(place, Resume::Auto, None, job, layout).map(Some)
    }

    /// Opens the work folder at a path, whose job's other files have this base name.
    fn open_in(
        (path, tag): (PathBuf, OsString),
        resume: Resume,
        output: Option<(&Output, Format)>,
        job: &Value,
        layout: &WorkLayout,
    ) -> Result<Self, Error> {
        let name =
            || output.map_or_else(|| path.display().to_string(), |(output, _)| output.name());
        let lock = lock(&path)?;
        let job_file = path.join(JOB);
        let old = match read_whole(&job_file) {
            _ if resume == Resume::Never => None,
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::in_file(&job_file, error)),
        };
        let nothing = || Error::NothingToResume { output: name(), folder: path.clone() };
        let room = |need: u64| {
            let work = (&*path, need, layout.map_bytes.min(need));
            room::check(work, output, layout.samples())
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
                    return Err(Error::OtherJob { output: name(), folder: path, what });
                }
                Err(Unusable::OtherJob(_)) if resume == Resume::Required => {
                    return Err(nothing());
                }
                Err(Unusable::OtherJob(_)) if !has_results(&path) => begin(None)?,
                Err(Unusable::OtherJob(_)) => {
                    let left = "what a job that failed left there was of no use to this one";
                    begin(Some(format!("{}: {left}", path.display())))?
                }
                Err(Unusable::Damaged(what)) if resume == Resume::Required => {
                    return Err(Error::DamagedWork { folder: path, what });
                }
                Err(Unusable::Damaged(what)) => {
                    let error = Error::DamagedWork { folder: path.clone(), what };
                    begin(Some(format!("{error}: begun anew")))?
                }
                Err(Unusable::Unreadable(error)) => return Err(error),
            },
            None if resume == Resume::Required => {
                remove(&path);
                return Err(nothing());
            }
            None => begin(None)?,
        };
        let notes = notes.into_iter().flatten().collect();
        let journal = journal.under(lock.watch());
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
        if self.kept.as_ref().is_some_and(|kept| !kept.lock.is_held()) {
            // It is another process's.
            return None;
        }
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
            let is_held = lock.is_held();
            if is_held {
                remove(&path);
            }
            drop(lock);
            if is_held {
                // On NFS a file that is open has a name until it is closed.
                let _ = fs::remove_dir(&path);
            }
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
        || folder.join(INPUT).is_dir() && has_results(&folder.join(INPUT))
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
mod tests;
