//! Goes through many pictures, each by itself: a failed one is told and does not stop the others, and one that another
//! process works on gets its turn after all others.

use std::{fmt, path::PathBuf, time::Instant};

use cupscale::pipeline::{self, Error};

use super::{Item, Items, Loaded, describe_ahead};
use crate::cli::{
    advice,
    error::{CliError, DONE, FAILED, INTERRUPTED, SKIPPED},
    job::Job,
    print::complain,
    progress::{FileState, Reporter},
    shares::{Entry, Record, State},
    waiting::{LOCKED, Patience},
};

/// Pictures that are captioned ahead as a batch if captioner and diffusion model do not fit in memory together:
/// each is then loaded once per batch.
const AHEAD: usize = 16;

/// Outcome of a picture that went well.
pub enum Outcome {
    /// With a summary.
    Done(String),
    /// Its output is there.
    Exists,
}

/// Counts of the outcomes so far.
#[derive(Default)]
struct Tally {
    done: usize,
    skipped: usize,
    /// Those among the skipped that another process works on.
    locked: usize,
    /// One line for each failure.
    failures: Vec<String>,
    left: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, skipped, failures, left, .. } = self;
        write!(f, "{done} done, {skipped} skipped, {} failed", failures.len())?;
        if *left > 0 { write!(f, ", {left} left") } else { Ok(()) }
    }
}

enum End {
    Finished,
    Interrupted,
}

/// Does these pictures one by one: `one` does a picture; `go_on` says how an interrupted run goes on with those that are
/// left. What becomes of each is written into the `record`, if there is one.
pub fn all(
    job: &Job,
    items: Items,
    record: Option<Record>,
    go_on: impl Fn(&[&Item]) -> String,
    one: impl Fn(&Item, &mut Option<Loaded>, &mut Reporter) -> Result<Outcome, CliError>,
) -> Result<u8, CliError> {
    let Items { pictures: items, notes, unreadable, .. } = items;
    let mut reporter = Reporter::new(&job.show);
    let idle = job.idle_quality(items.iter().map(|item| item.format));
    job.notes.iter().chain(&notes).chain(&idle).for_each(|note| reporter.tell(note));
    let tally = Tally { failures: unreadable, left: items.len(), ..Tally::default() };
    let mut round = Round {
        job,
        one,
        is_left: vec![true; items.len()],
        items: &items,
        record,
        loaded: None,
        tally,
        reporter,
    };
    let end = round.every();
    let Round { mut record, tally, mut reporter, is_left, .. } = round;
    match &end {
        Ok(End::Finished) => reporter.finish_job(&tally.to_string()),
        Ok(End::Interrupted) => {
            reporter.clear();
            let left = items.iter().zip(&is_left).filter(|(_, is_left)| **is_left);
            let left = go_on(&left.map(|(item, _)| item).collect::<Vec<_>>());
            complain(&format!("interrupted: {tally}; {left}"));
        }
        Err(_) => reporter.clear(),
    }
    tally.failures.iter().for_each(|failure| complain(failure));
    let code = end.map(|end| match end {
        End::Interrupted => INTERRUPTED,
        End::Finished if !tally.failures.is_empty() => FAILED,
        // To an engine a share whose pictures are all there has gone well.
        End::Finished if tally.done == 0 && (job.share.is_none() || tally.locked > 0) => SKIPPED,
        End::Finished => DONE,
    });
    if let Some(record) = &mut record {
        record.end(code.as_ref().map_or_else(CliError::exit_code, |code| *code), &mut reporter);
    }
    code
}

/// One way through the pictures.
struct Round<'a, F> {
    job: &'a Job,
    one: F,
    items: &'a [Item],
    /// Of each picture, whether its turn is still to come.
    is_left: Vec<bool>,
    record: Option<Record>,
    loaded: Option<Loaded>,
    tally: Tally,
    reporter: Reporter,
}

impl<F> Round<'_, F>
where
    F: Fn(&Item, &mut Option<Loaded>, &mut Reporter) -> Result<Outcome, CliError>,
{
    /// Processes the pictures until the end, Ctrl-C, or an error that would affect all of them.
    fn every(&mut self) -> Result<End, CliError> {
        let mut locked = Vec::new();
        for index in 0..self.items.len() {
            if index.is_multiple_of(AHEAD) && self.job.describes_with_a_model() {
                let ahead = &self.items[index..self.items.len().min(index + AHEAD)];
                let place = (index, self.items.len());
                let (loaded, reporter) = (&mut self.loaded, &mut self.reporter);
                match describe_ahead(self.job, place, ahead, loaded, reporter) {
                    Err(CliError::Job(Error::Interrupted(_))) => return Ok(End::Interrupted),
                    Err(error) if is_every_pictures(&error) => return Err(error),
                    // It is reported with that picture.
                    _ => {}
                }
            }
            match self.turn(index)? {
                Turn::Over => {}
                Turn::Interrupted => return Ok(End::Interrupted),
                Turn::Locked(folder) => locked.push((index, folder)),
            }
        }
        self.wait_for(locked)
    }

    /// Does the pictures that other processes worked on, each as soon as it is left alone.
    fn wait_for(&mut self, mut locked: Vec<(usize, PathBuf)>) -> Result<End, CliError> {
        let mut is_told = false;
        let mut patience = Patience::new();
        while !locked.is_empty() {
            let before = locked.len();
            for (index, folder) in std::mem::take(&mut locked) {
                if !pipeline::is_free(&folder) {
                    locked.push((index, folder));
                    continue;
                }
                match self.turn(index)? {
                    Turn::Over => {}
                    Turn::Interrupted => return Ok(End::Interrupted),
                    Turn::Locked(folder) => locked.push((index, folder)),
                }
            }
            if let (Some((index, _)), false) = (locked.first(), is_told) {
                let first = self.items[*index].name();
                let them = match locked.len() {
                    1 => format!("{first}: {LOCKED}"),
                    count => format!(
                        "{count} pictures ({first} and others): other processes work on them"
                    ),
                };
                self.reporter.tell(&format!("{them}; waiting for it to end"));
                is_told = true;
            }
            if locked.len() < before {
                patience = Patience::new();
            } else if patience.wait(&self.reporter).is_err() {
                return Ok(End::Interrupted);
            }
        }
        Ok(End::Finished)
    }

    /// One picture's turn.
    fn turn(&mut self, index: usize) -> Result<Turn, CliError> {
        if self.reporter.is_interrupted() {
            return Ok(Turn::Interrupted);
        }
        let item = &self.items[index];
        let (name, count) = (item.name(), self.items.len());
        let output = item.output.display().to_string();
        self.reporter.begin_file(FileState::Begun, (index + 1, count), &name, &output);
        // What is there is recorded once, and not for what it is not.
        let exists = self.job.skip_existing && item.output.is_file();
        if let (Some(record), false) = (&mut self.record, exists) {
            record.begun(Entry { picture: &name, output: &item.output }, &mut self.reporter);
        }
        let begun = Instant::now();
        let (state, text) = match (self.one)(item, &mut self.loaded, &mut self.reporter) {
            Ok(Outcome::Done(summary)) => {
                self.tally.done += 1;
                (FileState::Done, summary)
            }
            Ok(Outcome::Exists) => {
                self.tally.skipped += 1;
                (FileState::Skipped, "the output exists".to_owned())
            }
            Err(CliError::Job(Error::Interrupted(_))) => return Ok(Turn::Interrupted),
            Err(CliError::Job(Error::Busy { folder, .. } | Error::TakenOver { folder }))
                if !self.job.skip_locked =>
            {
                self.note(item, State::Waiting, None, begun);
                self.reporter.end_file(FileState::Waiting, LOCKED);
                return Ok(Turn::Locked(folder));
            }
            Err(CliError::Job(Error::Busy { .. } | Error::TakenOver { .. })) => {
                self.tally.skipped += 1;
                self.tally.locked += 1;
                self.note(item, State::Locked, Some(LOCKED), begun);
                self.reporter.end_file(FileState::Skipped, LOCKED);
                return Ok(self.over(index));
            }
            Err(error) if is_every_pictures(&error) => return Err(error),
            Err(error) => {
                let error = advice::line(&error);
                let names_it = error.starts_with(&name);
                let failure = if names_it { error.clone() } else { format!("{name}: {error}") };
                self.tally.failures.push(failure);
                (FileState::Failed, error)
            }
        };
        let recorded = match state {
            FileState::Failed => State::Failed,
            FileState::Skipped => State::Exists,
            _ => State::Done,
        };
        let reason = (state == FileState::Failed).then_some(text.as_str());
        self.note(item, recorded, reason, begun);
        self.reporter.end_file(state, &text);
        Ok(self.over(index))
    }

    fn over(&mut self, index: usize) -> Turn {
        self.is_left[index] = false;
        self.tally.left -= 1;
        Turn::Over
    }

    fn note(&mut self, item: &Item, state: State, reason: Option<&str>, begun: Instant) {
        if let Some(record) = &mut self.record {
            let entry = Entry { picture: &item.name(), output: &item.output };
            record.ended(entry, state, reason, begun.elapsed(), &mut self.reporter);
        }
    }
}

/// How a picture's turn ended.
enum Turn {
    Over,
    /// Another process works in this folder on it.
    Locked(PathBuf),
    Interrupted,
}

/// `true` if an error does not depend on the picture: options, model and device are the same for all.
fn is_every_pictures(error: &CliError) -> bool {
    match error {
        CliError::Job(error) => matches!(
            error,
            Error::Sampler(_) | Error::Device(_) | Error::Weights(_) | Error::Model { .. }
        ),
        CliError::NotEdited { .. } | CliError::NoMask { .. } => false,
        _ => true,
    }
}
