//! Progress of jobs: stages, and in a folder the file that a stage is of.

use std::path::Path;

use cupscale::pipeline::{Progress, Stage};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Display, Reporter,
    event::{At, Event, FileState},
};
use crate::cli::print::{line, say};

/// Progress of the current stage.
pub struct Count {
    stage: Stage,
    done: usize,
    total: usize,
}

impl Count {
    /// Percent done, in tens.
    fn percent(&self) -> usize {
        10 * self.done / self.total.max(1) * 10
    }
}

/// The file of a folder whose job runs.
pub struct CurrentFile {
    /// Number of the file, from 1 to `count`.
    index: usize,
    count: usize,
    input: String,
    output: String,
}

impl CurrentFile {
    /// Its name, as it was found.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// Short name for the bar, without folders and cut to fit the line.
    fn short(&self) -> String {
        let name = Path::new(&self.input).file_name().unwrap_or_default().to_string_lossy();
        let mut short: String = name.chars().take(24).collect();
        if short.len() < name.len() {
            short.push('…');
        }
        format!("{}/{} {}", self.index, self.count, line(&short))
    }
}

impl Reporter {
    /// Begins a file of a folder, number `index` (from 1) of `count`: its job, or its captions made ahead
    /// ([`FileState::Captions`]). All following progress is of this file.
    pub fn begin_file(
        &mut self,
        state: FileState,
        (index, count): (usize, usize),
        input: &str,
        output: &str,
    ) {
        let (input, output) = (input.to_owned(), output.to_owned());
        self.file = Some(CurrentFile { index, count, input, output });
        self.file_event(state, None);
    }

    /// Ends the file begun by [`begin_file`](Self::begin_file); `text` is the outcome.
    pub fn end_file(&mut self, state: FileState, text: &str) {
        self.file_event(state, Some(text));
        if let (Some(file), FileState::Done, false) = (&self.file, state, self.quiet) {
            let line = format!("{}/{} {text}", file.index, file.count);
            match &self.display {
                Display::Bar(bar) => bar.suspend(|| say(&line)),
                Display::Percent => say(&line),
                Display::Seldom(pause) if pause.is_over() => say(&line),
                Display::Json | Display::Seldom(_) | Display::Nothing => {}
            }
        }
        self.file = None;
    }

    fn file_event(&self, state: FileState, text: Option<&str>) {
        if let (Display::Json, Some(file)) = (&self.display, &self.file) {
            let CurrentFile { index, count, input, output } = file;
            Event::File { state, index: *index, count: *count, input, output, text }.say();
        }
    }

    /// The last line of a job that went well, with the time it took.
    pub fn finish_job(&self, summary: &str) {
        match self.display {
            Display::Json => self.finish(summary),
            _ => {
                self.finish(&format!("{summary} in {:.1} s", self.started.elapsed().as_secs_f64()))
            }
        }
    }
}

/// The bar of a stage.
fn show(bar: &ProgressBar, stage: Stage, total: usize, file: Option<&CurrentFile>) {
    let style = ProgressStyle::with_template(
        "{msg:>10} {wide_bar} {pos}/{len} {prefix} {elapsed} ETA {eta}",
    )
    .expect("the template is a constant that parses");
    bar.set_style(style);
    bar.reset();
    bar.set_length(total as u64);
    bar.set_message(match file {
        Some(file) => format!("{} {}", file.short(), stage.verb()),
        None => stage.verb().to_owned(),
    });
    bar.set_prefix(stage.unit());
}

impl Progress for Reporter {
    fn begin(&mut self, stage: Stage, total: usize) {
        self.stage = Some(Count { stage, done: 0, total });
        match &self.display {
            Display::Bar(bar) => show(bar, stage, total, self.file.as_ref()),
            Display::Json => Event::Stage {
                stage: At::Job(stage),
                bytes: None,
                total: Some(total as u64),
                unit: stage.unit(),
            }
            .say(),
            Display::Percent | Display::Seldom(_) | Display::Nothing => {}
        }
    }

    fn advance(&mut self, count: usize) {
        let Some(state) = &mut self.stage else { return };
        let before = state.percent();
        state.done += count;
        let Count { stage, done, total } = *state;
        let percent = state.percent();
        let line = || {
            let file = self.file.as_ref();
            let file = file.map(|f| format!("{}/{} {}: ", f.index, f.count, f.input));
            let (file, verb, unit) = (file.unwrap_or_default(), stage.verb(), stage.unit());
            format!("{file}{verb} {percent}% ({done}/{total} {unit})")
        };
        match &self.display {
            Display::Bar(bar) => bar.inc(count as u64),
            Display::Percent if percent != before => say(&line()),
            Display::Seldom(pause) if pause.is_over() => say(&line()),
            Display::Json => Event::Progress {
                stage: At::Job(stage),
                file: None,
                done: done as u64,
                total: Some(total as u64),
                unit: None,
            }
            .say(),
            Display::Percent | Display::Seldom(_) | Display::Nothing => {}
        }
    }

    fn note(&mut self, text: &str) {
        self.tell(text);
    }

    fn interrupted(&self) -> bool {
        self.is_interrupted()
    }
}
