//! Progress on stderr, of jobs and of transfers alike: a bar for people, JSON lines for programs.

mod bar;
mod event;
mod frames;
mod interrupt;
mod job;
mod preview;
mod stream;
mod timeline;
mod transfer;

use std::{
    cell::Cell,
    io::{self, IsTerminal as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::ValueEnum;
use cupscale::image::Input;

use super::{
    print::{say, say_line},
    speeds::{self, SpeedKey},
};
use bar::JobBar;
use event::{Event, OfFile};
pub use event::{FileState, Transfer};
use interrupt::interrupt_flag;
pub use interrupt::{GRACE, grant, listen};
pub use preview::PreviewFile;
pub use stream::LineStream;
pub use timeline::{Expected, Timeline, words};

/// The values of `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// A bar when stderr is a terminal, otherwise a line every half minute
    Auto,
    /// A bar; where stderr is no terminal, a line for every tenth of a stage
    Bar,
    /// One JSON object a line
    Json,
    /// No progress
    None,
}

/// Form and amount of the progress display.
#[derive(Clone, Debug)]
pub struct Show {
    pub mode: ProgressMode,
    pub quiet: bool,
    /// Gets JSON lines besides.
    pub lines: Option<LineStream>,
    pub preview: Option<PreviewFile>,
}

enum Display {
    Bar(JobBar),
    /// A bar's stand-in where stderr is no terminal: a line for every tenth.
    Percent,
    /// What a log gets: a line now and then, and none of a short job.
    Seldom(Pause),
    Json,
    Nothing,
}

/// Notes of a job that are kept for its report.
const NOTES: usize = 100;

/// Time between two lines where stderr is no terminal.
const SELDOM: Duration = Duration::from_secs(30);

/// A pause between lines, which begins anew with every line.
pub struct Pause {
    length: Duration,
    begun: Cell<Instant>,
}

impl Pause {
    fn new(length: Duration) -> Self {
        Self { length, begun: Cell::new(Instant::now()) }
    }

    /// `true` if it is over; the next one then begins.
    fn is_over(&self) -> bool {
        let is_over = self.begun.get().elapsed() >= self.length;
        if is_over {
            self.begun.set(Instant::now());
        }
        is_over
    }
}

/// The user's wish to stop, for threads that wait.
#[derive(Clone)]
pub struct Interruption(Arc<AtomicBool>);

impl Interruption {
    /// `true` once the user has asked to stop.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Shows the progress of a job or of transfers, and carries the user's Ctrl-C to them.
pub struct Reporter {
    display: Display,
    quiet: bool,
    started: Instant,
    interrupted: Arc<AtomicBool>,
    lines: Option<LineStream>,
    preview: Option<PreviewFile>,
    /// The input of a job by itself.
    input: Option<String>,
    /// The file of a folder whose job runs.
    file: Option<job::CurrentFile>,
    /// Seconds of the pictures of a folder that are done, and their number.
    finished: (f64, usize),
    timeline: Timeline,
    /// Notes of the job, of which the first hundred are kept.
    notes: Vec<String>,
    /// What the job's speed depends on, once its model is loaded.
    speed: Option<SpeedKey>,
    transfer: Option<transfer::CurrentTransfer>,
}

impl Reporter {
    /// Also takes over Ctrl-C: the first one asks the job to stop cleanly, a second one ends the
    /// process at once, as does the end of the time of grace.
    pub fn new(show: &Show) -> Self {
        let Show { mode, quiet, ref lines, ref preview } = *show;
        let display = match mode {
            ProgressMode::Auto if quiet => Display::Nothing,
            ProgressMode::Bar | ProgressMode::Auto if io::stderr().is_terminal() => {
                Display::Bar(JobBar::new())
            }
            ProgressMode::Bar => Display::Percent,
            ProgressMode::Json => Display::Json,
            ProgressMode::Auto => Display::Seldom(Pause::new(SELDOM)),
            ProgressMode::None => Display::Nothing,
        };
        Self {
            display,
            quiet,
            started: Instant::now(),
            interrupted: interrupt_flag(),
            lines: lines.clone(),
            preview: preview.clone(),
            input: None,
            file: None,
            finished: (0.0, 0),
            timeline: Timeline::new(),
            notes: Vec::new(),
            speed: None,
            transfer: None,
        }
    }

    /// Removes the bar, for a job that ends early.
    pub fn clear(&self) {
        if let Display::Bar(bar) = &self.display {
            bar.bar.finish_and_clear();
        }
    }

    /// Shows the summary of a success as the last line.
    pub fn finish(&self, summary: &str) {
        self.clear();
        self.emit(|| Event::Done { seconds: self.started.elapsed().as_secs_f64(), summary });
        if !matches!(self.display, Display::Json) && !self.quiet {
            say(summary);
        }
    }

    /// The wish to stop, shared.
    pub fn interruption(&self) -> Interruption {
        Interruption(Arc::clone(&self.interrupted))
    }

    /// Writes an event where JSON lines go.
    fn emit<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        let to_stderr = matches!(self.display, Display::Json);
        if !to_stderr && self.lines.is_none() {
            return;
        }
        let line = event().line();
        if to_stderr {
            say_line(&line);
        }
        if let Some(lines) = &self.lines {
            lines.say(&line);
        }
    }

    /// The picture of a job by itself, for events: its input, or the output where there is none.
    pub fn names(&mut self, input: &Input) {
        self.input = Some(input.name());
    }

    /// The next job has a model on a machine, whose speed may be known.
    pub fn loaded(&mut self, key: SpeedKey) {
        self.speed = Some(key);
    }

    /// The job has ended well: its speed is remembered, and its times and notes are returned.
    pub fn ended(&mut self) -> (&Timeline, &[String]) {
        self.timeline.end();
        if let Some(key) = &self.speed {
            speeds::remember(key, &self.timeline);
        }
        (&self.timeline, &self.notes)
    }

    /// The file that events are about.
    fn of_file(&self) -> Option<OfFile<'_>> {
        let file = self.file.as_ref().map(|file| file.input());
        file.or(self.input.as_deref()).map(|file| OfFile { file })
    }

    /// `true` once the user has asked to stop.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// Shows a warning to the user.
    pub fn tell(&mut self, text: &str) {
        if self.notes.len() < NOTES {
            self.notes.push(text.to_owned());
        }
        let said = match &self.file {
            Some(file) => format!("{}: {text}", file.input()),
            None => text.to_owned(),
        };
        self.emit(|| Event::Note { file: self.of_file(), text });
        match &self.display {
            Display::Json => {}
            _ if self.quiet => {}
            Display::Bar(bar) => bar.bar.suspend(|| say(&said)),
            Display::Percent | Display::Seldom(_) | Display::Nothing => say(&said),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_over_once_and_begins_anew() {
        let pause = Pause::new(Duration::from_secs(3600));
        assert!(!pause.is_over());
        pause.begun.set(Instant::now().checked_sub(Duration::from_secs(3600)).unwrap());
        assert!(pause.is_over() && !pause.is_over());
    }
}
