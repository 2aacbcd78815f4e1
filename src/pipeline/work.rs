//! The work folder of a job: where its canvases lie while it runs, so that one that is killed goes on
//! where it was when the same command is given again.
//!
//! It lies beside the output (in the cache for a stream), belongs to one process at a time, and is
//! removed when the output is complete. What is in it is only ever read back by the same job: same
//! picture, same settings, same weights.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use etcetera::BaseStrategy as _;
use fs4::FileExt as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{canvas::Latent, image::Output};

use super::{
    Error,
    history::History,
    journal::{Done, Journal, Record},
};

/// Where a job keeps what it has done, and what becomes of work that is there already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// The folder in which the work folder is made; none: beside the output, or in the cache for a stream.
    pub folder: Option<PathBuf>,
    pub resume: Resume,
}

/// What to do about unfinished work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Goes on with it if it is the same job's, begins if there is none.
    #[default]
    Auto,
    /// Goes on with it; there must be some.
    Required,
    /// Throws it away and begins anew.
    Never,
}

/// Sizes of the files of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Height, width and channels of the canvas.
    pub canvas: (usize, usize, usize),
    /// Canvases of what earlier steps kept, for a sampler that reads them.
    pub history: usize,
    /// Regions, and their side.
    pub regions: (usize, usize),
    /// Height and width of the picture at the model's native size, if that is needed.
    pub low_resolution: Option<(usize, usize)>,
    /// Rows of the output, and bytes of one of them as samples.
    pub rows: (usize, usize),
}

impl Layout {
    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        let (height, width, channels) = self.canvas;
        let (count, side) = self.regions;
        let (low_height, low_width) = self.low_resolution.unwrap_or_default();
        let pixels =
            (3 + self.history) * height * width + count * side * side + low_height * low_width;
        (pixels * channels * size_of::<f32>()) as u64 + (self.rows.0 * self.rows.1) as u64
    }
}

const LOCK: &str = "lock";
const JOB: &str = "job.json";
/// The description while it is written.
const JOB_PART: &str = "job.json.part";
/// What was said of the regions, where that was costly.
const CAPTIONS: &str = "captions.json";
const CAPTIONS_PART: &str = "captions.json.part";
const JOURNAL: &str = "journal";
const ZL: &str = "zl";
const Z: [&str; 2] = ["z0", "z1"];
const HISTORY: &str = "history";
const PREDICTIONS: &str = "predictions";
const LOW_RESOLUTION: &str = "low_resolution";
const ROWS: &str = "rows";
/// Everything that can be in a work folder. Nothing else in it is ever touched.
const FILES: [&str; 13] = [
    JOB,
    JOB_PART,
    CAPTIONS,
    CAPTIONS_PART,
    JOURNAL,
    ZL,
    Z[0],
    Z[1],
    HISTORY,
    PREDICTIONS,
    LOW_RESOLUTION,
    ROWS,
    LOCK,
];

/// How long unfinished work of a stream stays in the cache.
const KEEP_STREAMS: Duration = Duration::from_secs(14 * 24 * 3600);

/// The work folder of a running job, locked.
#[derive(Debug)]
pub(super) struct WorkFolder {
    path: PathBuf,
    /// What the names of the job's other files are made from.
    tag: OsString,
    /// Held for its lock.
    lock: File,
    pub files: Files,
    pub journal: SafeJournal,
}

/// The canvases of a job.
#[derive(Debug)]
pub(super) struct Files {
    /// The latent of the resized input.
    pub zl: Latent,
    /// z before a step and after it, in turn: a step reads the one and writes the other, so that one
    /// that is cut short can be taken again.
    pub z: [Latent; 2],
    pub history: Option<History>,
    /// The noise predictions of all regions, one below the other: `[regions · R, R, C]`.
    pub predictions: Latent,
    pub low_resolution: Option<Latent>,
    /// The samples of the output's rows.
    pub rows: Rows,
}

/// The output's rows in a file.
#[derive(Debug)]
pub(super) struct Rows {
    file: File,
    row_bytes: u64,
}

/// The journal, with errors that name its file.
#[derive(Debug)]
pub(super) struct SafeJournal {
    journal: Journal,
    path: PathBuf,
}

impl WorkFolder {
    /// Opens the work folder of the job that `job` describes (an object; all of it must be the same for
    /// work to be taken up) and that writes `output`.
    ///
    /// # Errors
    /// Another process at work on it, unfinished work of another job, no room on the disk, or what the
    /// system says.
    pub fn open(work: &Work, output: &Output, job: &Value, layout: &Layout) -> Result<Self, Error> {
        let (path, tag) = place(work, output, job)?;
        let lock = lock(&path)?;
        let job_file = path.join(JOB);
        let old = match fs::read(&job_file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(in_file(&job_file, error)),
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
        let journal = SafeJournal { journal, path: path.join(JOURNAL) };
        Ok(Self { path, tag, lock, files, journal })
    }

    fn begin(path: &Path, job: &Value, layout: &Layout) -> Result<(Files, Journal), Error> {
        clear(path);
        let need = layout.bytes();
        let free = fs4::available_space(path).map_err(|error| in_file(path, error))?;
        if need > free {
            remove(path);
            return Err(Error::NoRoom { folder: path.to_owned(), need, free });
        }
        let made = Files::create(path, layout).and_then(|files| {
            let in_journal = |error| in_file(&path.join(JOURNAL), error);
            Ok((files, Journal::create(&path.join(JOURNAL)).map_err(in_journal)?))
        });
        // The description comes last: where it is, everything is.
        let made =
            made.and_then(|made| write_whole(path, JOB, JOB_PART, &job.to_string()).map(|()| made));
        if made.is_err() {
            remove(path);
        }
        made
    }

    fn take_up(path: &Path, layout: &Layout) -> Result<(Files, Journal), Error> {
        let journal = path.join(JOURNAL);
        let files = Files::open(path, layout)?;
        Ok((files, Journal::open(&journal).map_err(|error| in_file(&journal, error))?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name under which the output's bytes gather until it is complete.
    pub fn partial_name(&self) -> OsString {
        let mut name = self.tag.clone();
        name.push(".part");
        name
    }

    /// The captions that were kept, if they can be read.
    pub fn captions(&self) -> Option<String> {
        fs::read_to_string(self.path.join(CAPTIONS)).ok()
    }

    /// Keeps the captions, all of them or none.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep_captions(&self, text: &str) -> Result<(), Error> {
        write_whole(&self.path, CAPTIONS, CAPTIONS_PART, text)
    }

    /// Removes the folder: the output is complete.
    pub fn remove(self) {
        let Self { path, lock, files, journal, .. } = self;
        drop((files, journal));
        remove(&path);
        drop(lock);
    }
}

impl Files {
    fn create(folder: &Path, layout: &Layout) -> Result<Self, Error> {
        let (rows, row_bytes) = layout.rows;
        let path = folder.join(ROWS);
        let create_rows = || {
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
            // Where a file system cannot reserve, a full disk shows later, and nothing is lost by it.
            if file.allocate((rows * row_bytes) as u64).is_err() {
                file.set_len((rows * row_bytes) as u64)?;
            }
            Ok(file)
        };
        let file = create_rows().map_err(|error| in_file(&path, error))?;
        Self::with(
            layout,
            Rows { file, row_bytes: row_bytes as u64 },
            |name, height, width, channels| {
                Latent::create(&folder.join(name), height, width, channels)
            },
        )
    }

    fn open(folder: &Path, layout: &Layout) -> Result<Self, Error> {
        let path = folder.join(ROWS);
        let file = File::options().read(true).write(true).open(&path);
        let file = file.map_err(|error| in_file(&path, error))?;
        let rows = Rows { file, row_bytes: layout.rows.1 as u64 };
        Self::with(layout, rows, |name, height, width, channels| {
            Latent::open(&folder.join(name), height, width, channels)
        })
    }

    fn with(
        layout: &Layout,
        rows: Rows,
        latent: impl Fn(&str, usize, usize, usize) -> Result<Latent, crate::canvas::CanvasError>,
    ) -> Result<Self, Error> {
        let (height, width, channels) = layout.canvas;
        let (count, side) = layout.regions;
        Ok(Self {
            zl: latent(ZL, height, width, channels)?,
            z: [latent(Z[0], height, width, channels)?, latent(Z[1], height, width, channels)?],
            history: (layout.history > 0)
                .then(|| latent(HISTORY, layout.history * height, width, channels))
                .transpose()?
                .map(|canvases| History::new(canvases, height)),
            predictions: latent(PREDICTIONS, count * side, side, channels)?,
            low_resolution: (layout.low_resolution)
                .map(|(height, width)| latent(LOW_RESOLUTION, height, width, channels))
                .transpose()?,
            rows,
        })
    }
}

impl Rows {
    /// Writes whole rows from row `first` on, and returns when they are on the disk.
    pub fn write(&mut self, first: usize, samples: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(first as u64 * self.row_bytes))?;
        self.file.write_all(samples)?;
        self.file.sync_data()
    }

    /// Reads these rows.
    pub fn read(&mut self, rows: Range<usize>) -> io::Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(rows.start as u64 * self.row_bytes))?;
        let mut samples = vec![0; rows.len() * self.row_bytes as usize];
        self.file.read_exact(&mut samples)?;
        Ok(samples)
    }
}

impl SafeJournal {
    /// How far the job has come.
    pub fn done(&self) -> Done {
        self.journal.done()
    }

    /// Adds a record, and returns when it is on the disk.
    ///
    /// # Errors
    /// What the system says.
    pub fn append(&mut self, record: Record) -> Result<(), Error> {
        self.journal.append(record).map_err(|error| in_file(&self.path, error))
    }

    /// An error of a file that the journal is about to speak of.
    pub fn failed(&self, error: io::Error) -> Error {
        in_file(self.path.parent().unwrap_or(&self.path), error)
    }
}

fn in_file(path: &Path, source: io::Error) -> Error {
    Error::Work { path: path.to_owned(), source }
}

/// The work folder of a job, and what the names of its other files are made from.
fn place(work: &Work, output: &Output, job: &Value) -> Result<(PathBuf, OsString), Error> {
    let file = match output {
        // A device or a named pipe has nothing beside it.
        Output::Path(path) if fs::metadata(path).map_or(true, |found| found.is_file()) => {
            // Through a symbolic link the file it points to is written, and beside that there is room.
            let path = fs::canonicalize(path).or_else(|_| std::path::absolute(path));
            Some(path.map_err(|error| in_file(Path::new(&output.name()), error))?)
        }
        _ => None,
    };
    let key = digest(match &file {
        Some(file) => file.as_os_str().as_encoded_bytes().to_vec(),
        None => job.to_string().into_bytes(),
    });
    let key = &key[..16];
    let tag = match (&file, &work.folder) {
        (Some(file), None) => dotted(file, ""),
        (Some(file), Some(_)) => dotted(file, &format!(".{key}")),
        (None, _) => format!("{key}.cupscale").into(),
    };
    let folder = match (&work.folder, &file) {
        (Some(folder), _) => folder.clone(),
        (None, Some(file)) => file.parent().unwrap_or(Path::new(".")).to_owned(),
        (None, None) => {
            let folder = cache_folder();
            prune(&folder);
            folder
        }
    };
    Ok((folder.join(&tag), tag))
}

/// Where the work of streams lies: in the platform's place for caches, or, where that cannot be written,
/// with temporary files.
fn cache_folder() -> PathBuf {
    let in_cache = etcetera::base_strategy::choose_native_strategy()
        .map(|strategy| strategy.cache_dir().join("cupscale").join("work"));
    in_cache
        .ok()
        .filter(|folder| {
            fs::create_dir_all(folder).is_ok() && tempfile::tempfile_in(folder).is_ok()
        })
        .unwrap_or_else(|| std::env::temp_dir().join("cupscale-work"))
}

/// `.NAME.cupscale`, or a name that is short enough for every file system.
fn dotted(file: &Path, key: &str) -> OsString {
    let name = file.file_name().unwrap_or_default();
    let mut tag = OsString::from(".");
    tag.push(name);
    tag.push(key);
    tag.push(".cupscale");
    // ".part" is to follow.
    if tag.len() <= 250 {
        return tag;
    }
    format!(".{}.cupscale", &digest(name.as_encoded_bytes().to_vec())[..16]).into()
}

/// Makes the folder and takes its lock.
fn lock(folder: &Path) -> Result<File, Error> {
    // The process that had it may remove it between our opening the lock and our taking it.
    loop {
        fs::create_dir_all(folder).map_err(|error| in_file(folder, error))?;
        let path = folder.join(LOCK);
        let file = match File::options().create(true).truncate(false).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(in_file(&path, error)),
        };
        match file.try_lock() {
            Ok(()) if path.exists() => return Ok(file),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Busy { folder: folder.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(in_file(&path, error)),
        }
    }
}

/// Writes a small file, under the name `part` until it is whole.
fn write_whole(folder: &Path, name: &str, part: &str, text: &str) -> Result<(), Error> {
    let (path, temporary) = (folder.join(name), folder.join(part));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        // The names of all files, too, must outlive a power cut. Not every system opens folders.
        File::open(folder).and_then(|folder| folder.sync_all()).or(Ok(()))
    };
    write().map_err(|error| in_file(&path, error))
}

/// Removes what an earlier job left; the lock stays.
fn clear(folder: &Path) {
    // The description goes first: without it, nothing else counts.
    for name in FILES.iter().filter(|name| **name != LOCK) {
        let _ = fs::remove_file(folder.join(name));
    }
}

/// Removes a work folder that is ours. What does not go stays, and is overwritten by the next job.
fn remove(folder: &Path) {
    clear(folder);
    let _ = fs::remove_file(folder.join(LOCK));
    let _ = fs::remove_dir(folder);
}

/// Removes unfinished work of streams that nobody has come back to.
fn prune(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let folder = entry.path();
        let touched = fs::metadata(folder.join(JOURNAL)).and_then(|found| found.modified());
        let age = touched.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        if age.is_ok_and(|age| age > KEEP_STREAMS) && lock(&folder).is_ok() {
            remove(&folder);
        }
    }
}

fn digest(bytes: Vec<u8>) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What of a job is not what it was, in the user's words; none if it is the same.
fn difference(old: &Value, new: &Value) -> Option<String> {
    if old == new {
        return None;
    }
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
        return Some("its description cannot be read".to_owned());
    };
    let changed: Vec<_> = (new.keys().chain(old.keys()))
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| {
            let shown = |job: &serde_json::Map<String, Value>| {
                job.get(key).map_or_else(|| "none".to_owned(), Value::to_string)
            };
            (key.replace('_', " "), shown(old), shown(new))
        })
        .collect();
    // A digest says nothing to anybody: rather name what can be read.
    let readable = |(_, old, new): &&(String, String, String)| old.len().max(new.len()) <= 40;
    match changed.iter().find(readable) {
        Some((what, old, new)) => Some(format!("{what}: {old} there, {new} now")),
        None => Some(format!("{} differs", changed.first()?.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        canvas: (8, 12, 4),
        history: 2,
        regions: (6, 8),
        low_resolution: Some((4, 6)),
        rows: (32, 144),
    };

    fn open(output: &Path, work: &Work, job: &Value) -> Result<WorkFolder, Error> {
        WorkFolder::open(work, &Output::Path(output.to_owned()), job, &LAYOUT)
    }

    fn job(seed: u64) -> Value {
        serde_json::json!({ "seed": seed, "input": "0".repeat(64) })
    }

    #[test]
    fn work_that_is_left_is_taken_up_and_work_that_is_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a.png");
        let mut work = open(&output, &Work::default(), &job(1)).unwrap();
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

        let mut work = open(&output, &Work::default(), &job(1)).unwrap();
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
        let mut work = open(&output, &Work::default(), &job(1)).unwrap();
        work.journal.append(Record::Stepped { steps: 2 }).unwrap();
        drop(work);
        let error = open(&output, &Work::default(), &job(2)).unwrap_err().to_string();
        assert!(error.contains("seed: 1 there, 2 now") && error.contains("--fresh"), "{error}");
        let other = serde_json::json!({ "seed": 1, "input": "1".repeat(64) });
        let error = open(&output, &Work::default(), &other).unwrap_err().to_string();
        assert!(error.contains("input differs"), "{error}");
        let fresh = Work { resume: Resume::Never, ..Work::default() };
        assert_eq!(open(&output, &fresh, &job(2)).unwrap().journal.done(), Done::default());
        assert_eq!(open(&output, &Work::default(), &job(2)).unwrap().journal.done().steps, 0);
    }

    #[test]
    fn a_second_process_is_kept_out_and_nothing_to_resume_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a.png");
        let required = Work { resume: Resume::Required, ..Work::default() };
        let error = open(&output, &required, &job(1)).unwrap_err();
        assert!(matches!(error, Error::NothingToResume { .. }), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let held = open(&output, &Work::default(), &job(1)).unwrap();
        assert!(matches!(open(&output, &Work::default(), &job(1)), Err(Error::Busy { .. })));
        drop(held);
        assert!(open(&output, &required, &job(1)).is_ok());
    }

    #[test]
    fn a_folder_of_its_own_keeps_outputs_of_one_name_apart_and_strangers_files() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("work");
        let work = Work { folder: Some(elsewhere.clone()), ..Work::default() };
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
        drop(open(&output, &Work::default(), &job(1)).unwrap());
        let path = folder.path().join(".a.png.cupscale");
        fs::remove_file(path.join(JOB)).unwrap();
        fs::write(path.join(JOURNAL), "no journal").unwrap();
        fs::remove_file(path.join(ZL)).unwrap();
        let work = open(&output, &Work::default(), &job(2)).unwrap();
        assert_eq!(work.journal.done(), Done::default());
    }

    #[test]
    fn long_names_and_missing_room_are_dealt_with() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join(format!("{}.png", "n".repeat(251)));
        let work = open(&output, &Work::default(), &job(1)).unwrap();
        assert!(work.partial_name().len() < 64);
        drop(work);
        let huge = Layout { rows: (1 << 30, 1 << 30), ..LAYOUT };
        let output = Output::Path(folder.path().join("b.png"));
        let error = WorkFolder::open(&Work::default(), &output, &job(1), &huge).unwrap_err();
        assert!(matches!(error, Error::NoRoom { .. }), "{error}");
        assert!(!folder.path().join(".b.png.cupscale").exists());
    }
}
