//! What the records of all shares of a folder say together: of each picture what became of it last.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use cupscale::{
    image::Output,
    pipeline::{self, WorkOptions},
};
use serde::Serialize;

use super::line::{FOLDER, Line, Run, State, VERSION, parse_name};

/// All shares of a folder.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Pictures of all shares together.
    pub pictures: usize,
    pub done: usize,
    pub failed: usize,
    pub running: usize,
    /// Not begun, given up by a process that ended, or left to another one.
    pub left: usize,
    /// Number of the shares of the latest run.
    pub of: u32,
    /// Those of them that no process has begun.
    pub not_begun: usize,
    /// In the order of their numbers.
    pub shares: Vec<OfShare>,
    /// In the order of their outputs' names.
    pub failures: Vec<Failure>,
    /// What the user should know of the records, one line each.
    pub notes: Vec<String>,
}

/// One share that has been begun.
#[derive(Debug, Default, Serialize)]
pub struct OfShare {
    pub share: u32,
    pub of: u32,
    pub pictures: usize,
    pub done: usize,
    pub failed: usize,
    pub running: usize,
    pub left: usize,
    /// Processes that have begun it.
    pub runs: usize,
    /// Host of the latest of them.
    pub host: String,
    /// Exit code of the latest; none while it runs, or if it was killed.
    pub code: Option<u8>,
    /// Seconds of all pictures that were done.
    pub seconds: f64,
}

/// A picture that failed.
#[derive(Debug, Serialize)]
pub struct Failure {
    pub picture: String,
    pub output: String,
    pub reason: String,
}

/// One record, as text.
struct Read {
    run: Run,
    text: Vec<u8>,
}

/// What is known of a picture.
struct Picture<'a> {
    /// Place of its share among those that have been begun.
    share: usize,
    state: State,
    name: std::borrow::Cow<'a, str>,
    reason: Option<std::borrow::Cow<'a, str>>,
    /// Place of unfinished work of the run that said so.
    work_dir: Option<&'a str>,
}

impl Summary {
    /// Sums up the records of the shares whose outputs lie in `folder`; `None` if there are none.
    ///
    /// # Errors
    /// Records that cannot be read.
    pub fn of(folder: &Path) -> Result<Option<Self>, (PathBuf, io::Error)> {
        let mut notes = Vec::new();
        let records = read_all(&folder.join(FOLDER), &mut notes)?;
        let Some(latest) = records.last().map(|record| record.run.clone()) else {
            return Ok(None);
        };
        let mut damaged = 0;
        let mut places = BTreeMap::new();
        for Read { run, .. } in &records {
            places.entry((run.of, run.share)).or_insert(0);
        }
        places.values_mut().enumerate().for_each(|(place, value)| *value = place);
        let mut shares: Vec<_> = places.keys().map(|_| OfShare::default()).collect();
        let mut pictures: HashMap<std::borrow::Cow<'_, str>, Picture<'_>> = HashMap::new();
        for Read { run, text } in &records {
            let place = places[&(run.of, run.share)];
            let share = &mut shares[place];
            (share.share, share.of, share.pictures) = (run.share, run.of, run.pictures);
            (share.host, share.code) = (run.host.clone(), None);
            share.runs += 1;
            for line in whole_lines(text).skip(1) {
                match serde_json::from_slice(line) {
                    Ok(Line::Picture { picture, output, state, reason, seconds }) => {
                        let work_dir = run.work_dir.as_deref();
                        if state == State::Done {
                            share.seconds += seconds.unwrap_or_default();
                        }
                        let new = Picture { share: place, state, name: picture, reason, work_dir };
                        let known = pictures.entry(output).or_insert_with(|| Picture {
                            reason: None,
                            name: new.name.clone(),
                            ..new
                        });
                        known.take(new);
                    }
                    Ok(Line::End { code, .. }) => share.code = Some(code),
                    Ok(Line::Run(_)) | Err(_) => damaged += 1,
                }
            }
        }
        if damaged > 0 {
            notes.push(format!(
                "{} of the records cannot be read and are passed over",
                cupscale::units::count(damaged, "line")
            ));
        }
        notes.extend(of_runs(&records, &latest));
        let mut failures = Vec::new();
        for (output, picture) in &pictures {
            let share = &mut shares[picture.share];
            match picture.now(&folder.join(&**output)) {
                Now::Done => share.done += 1,
                Now::Running => share.running += 1,
                Now::Left => {}
                Now::Failed => {
                    share.failed += 1;
                    failures.push(Failure {
                        picture: picture.name.to_string(),
                        output: output.to_string(),
                        reason: picture.reason.as_deref().unwrap_or_default().to_owned(),
                    });
                }
            }
        }
        failures.sort_by(|a, b| a.output.cmp(&b.output));
        for share in &mut shares {
            // Pictures may have come or gone between two runs.
            let known = share.done + share.failed + share.running;
            share.pictures = share.pictures.max(known);
            share.left = share.pictures - known;
        }
        let begun: Vec<_> = shares.iter().filter(|share| share.of == latest.of).collect();
        let not_begun = latest.of as usize - begun.len();
        let sum = |count: fn(&OfShare) -> usize| shares.iter().map(count).sum::<usize>();
        let (done, failed, running) =
            (sum(|it| it.done), sum(|it| it.failed), sum(|it| it.running));
        let known = done + failed + running;
        let of_shares = begun.iter().map(|share| share.pictures).sum::<usize>();
        let pictures = if not_begun == 0 { of_shares } else { latest.list.max(of_shares) };
        let pictures = pictures.max(known);
        Ok(Some(Self {
            left: pictures - known,
            pictures,
            done,
            failed,
            running,
            of: latest.of,
            not_begun,
            shares,
            failures,
            notes,
        }))
    }
}

/// State of a picture at this moment.
enum Now {
    Done,
    Failed,
    Running,
    Left,
}

impl<'a> Picture<'a> {
    /// Takes what a later line says.
    fn take(&mut self, new: Self) {
        let is_done = |state| matches!(state, State::Done | State::Exists);
        // A process that came later and found it locked, or killed, knows less.
        let knows_less = matches!(new.state, State::Waiting | State::Locked);
        if is_done(self.state) && !is_done(new.state) || knows_less && self.state != State::Begun {
            return;
        }
        *self = new;
    }

    /// What is true of it now; what has not ended is looked for on the disk.
    fn now(&self, output: &Path) -> Now {
        match self.state {
            State::Done | State::Exists => Now::Done,
            _ if output.is_file() => Now::Done,
            State::Failed => Now::Failed,
            State::Begun | State::Waiting | State::Locked => {
                let folder = self.work_dir.map(PathBuf::from);
                let work = WorkOptions { folder, ..WorkOptions::default() };
                let folder = work.folder_of(&Output::Path(output.to_owned()));
                match folder {
                    Some(folder) if folder.is_dir() && !pipeline::is_free(&folder) => Now::Running,
                    _ => Now::Left,
                }
            }
        }
    }
}

/// The records of a folder, those that began last at the end.
fn read_all(folder: &Path, notes: &mut Vec<String>) -> Result<Vec<Read>, (PathBuf, io::Error)> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<Result<Vec<_>, _>>),
    };
    let entries = entries.map_err(|error| (folder.to_owned(), error))?;
    let mut records = Vec::new();
    for entry in entries {
        if entry.file_name().to_str().and_then(parse_name).is_none() {
            continue;
        }
        let path = entry.path();
        let text = fs::read(&path).map_err(|error| (path.clone(), error))?;
        let first = whole_lines(&text).next().map(serde_json::from_slice);
        match first {
            Some(Ok(Line::Run(run)))
                if run.version == VERSION && (1..=run.of).contains(&run.share) =>
            {
                records.push(Read { run, text });
            }
            // It was killed at once, or is just beginning.
            None => {}
            Some(_) => {
                notes.push(format!("{}: is no record that is read here", path.display()));
            }
        }
    }
    records.sort_by_key(|record| (record.run.time, record.run.share));
    Ok(records)
}

/// The lines of a record but for what a kill left of its last one.
fn whole_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = text.split_inclusive(|&byte| byte == b'\n');
    let whole = lines.filter_map(|line| line.strip_suffix(b"\n"));
    whole.filter(|line| !line.is_empty())
}

/// Notes on runs that do not go together.
fn of_runs(records: &[Read], latest: &Run) -> Vec<String> {
    let mut notes = Vec::new();
    let mut of: Vec<_> = records.iter().map(|record| record.run.of).collect();
    of.sort_unstable();
    of.dedup();
    if of.len() > 1 {
        let of: Vec<_> = of.iter().map(u32::to_string).collect();
        notes.push(format!("the folder has shares of different lists: of {}", of.join(", of ")));
    }
    let mut kinds: BTreeMap<&str, (usize, u32)> = BTreeMap::new();
    for Read { run, .. } in records {
        kinds.entry(&run.settings).or_insert((0, run.share)).0 += 1;
    }
    if kinds.len() > 1 {
        let others: usize = kinds
            .iter()
            .filter(|(settings, _)| **settings != latest.settings)
            .map(|(_, (runs, _))| runs)
            .sum();
        let one = records.iter().rev().find(|record| record.run.settings != latest.settings);
        let one =
            one.map(|record| format!(" (as of share {}/{})", record.run.share, record.run.of));
        notes.push(format!(
            "settings differ: {} had others than the latest{}",
            cupscale::units::count(others, "run"),
            one.unwrap_or_default()
        ));
    }
    let mut programs: Vec<_> = records.iter().map(|record| &*record.run.program).collect();
    programs.sort_unstable();
    programs.dedup();
    if programs.len() > 1 {
        notes.push(format!("versions of the program differ: {}", programs.join(", ")));
    }
    notes
}
