//! The record of a share: what a process writes of its pictures while it does them, so that `status` sums up shares that run
//! on many hosts. A record that cannot be written costs no picture.

use std::{
    fs::{self, File},
    io::Write as _,
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
use crate::cli::{
    error::CliError,
    folder::{Item, Items},
    job::Job,
    progress::Reporter,
};

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
    /// Begins the record of the job's share, if it does one; `items` gets notes on other records in its folder.
    ///
    /// # Errors
    /// Outputs without a folder that all of them are in, or one that cannot be written to.
    pub fn open(job: &Job, items: &mut Items) -> Result<Option<Self>, CliError> {
        let Some(Share { number, of }) = job.share else { return Ok(None) };
        let Some(folder) = items.folder.clone() else {
            return Err(CliError::Usage(
                "--shard: name a folder for the outputs, -o DIR/: the record of the shares lies in it".to_owned(),
            ));
        };
        let records = folder.join(FOLDER);
        let failed = |path: &Path, error| Error::Work { path: path.to_owned(), source: error };
        fs::create_dir_all(&records).map_err(|error| failed(&records, error))?;
        items.notes.extend(others(&records, of));
        let (host, pid, time) = (host_name(), process::id(), now());
        // Whatever else is the same: no two processes of a host have one number at a time.
        let boot = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let run = hex(format!("{host} {pid} {boot}").as_bytes());
        let path = records.join(name(number, of, &run));
        let file = File::options().append(true).create_new(true).open(&path);
        let file = file.map_err(|error| failed(&path, error))?;
        let mut record = Self { file, path, folder, is_torn: false, is_told: false };
        let run = Run {
            version: VERSION,
            share: number,
            of,
            pictures: items.pictures.len(),
            list: items.whole,
            host,
            pid,
            time,
            settings: hex(job.made_by.as_bytes()),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            work_dir: job.work.folder.as_deref().map(|folder| {
                let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
                folder.to_string_lossy().into_owned()
            }),
        };
        record.write(&Line::Run(run), true).map_err(|error| failed(&record.path, error))?;
        Ok(Some(record))
    }

    /// A picture's turn begins.
    pub fn begun(&mut self, item: &Item, reporter: &mut Reporter) {
        self.picture(item, State::Begun, None, None, reporter);
    }

    /// A picture's turn ends.
    pub fn ended(
        &mut self,
        item: &Item,
        state: State,
        reason: Option<&str>,
        time: Duration,
        reporter: &mut Reporter,
    ) {
        let took = matches!(state, State::Done | State::Failed);
        let seconds = took.then(|| (time.as_secs_f64() * 1000.0).round() / 1000.0);
        self.picture(item, state, reason, seconds, reporter);
    }

    fn picture(
        &mut self,
        item: &Item,
        state: State,
        reason: Option<&str>,
        seconds: Option<f64>,
        reporter: &mut Reporter,
    ) {
        let output = item.output.strip_prefix(&self.folder).unwrap_or(&item.output);
        let output = slashed(output);
        let line = Line::Picture {
            picture: item.name().into(),
            output: output.into(),
            state,
            reason: reason.map(Into::into),
            seconds,
        };
        // What is there can be seen without the record.
        let is_kept = matches!(state, State::Done | State::Failed);
        self.say(&line, is_kept, reporter);
    }

    /// The process ends with this exit code.
    pub fn end(&mut self, code: u8, reporter: &mut Reporter) {
        self.say(&Line::End { code, time: now() }, true, reporter);
    }

    /// Writes a line; that it cannot be written is told once.
    fn say(&mut self, line: &Line<'_>, is_kept: bool, reporter: &mut Reporter) {
        if let Err(error) = self.write(line, is_kept)
            && !std::mem::replace(&mut self.is_told, true)
        {
            let path = self.path.display();
            reporter.tell(&format!("{path}: `status` will not know all of this share ({error})"));
        }
    }

    /// Writes a line in one piece, and if it is to be kept, through to the disk, where other hosts see it.
    fn write(&mut self, line: &Line<'_>, is_kept: bool) -> std::io::Result<()> {
        let mut text = String::new();
        if self.is_torn {
            text.push('\n');
        }
        text += &serde_json::to_string(line)?;
        text.push('\n');
        self.is_torn = true;
        self.file.write_all(text.as_bytes())?;
        self.is_torn = false;
        if is_kept { self.file.sync_data() } else { Ok(()) }
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

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The first eight bytes of a digest.
fn hex(bytes: &[u8]) -> String {
    cupscale::units::hex(&Sha256::digest(bytes)[..8])
}
