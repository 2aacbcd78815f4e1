//! Jobs on the disk: a folder for each, so that a server that is started again knows them and goes on with their work.
//!
//! ```text
//! lock                  held by the one server that works in this folder
//! new-…/                a job that is being sent; one that was left by a killed server is removed
//! ID/job.json           what is known of a job, written whole or not at all
//! ID/input, ID/mask     as they were sent
//! ID/given.json         captions as they were sent
//! ID/captions.json      captions as the job uses them, once they are known
//! ID/work               folder of unfinished work
//! ID/result.EXT         the result, complete or not there
//! gone-…/               a job that is being removed
//! ```

use std::{
    ffi::OsStr,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cupscale::{
    image::Format,
    pipe::request::OutputForm,
    temporary::{is_own_folder, make_private, private_folder},
    units,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tempfile::{NamedTempFile, TempDir};

use super::{
    error::Refusal,
    view::{Kind, State},
};
use crate::cli::error::CliError;

const VERSION: u32 = 1;
const JOB: &str = "job.json";
const LOCK: &str = "lock";
const WORK: &str = "work";
const NEW: &str = "new-";
const GONE: &str = "gone-";
/// Names of files that come with a job.
pub const INPUT: &str = "input";
pub const MASK: &str = "mask";
pub const GIVEN: &str = "given.json";
const CAPTIONS: &str = "captions.json";
/// Attempts to remove a folder in which a file is being made, and the pause between them.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a `job.json` that are read at most.
const LARGEST: u64 = 16 << 20;

/// What is kept of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    version: u32,
    pub id: String,
    #[serde(flatten)]
    pub job: Accepted,
    pub state: State,
    pub bytes: Option<u64>,
    pub seconds: Option<f64>,
    pub error: Option<Refusal>,
    pub created: f64,
    pub started: Option<f64>,
    pub ended: Option<f64>,
}

/// What a job is when it is accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accepted {
    pub kind: Kind,
    pub name: String,
    /// Kept after a restart.
    pub is_kept: bool,
    pub settings: Map<String, Value>,
    pub output: OutputForm,
    pub model: String,
    /// Longest time in seconds that it may run, as its sender wishes.
    pub most_seconds: Option<f64>,
    pub has_mask: bool,
    pub has_given: bool,
    pub source: (u32, u32),
    pub size: (u32, u32),
    /// Media type of the input.
    pub input_type: String,
    pub format: String,
    /// Name of the result for whoever fetches it.
    pub result_name: String,
    /// What its sender is told; more comes while it runs.
    pub notes: Vec<String>,
}

impl Saved {
    /// A job that waits.
    pub fn new(id: String, job: Accepted) -> Self {
        Self {
            version: VERSION,
            id,
            job,
            state: State::Waiting,
            bytes: None,
            seconds: None,
            error: None,
            created: now(),
            started: None,
            ended: None,
        }
    }

    /// Name of the result in the job's folder.
    pub fn result_file(&self) -> String {
        let format = self.job.format.parse::<Format>().ok();
        format!("result.{}", format.map_or("json", Format::extension))
    }
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The folder of the jobs, locked.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    _lock: File,
    /// Removed at the end.
    _temporary: Option<TempDir>,
}

impl Store {
    /// The jobs in this folder, or in one that is removed at the end.
    ///
    /// # Errors
    /// A folder that cannot be made, that is another user's, or in which another server works.
    pub fn open(folder: Option<PathBuf>) -> Result<Self, CliError> {
        let (root, temporary) = match folder {
            Some(folder) => (folder, None),
            None => {
                let parent =
                    private_folder().map_err(|error| CliError::Server(error.to_string()))?;
                let made = tempfile::Builder::new().prefix("serve-").tempdir_in(&parent);
                let made = made.map_err(|error| refused(&parent, &error.to_string()))?;
                (made.path().to_owned(), Some(made))
            }
        };
        let root = std::path::absolute(&root).unwrap_or(root);
        let failed = |error: io::Error| refused(&root, &error.to_string());
        if let Some(parent) = root.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        make_private(&root).map_err(failed)?;
        if !is_own_folder(&root) {
            return Err(refused(
                &root,
                "not a folder of this user's: name another one with --jobs-dir",
            ));
        }
        let lock = File::options().create(true).truncate(false).write(true).open(root.join(LOCK));
        let lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason =
                    "another server works in this folder: name another one with --jobs-dir";
                return Err(refused(&root, reason));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // As it is after links are followed, as messages of the library name it.
        let root = root.canonicalize().unwrap_or(root);
        Ok(Self { root, _lock: lock, _temporary: temporary })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder for a job that is about to be sent.
    ///
    /// # Errors
    /// The disk's.
    pub fn draft(&self) -> io::Result<DraftFolder> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let id = units::hex(&bytes);
        let path = self.root.join(format!("{NEW}{id}"));
        make_private(&path)?;
        Ok(DraftFolder { path, id })
    }

    /// The folder of a job, which is [complete](DraftFolder::complete), gets its name.
    ///
    /// # Errors
    /// The disk's.
    pub fn adopt(&self, draft: &DraftFolder) -> io::Result<()> {
        fs::rename(&draft.path, self.folder(&draft.id))
    }

    /// The folder of a job.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// A file of a job.
    pub fn file(&self, id: &str, name: &str) -> PathBuf {
        self.folder(id).join(name)
    }

    /// Folder of a job's unfinished work.
    pub fn work(&self, id: &str) -> PathBuf {
        self.file(id, WORK)
    }

    /// Keeps what is known of a job.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&self, saved: &Saved) -> io::Result<()> {
        write_whole(&self.folder(&saved.id), JOB, &serde_json::to_vec(saved)?)
    }

    /// Keeps the captions of a job.
    ///
    /// # Errors
    /// The disk's.
    pub fn save_captions(&self, id: &str, document: &str) -> io::Result<()> {
        write_whole(&self.folder(id), CAPTIONS, document.as_bytes())
    }

    /// Where the captions of a job are, once they are known.
    pub fn captions(&self, id: &str) -> PathBuf {
        self.file(id, CAPTIONS)
    }

    /// Removes what is of no use to a job that has ended without a result: its unfinished work and, unless `keeps_input`,
    /// what was sent.
    pub fn clear(&self, saved: &Saved, keeps_input: bool) {
        let folder = self.folder(&saved.id);
        let _ = fs::remove_dir_all(folder.join(WORK));
        let _ = fs::remove_file(folder.join(MASK));
        let _ = fs::remove_file(folder.join(GIVEN));
        if !keeps_input {
            let _ = fs::remove_file(folder.join(INPUT));
            let _ = fs::remove_file(folder.join(CAPTIONS));
        }
        if saved.state != State::Done {
            let _ = fs::remove_file(folder.join(saved.result_file()));
        }
    }

    /// Removes a job. What cannot be removed now is removed by the next start.
    pub fn remove(&self, id: &str) {
        let gone = self.root.join(format!("{GONE}{id}"));
        let from = self.folder(id);
        let folder = if fs::rename(&from, &gone).is_ok() { gone } else { from };
        let _ = fs::remove_dir_all(folder);
    }

    /// The jobs that are there, the oldest first, and what is to be said of others. What a killed server left behind is
    /// removed, and so are jobs that were not to be kept.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn load(&self) -> Result<(Vec<Saved>, Vec<String>), CliError> {
        let entries = fs::read_dir(&self.root);
        let entries = entries.map_err(|error| refused(&self.root, &error.to_string()))?;
        let (mut jobs, mut notes) = (Vec::new(), Vec::new());
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if name == LOCK {
                continue;
            }
            let left = name.strip_prefix(NEW).or_else(|| name.strip_prefix(GONE));
            if left.is_some_and(is_id) {
                let _ = fs::remove_dir_all(&path);
                continue;
            }
            match self.read(name) {
                Ok(saved) if !saved.job.is_kept => self.remove(name),
                Ok(saved) => jobs.push(saved),
                Err(reason) => {
                    notes.push(format!(
                        "{}: no job that can be used ({reason}); it stays there",
                        path.display()
                    ));
                }
            }
        }
        jobs.sort_by(|one, other| one.created.total_cmp(&other.created));
        Ok((jobs, notes))
    }

    fn read(&self, name: &str) -> Result<Saved, String> {
        if !is_id(name) {
            return Err("a name that no job has".to_owned());
        }
        let path = self.file(name, JOB);
        let said = |error: io::Error| format!("{JOB}: {error}");
        if fs::metadata(&path).map_err(said)?.len() > LARGEST {
            return Err(format!("{JOB}: too large"));
        }
        let text = fs::read(&path).map_err(said)?;
        let saved: Saved =
            serde_json::from_slice(&text).map_err(|error| format!("{JOB}: {error}"))?;
        if saved.version != VERSION || saved.id != name {
            return Err(format!("{JOB}: of another job or version"));
        }
        let wanted = match saved.state {
            State::Waiting | State::Running => Some(INPUT.to_owned()),
            State::Done => Some(saved.result_file()),
            State::Failed | State::Cancelled => None,
        };
        match wanted.filter(|file| !self.file(name, file).is_file()) {
            Some(missing) => Err(format!("{missing} is missing")),
            None => Ok(saved),
        }
    }
}

/// The folder of a job that is being sent.
#[derive(Debug)]
pub struct DraftFolder {
    path: PathBuf,
    pub id: String,
}

impl DraftFolder {
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps what is known of the job.
    ///
    /// # Errors
    /// The disk's.
    pub fn complete(&self, saved: &Saved) -> io::Result<()> {
        write_whole(&self.path, JOB, &serde_json::to_vec(saved)?)
    }

    /// Removes it, unless it has become a job's. A file that is being made meanwhile is waited for.
    pub fn remove(&self) {
        for _ in 0..ATTEMPTS {
            let removed = fs::remove_dir_all(&self.path);
            if removed.is_ok() || !self.path.exists() {
                return;
            }
            thread::sleep(PAUSE);
        }
    }
}

/// `true` for what may be the id of a job: only such names become parts of a path.
pub fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|sign| matches!(sign, b'0'..=b'9' | b'a'..=b'f'))
}

/// Writes a file whole or not at all.
fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_data()?;
    file.persist(folder.join(name)).map_err(|error| error.error)?;
    Ok(())
}

fn refused(folder: &Path, reason: &str) -> CliError {
    CliError::Server(format!("{}: {reason}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn accepted() -> Accepted {
        Accepted {
            kind: Kind::Upscale,
            name: "a.png".to_owned(),
            is_kept: true,
            settings: Map::new(),
            output: OutputForm::default(),
            model: "mini".to_owned(),
            most_seconds: None,
            has_mask: false,
            has_given: false,
            source: (2, 2),
            size: (8, 8),
            input_type: "image/png".to_owned(),
            format: "png".to_owned(),
            result_name: "a_4x.png".to_owned(),
            notes: Vec::new(),
        }
    }

    fn add(store: &Store, change: impl FnOnce(&mut Saved)) -> String {
        let draft = store.draft().unwrap();
        fs::write(draft.file(INPUT), "picture").unwrap();
        let mut saved = Saved::new(draft.id.clone(), accepted());
        change(&mut saved);
        draft.complete(&saved).unwrap();
        store.adopt(&draft).unwrap();
        saved.id
    }

    #[test]
    fn a_start_finds_the_jobs_removes_what_was_half_sent_and_leaves_what_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("jobs");
        let store = Store::open(Some(root.clone())).unwrap();
        let waiting = add(&store, |_| {});
        let passing = add(&store, |saved| saved.job.is_kept = false);
        let lost = add(&store, |saved| saved.state = State::Done);
        let half = store.draft().unwrap();
        let damaged = add(&store, |_| {});
        fs::write(store.file(&damaged, JOB), "{").unwrap();
        fs::create_dir(root.join("holiday")).unwrap();
        let (jobs, notes) = store.load().unwrap();
        assert_eq!(jobs.iter().map(|job| &job.id).collect::<Vec<_>>(), [&waiting]);
        assert_eq!(notes.len(), 3, "{notes:?}");
        for left in [&*lost, &*damaged, "holiday"] {
            assert!(root.join(left).is_dir() && notes.iter().any(|note| note.contains(left)));
        }
        assert!(!half.path().exists() && !store.folder(&passing).exists());
    }

    #[test]
    fn two_servers_do_not_work_in_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("jobs");
        let store = Store::open(Some(root.clone())).unwrap();
        let refused = Store::open(Some(root.clone())).unwrap_err().to_string();
        assert!(refused.contains("another server") && refused.lines().count() == 1, "{refused}");
        drop(store);
        Store::open(Some(root)).unwrap();
    }

    #[test]
    fn only_ids_become_parts_of_a_path() {
        assert!(is_id("0123456789abcdef0123456789abcdef"));
        for text in
            ["", "..", "0123456789ABCDEF0123456789abcdef", "0123456789abcdef0123456789abcde/"]
        {
            assert!(!is_id(text), "{text}");
        }
    }
}
