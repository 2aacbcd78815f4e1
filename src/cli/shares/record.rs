//! The record of a share: what a process writes of its pictures while it does them, so that `status` sums up shares that run
//! on many hosts. A record that cannot be written costs no picture.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cupscale::pipeline::{Error, host_name};
use sha2::{Digest as _, Sha256};

use super::{
    line::{FOLDER, Line, Run, State, VERSION, name, parse_name},
    share::Share,
};
use crate::cli::progress::Reporter;

/// What a share is one of.
pub struct List<'a> {
    /// Pictures of the share.
    pub pictures: usize,
    /// Pictures of all shares.
    pub whole: usize,
    /// The options that decide what the outputs are, in whatever words.
    pub made_by: &'a str,
    /// Place of unfinished work, if it is not beside the outputs.
    pub work_dir: Option<&'a Path>,
}

/// A picture and its output, as they are recorded.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub picture: &'a str,
    pub output: &'a Path,
}

/// The record of one run of a share, open.
pub struct Record {
    file: File,
    path: PathBuf,
    /// Folder of the outputs.
    folder: PathBuf,
    /// The last line was not written whole.
    is_torn: bool,
    is_told: bool,
}

impl Record {
    /// Begins the record of a share whose outputs lie in `folder`; notes on other records there come with it.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn begin(
        folder: &Path,
        share: Share,
        list: &List<'_>,
    ) -> Result<(Self, Vec<String>), Error> {
        let records = folder.join(FOLDER);
        let failed = |path: &Path, source| Error::Work { path: path.to_owned(), source };
        fs::create_dir_all(&records).map_err(|error| failed(&records, error))?;
        let notes = others(&records, share.of).into_iter().collect();
        let (host, pid) = (host_name(), process::id());
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // A host's processes have different numbers at a time.
        let run = hex(format!("{host} {pid} {}", since.as_nanos()).as_bytes());
        let path = records.join(name(share.number, share.of, &run));
        let file = File::options().append(true).create_new(true).open(&path);
        let file = file.map_err(|error| failed(&path, error))?;
        let folder = folder.to_owned();
        let mut record = Self { file, path, folder, is_torn: false, is_told: false };
        let run = Run {
            version: VERSION,
            share: share.number,
            of: share.of,
            pictures: list.pictures,
            list: list.whole,
            host,
            pid,
            time: since.as_secs(),
            settings: hex(list.made_by.as_bytes()),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            work_dir: list.work_dir.map(|folder| {
                let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
                folder.to_string_lossy().into_owned()
            }),
        };
        record.write(&Line::Run(run), true).map_err(|error| failed(&record.path, error))?;
        Ok((record, notes))
    }

    /// A picture's turn begins.
    pub fn begun(&mut self, entry: Entry<'_>, reporter: &mut Reporter) {
        self.picture(entry, State::Begun, None, None, reporter);
    }

    /// A picture's turn ends.
    pub fn ended(
        &mut self,
        entry: Entry<'_>,
        state: State,
        reason: Option<&str>,
        time: Duration,
        reporter: &mut Reporter,
    ) {
        let took = matches!(state, State::Done | State::Failed);
        let seconds = took.then(|| (time.as_secs_f64() * 1000.0).round() / 1000.0);
        self.picture(entry, state, reason, seconds, reporter);
    }

    fn picture(
        &mut self,
        entry: Entry<'_>,
        state: State,
        reason: Option<&str>,
        seconds: Option<f64>,
        reporter: &mut Reporter,
    ) {
        let output = slashed(entry.output.strip_prefix(&self.folder).unwrap_or(entry.output));
        let line = Line::Picture {
            picture: entry.picture.into(),
            output: output.into(),
            state,
            reason: reason.map(Into::into),
            seconds,
        };
        // What exists is seen without the record: nobody waits for that line.
        self.say(&line, state != State::Exists, reporter);
    }

    /// The process ends with this exit code.
    pub fn end(&mut self, code: u8, reporter: &mut Reporter) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.say(&Line::End { code, time: since.as_secs() }, true, reporter);
    }

    /// Writes a line; that it cannot be written is told once.
    fn say(&mut self, line: &Line<'_>, is_shown: bool, reporter: &mut Reporter) {
        if let Err(error) = self.write(line, is_shown)
            && !std::mem::replace(&mut self.is_told, true)
        {
            let path = self.path.display();
            reporter.tell(&format!("{path}: `status` will not know all of this share ({error})"));
        }
    }

    /// Writes a line in one piece, and where it is to be shown, lets other hosts see it: network file systems send what was written when a descriptor
    /// is closed, and this one is a copy.
    fn write(&mut self, line: &Line<'_>, is_shown: bool) -> io::Result<()> {
        let mut text = String::new();
        if self.is_torn {
            text.push('\n');
        }
        text += &serde_json::to_string(line)?;
        text.push('\n');
        self.is_torn = true;
        self.file.write_all(text.as_bytes())?;
        self.is_torn = false;
        if is_shown { self.file.try_clone().map(drop) } else { Ok(()) }
    }
}

/// A note on records of another number of shares in the same folder.
fn others(records: &Path, of: u32) -> Option<String> {
    let names = fs::read_dir(records).ok()?.flatten().map(|entry| entry.file_name());
    let other =
        names.filter_map(|name| Some(parse_name(name.to_str()?)?.1)).find(|&other| other != of)?;
    Some(format!(
        "{}: has records of {other} shares too, and this is one of {of}: each picture is in one of either",
        records.display()
    ))
}

/// A path with the same separators on every platform.
fn slashed(path: &Path) -> String {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    if path.is_absolute() { path.to_string_lossy().into_owned() } else { parts.join("/") }
}

/// The first eight bytes of a digest.
fn hex(bytes: &[u8]) -> String {
    cupscale::units::hex(&Sha256::digest(bytes)[..8])
}
