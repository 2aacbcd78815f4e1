//! Leases: a process has something to itself also where locks of files are not seen by other hosts, or do not work at all.
//!
//! A lease is a small file that its holder writes anew every few seconds, with one number more. Nobody compares clocks:
//! whoever wants the lease watches that number, and takes the holder for dead when it has stood still for a time in which the
//! holder would have written six times. On one kernel a lock of a file beside it tells at once that the holder is gone.
//!
//! What it takes of a file system: that of several processes that make a file of one name one succeeds (`O_EXCL`), that
//! renaming replaces, and that a file that is opened shows what was written before another host closed it. NFS gives all
//! three, since version 3. A host that stands still for longer than the time above, and then goes on, has lost its lease,
//! and finds that out when it asks: [`Lease::is_held`]. Between the question and what it does next it may stand still again;
//! no lease can exclude that.
//!
//! Files, for the lease `NAME`:
//!
//! - `NAME`: the line of the holder. It is written within the file that the holder has open, so that a holder who comes back
//!   never writes over the line of the next one, which is in a file of its own that was renamed to `NAME`.
//! - `NAME-WORD`: the claim of the one who takes over from the holder whose line has this word, which no other line has: one
//!   claim for each holder can ever be made, whoever saw the holder stand still, and whenever. A claimant that dies before it
//!   has renamed its claim is a holder like any other, and has a claim of its own made on it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Seek as _, Write as _},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    host::{host_name, kernel, unique},
    temporary::not_through_links,
    units,
};

/// Time between two lines of a holder.
const BEAT: Duration = Duration::from_secs(5);
/// Time for which a holder's line is watched standing still before he counts as dead.
const DEAD: Duration = Duration::from_secs(30);
/// The most time between two looks that counts as watched: a file server that was away, or a watcher that stood still, has
/// not seen whether the holder wrote.
const GAP: Duration = BEAT;
/// Attempts before somebody else is taken to be quicker each time.
const MOST_ATTEMPTS: usize = 32;
/// The most claims upon each other that are followed.
const LONGEST_CHAIN: usize = 64;

/// What a holder writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct HolderLine {
    /// No other line has it.
    word: String,
    /// Where a lock of a file says whether the holder lives: the kernel, the device that the file is on, which another mount
    /// of the same files does not share, and the file. None where the holder has no such lock.
    lock: Option<String>,
    host: String,
    pid: u32,
    /// Number of the line, in as many digits each time: every line is as long.
    beat: String,
}

impl HolderLine {
    fn new(lock: Option<String>) -> Self {
        Self { word: unique(), lock, host: host_name(), pid: process::id(), beat: digits(0) }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("a line is plain data");
        line.push(b'\n');
        line
    }
}

fn digits(beat: u64) -> String {
    format!("{beat:012}")
}

/// A lease that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lease(Arc<Held>);

/// The holder of a lease asks through it whether it is still his.
#[derive(Clone, Debug)]
pub(crate) struct LeaseWatch(Weak<Held>);

#[derive(Debug)]
struct Held {
    path: PathBuf,
    word: String,
    /// The file of the line, and the line.
    line: Mutex<(File, HolderLine, u64)>,
    is_lost: AtomicBool,
}

/// Who holds a lease that another one wants, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder(pub String);

impl Lease {
    /// Takes the lease at `path`, whose folder is there. `locked` is a file beside it whose lock this process has, and every
    /// process has that holds the lease where locks work; `None` where they do not.
    ///
    /// # Errors
    /// The operating system's; within, the holder of the lease.
    pub(crate) fn take(path: &Path, locked: Option<&File>) -> io::Result<Result<Self, Holder>> {
        let line = HolderLine::new(locked.map(domain).transpose()?);
        let taken = take(path, line, &WATCHED)?;
        Ok(taken.map(|held| {
            let held = Arc::new(held);
            keep(&held);
            Self(held)
        }))
    }

    /// `true` while nobody else has taken it over.
    ///
    /// # Errors
    /// A file system that does not answer.
    pub(crate) fn is_held(&self) -> io::Result<bool> {
        self.0.is_held()
    }

    /// For whoever must not go on without it.
    pub(crate) fn watch(&self) -> LeaseWatch {
        LeaseWatch(Arc::downgrade(&self.0))
    }
}

impl LeaseWatch {
    /// As [`Lease::is_held`]; `false` once it is dropped.
    ///
    /// # Errors
    /// A file system that does not answer.
    pub(crate) fn is_held(&self) -> io::Result<bool> {
        self.0.upgrade().map_or(Ok(false), |held| held.is_held())
    }
}

/// Who holds the lease at `path`, if anybody seems to: looked at without taking it. `is_locked` tells whether the lock beside
/// it is held, which is asked of a holder on this kernel.
pub(crate) fn holder(path: &Path, lock: Option<&File>, is_locked: bool) -> Option<Holder> {
    let (at, line) = last(path).ok()??;
    let known = parse(&line);
    let is_here = lock.and_then(|file| domain(file).ok()).is_some_and(|here| {
        known.as_ref().and_then(|known| known.lock.as_ref()).is_some_and(|lock| *lock == here)
    });
    let lives = if is_here { is_locked } else { !WATCHED.stands_still(&at, &line, DEAD) };
    lives.then(|| words(known.as_ref()))
}

/// Files of the lease at `path`, for whoever removes the folder that they are in.
pub(crate) fn claims(path: &Path) -> Vec<PathBuf> {
    let prefix = path.file_name().map(|name| [name.as_encoded_bytes(), b"-"].concat());
    let entries = path.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
    let is_claim = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        prefix.as_ref().is_some_and(|prefix| name.as_encoded_bytes().starts_with(prefix))
    };
    entries.filter(is_claim).map(|entry| entry.path()).collect()
}

/// `true` for errors of file systems that have no locks: Lustre without `flock`, NFS without a lock manager, some in user
/// space.
pub(crate) fn has_no_locks(error: &io::Error) -> bool {
    #[cfg(unix)]
    if let Some(number) = error.raw_os_error() {
        return [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP, libc::ENOTSUP].contains(&number);
    }
    error.kind() == io::ErrorKind::Unsupported
}

/// Where the lock of this file is seen: on this kernel, through this mount, and of this very file. A holder that is about to end
/// has removed its file: the lock of the next one of that name says nothing of it.
fn domain(file: &File) -> io::Result<String> {
    let found = file.metadata()?;
    #[cfg(unix)]
    let (device, number) = {
        use std::os::unix::fs::MetadataExt as _;
        (found.dev(), found.ino())
    };
    #[cfg(not(unix))]
    let (device, number) = (0, u64::from(!found.is_file()));
    Ok(format!("{}:{device:x}:{number:x}", kernel()))
}

/// Takes the lease at `path` with this line, as one that nobody keeps alive yet.
fn take(path: &Path, line: HolderLine, watched: &Watched) -> io::Result<Result<Held, Holder>> {
    let bytes = line.bytes();
    let held = |file: File| Held {
        path: path.to_owned(),
        word: line.word.clone(),
        line: Mutex::new((file, line.clone(), 0)),
        is_lost: AtomicBool::new(false),
    };
    let mut holder = Holder("another process".to_owned());
    for _ in 0..MOST_ATTEMPTS {
        if let Some(file) = create(path, &bytes)? {
            let held = held(file);
            // While the file was empty somebody may have taken it for one that a kill left.
            if held.is_held()? {
                return Ok(Ok(held));
            }
            continue;
        }
        let Some((at, found)) = last(path)? else { continue };
        let known = parse(&found);
        let their_lock = known.as_ref().and_then(|known| known.lock.as_ref());
        // Its lock is ours.
        let is_gone = their_lock.is_some() && their_lock == line.lock.as_ref();
        holder = words(known.as_ref());
        if !is_gone && !watched.stands_still(&at, &found, DEAD) {
            return Ok(Err(holder));
        }
        let claim = claim_on(path, &found);
        let Some(file) = create(&claim, &bytes)? else { continue };
        let is_next = last(path)?.is_some_and(|(at, line)| at == claim && line == bytes);
        if !is_next {
            // The holder had ended meanwhile, and the lease is another's.
            remove(&claim)?;
            continue;
        }
        fs::rename(&claim, path)?;
        if at != path {
            remove(&at)?;
        }
        watched.forget(&at);
        let held = held(file);
        if held.is_held()? {
            return Ok(Ok(held));
        }
    }
    Ok(Err(holder))
}

/// A new file with this line; `None` if there is one of that name.
fn create(path: &Path, line: &[u8]) -> io::Result<Option<File>> {
    let mut file = match not_through_links().create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        file => file?,
    };
    file.write_all(line)?;
    show(&file)?;
    Ok(Some(file))
}

/// Lets other hosts see what was written: network file systems send it when a descriptor is closed, and this one is a copy.
/// It costs nothing on a disk, which need not have it yet.
fn show(file: &File) -> io::Result<()> {
    file.try_clone().map(drop)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The last of the lines of the lease at `path`, and where it is: that of the holder, or of whoever takes over from him.
fn last(path: &Path) -> io::Result<Option<(PathBuf, Vec<u8>)>> {
    let (mut at, mut found) = (path.to_owned(), None);
    for _ in 0..LONGEST_CHAIN {
        match fs::read(&at) {
            Ok(line) => {
                let next = claim_on(path, &line);
                found = Some((at, line));
                at = next;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn parse(line: &[u8]) -> Option<HolderLine> {
    serde_json::from_slice(line).ok()
}

/// Name of the claim on the lease whose line this is. A line that is not whole, as a kill may leave it, has a word as well.
fn claim_on(path: &Path, line: &[u8]) -> PathBuf {
    let word = parse(line)
        .map(|known| known.word)
        .filter(|word| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let word = word.unwrap_or_else(|| units::hex(&Sha256::digest(line)[..16]));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!("-{word}"));
    path.with_file_name(name)
}

fn words(holder: Option<&HolderLine>) -> Holder {
    Holder(match holder {
        Some(HolderLine { host, pid, .. }) => format!("process {pid} on {host}"),
        None => "another process".to_owned(),
    })
}

impl Held {
    fn is_held(&self) -> io::Result<bool> {
        if self.is_lost.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let is_own = match fs::read(&self.path) {
            Ok(line) => parse(&line).is_some_and(|line| line.word == self.word),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            // It was replaced on the server while it was opened here.
            Err(error) if is_stale(&error) => false,
            Err(error) => return Err(error),
        };
        if !is_own {
            self.is_lost.store(true, Ordering::SeqCst);
        }
        Ok(is_own)
    }

    /// Writes the next line. A file system that does not take it has the watchers of the lease wait as well.
    fn beat(&self) -> io::Result<()> {
        {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            let (file, known, beat) = &mut *line;
            *beat += 1;
            known.beat = digits(*beat);
            let bytes = known.bytes();
            file.rewind()?;
            file.write_all(&bytes)?;
            show(file)?;
        }
        self.is_held().map(drop)
    }
}

/// Of a file that is no more: only network file systems know such.
fn is_stale(error: &io::Error) -> bool {
    #[cfg(unix)]
    let is_stale = error.raw_os_error() == Some(libc::ESTALE);
    #[cfg(not(unix))]
    let is_stale = {
        let _ = error;
        false
    };
    is_stale
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.is_held().unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The leases of this process, which one thread keeps alive.
struct Keeper {
    held: Vec<Weak<Held>>,
    is_running: bool,
}

static KEEPER: Mutex<Keeper> = Mutex::new(Keeper { held: Vec::new(), is_running: false });

fn keeper() -> MutexGuard<'static, Keeper> {
    KEEPER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a lease kept alive until it is dropped. Most jobs are over before the thread first wakes.
fn keep(held: &Arc<Held>) {
    let mut keeper = keeper();
    keeper.held.push(Arc::downgrade(held));
    if !keeper.is_running {
        let thread = thread::Builder::new().name("leases".to_owned());
        // Without a thread the lease may be lost after a while, which its holder is told when he asks.
        keeper.is_running = thread.spawn(keep_all).is_ok();
    }
}

fn keep_all() {
    loop {
        thread::sleep(BEAT);
        let held: Vec<_> = {
            let mut keeper = keeper();
            keeper.held.retain(|held| held.strong_count() > 0);
            if keeper.held.is_empty() {
                keeper.is_running = false;
                return;
            }
            keeper.held.iter().filter_map(Weak::upgrade).collect()
        };
        for held in held {
            let _ = held.beat();
        }
    }
}

/// Lines that this process watches, by their files.
#[derive(Default)]
struct Watched(Mutex<HashMap<PathBuf, Watching>>);

struct Watching {
    line: Vec<u8>,
    looked: Instant,
    /// Time for which it has been seen standing still.
    still: Duration,
}

static WATCHED: LazyLock<Watched> = LazyLock::new(Watched::default);

impl Watched {
    /// Looks at a line that was just read: `true` once it has been watched standing still for so long.
    fn stands_still(&self, at: &Path, line: &[u8], long: Duration) -> bool {
        self.stands_still_at(Instant::now(), at, line) >= long
    }

    /// How long the line has been watched standing still, now that it is `now`.
    fn stands_still_at(&self, now: Instant, at: &Path, line: &[u8]) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(at) {
            Some(known) if known.line == line => {
                known.still += now.saturating_duration_since(known.looked).min(GAP);
                known.looked = now;
                known.still
            }
            _ => {
                let new = Watching { line: line.to_owned(), looked: now, still: Duration::ZERO };
                all.insert(at.to_owned(), new);
                Duration::ZERO
            }
        }
    }

    fn forget(&self, at: &Path) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(at);
    }
}

#[cfg(test)]
mod tests;
