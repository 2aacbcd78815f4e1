//! Hostile inputs through the real program: damaged, lying and absurd files of every kind that it reads. Each must end
//! soon, with the right exit code, in one clean line, with little memory, and leave nothing behind.
//!
//! A case is a line in a table of its module; [`Case`] says what counts as right. The table is for what a file may do to
//! the program; whether valid files give the right picture is for the other tests.

#[path = "../common/folder.rs"]
mod folder;
mod inputs;
mod jpeg;
mod models;
mod other;
mod png;
mod tiff;
mod webp;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use folder::copy_folder;

/// The most that a case may have resident, in KiB. The program with its threads and a small model takes a fifth of it.
const MOST_KIB: u64 = 300 << 10;
/// The longest that a case may take, on a machine that is busy with other tests; alone each takes less than a second.
const LONGEST: Duration = Duration::from_secs(20);
/// The most bytes of a line on standard error.
const LONGEST_LINE: usize = 1100;

/// The right end of a case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Exit code 1 or 2, and one line on standard error.
    Refused,
    /// Exit code 0 and an output: the damage is not where the pixels are.
    Done,
    /// Either of both: what matters are memory and time.
    Bounded,
}

/// A command with its files.
struct Case {
    name: String,
    /// Files that the folder holds besides the model: name and contents.
    files: Vec<(String, Vec<u8>)>,
    /// Files of the model that are replaced, or taken away (`None`).
    model: Vec<(&'static str, Option<Vec<u8>>)>,
    /// Options of the command; `MODEL` is replaced by the folder of a small model.
    arguments: String,
    end: End,
    /// Words that the line on standard error must hold.
    says: &'static str,
    /// A note on what is odd but usable may stand before the line that refuses.
    notes: bool,
}

impl Case {
    /// A picture that is enlarged by the small model.
    fn picture(name: impl Into<String>, extension: &str, bytes: Vec<u8>, end: End) -> Self {
        let file = format!("in.{extension}");
        let arguments = format!("{file} -o out.png --scale 2 --denoise-steps 1 --model MODEL");
        Self::command(name, vec![(file, bytes)], arguments, end)
    }

    fn command(
        name: impl Into<String>,
        files: Vec<(String, Vec<u8>)>,
        arguments: impl Into<String>,
        end: End,
    ) -> Self {
        let (name, arguments) = (name.into(), arguments.into());
        Self { name, files, model: Vec::new(), arguments, end, says: "", notes: false }
    }

    fn says(mut self, words: &'static str) -> Self {
        self.says = words;
        self
    }

    fn after_notes(mut self) -> Self {
        self.notes = true;
        self
    }

    /// Runs the case in a folder of its own; `Err` says what is not right.
    fn run(&self) -> Result<(), String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (at, temporary) = (folder.path().join("work"), folder.path().join("tmp"));
        for made in [&at, &temporary] {
            fs::create_dir(made).map_err(|e| e.to_string())?;
        }
        for (name, bytes) in &self.files {
            fs::write(at.join(name), bytes).map_err(|e| format!("{name}: {e}"))?;
        }
        let mut model = small_model();
        if !self.model.is_empty() {
            let copy = folder.path().join("model");
            copy_folder(&model, &copy);
            for (name, bytes) in &self.model {
                match bytes {
                    Some(bytes) => fs::write(copy.join(name), bytes),
                    None => fs::remove_file(copy.join(name)),
                }
                .map_err(|e| format!("{name}: {e}"))?;
            }
            model = copy;
        }
        let before = names(&at);
        let ran = self.spawn(&at, &temporary, &model)?;
        let mut left = names(&at);
        left.retain(|name| !before.contains(name));
        ran.check(self, &left)?;
        // The user's private folder may stay; nothing may be in it.
        for name in names(&temporary) {
            let inside = names(&temporary.join(&name));
            if !inside.is_empty() || temporary.join(&name).is_file() {
                return Err(format!("left {name} {inside:?} in the folder for temporary files"));
            }
        }
        Ok(())
    }

    fn spawn(&self, at: &Path, temporary: &Path, model: &Path) -> Result<Ran, String> {
        let program = assert_cmd::cargo::cargo_bin!("cupscale-fast");
        let model = model.to_str().ok_or("a path that is no text")?;
        let arguments = self.arguments.split(' ').map(|word| match word {
            "MODEL" => model.to_owned(),
            word => word.to_owned(),
        });
        // Messages go into a file, so that no pipe can fill up.
        let messages = temporary.with_extension("messages");
        let file = fs::File::create(&messages).map_err(|e| e.to_string())?;
        let started = Instant::now();
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(at)
            .env("TMPDIR", temporary)
            .env("HOME", temporary.with_extension("home"))
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_DATA_HOME")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut peak = 0;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                break status;
            }
            peak = peak.max(resident_kib(child.id()));
            if peak > 4 * MOST_KIB || started.elapsed() > LONGEST {
                child.kill().and_then(|()| child.wait()).map_err(|e| e.to_string())?;
                return Err(format!(
                    "stopped after {:?} with {} MiB",
                    started.elapsed(),
                    peak >> 10
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let messages = fs::read(&messages).map_err(|e| e.to_string())?;
        Ok(Ran {
            code: status.code(),
            peak,
            messages: String::from_utf8(messages).map_err(|e| e.to_string())?,
        })
    }
}

/// What a command did.
struct Ran {
    /// `None`: a signal ended it.
    code: Option<i32>,
    peak: u64,
    messages: String,
}

impl Ran {
    fn check(&self, case: &Case, left: &[String]) -> Result<(), String> {
        let messages = self.messages.trim_end();
        let refused = matches!(self.code, Some(1 | 2));
        let done = self.code == Some(0);
        let right = match case.end {
            End::Refused => refused,
            End::Done => done,
            End::Bounded => refused || done,
        };
        if !right {
            return Err(format!("exit code {:?}: {messages}", self.code));
        }
        if refused && messages.lines().count() != 1 && !case.notes {
            return Err(format!("not one line: {messages}"));
        }
        if !messages.contains(case.says) {
            return Err(format!("does not say `{}`: {messages}", case.says));
        }
        if messages.lines().any(|line| line.len() > LONGEST_LINE) {
            return Err(format!("a line of {} bytes", messages.len()));
        }
        if messages.chars().any(|c| c.is_control() && c != '\n') || messages.contains("panicked") {
            return Err(format!("not clean: {messages:?}"));
        }
        if self.peak > MOST_KIB {
            return Err(format!("{} MiB resident: {messages}", self.peak >> 10));
        }
        let expected: &[String] = if done && left.len() == 1 { left } else { &[] };
        if left != expected {
            return Err(format!("left {left:?} behind"));
        }
        Ok(())
    }
}

/// The peak of the program's resident set so far; 0 where the system does not tell. Before the program takes its place,
/// the process is a part of this one.
fn resident_kib(process: u32) -> u64 {
    let program = fs::read_link(format!("/proc/{process}/exe")).unwrap_or_default();
    if !program.ends_with("cupscale-fast") {
        return 0;
    }
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn small_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/img2img/model")
}

/// A file of the small model.
fn model_file(name: &str) -> Vec<u8> {
    fs::read(small_model().join(name)).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Runs the cases, two at a time, and reports everything that is not right at once.
#[track_caller]
fn all_right(cases: Vec<Case>, at_least: usize) {
    assert!(cases.len() >= at_least, "{} cases", cases.len());
    let next = AtomicUsize::new(0);
    let wrong = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = case.run() {
                        wrong.lock().unwrap().push(format!("{}: {why}", case.name));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
