//! Progress of jobs: stages, and in a folder the file that a stage is of.

use std::{path::Path, time::Duration};

use cupscale::pipeline::{Outline, Preview, Progress, Stage};

use super::{
    Display, Reporter,
    event::{At, Event, FileState, JobTime, tenths},
    timeline::{Timeline, words},
};
use crate::cli::{
    print::{line, say},
    speeds,
};

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
        self.timeline = Timeline::new();
        self.notes.clear();
        self.file_event(state, None);
    }

    /// Ends the file begun by [`begin_file`](Self::begin_file); `text` is the outcome.
    pub fn end_file(&mut self, state: FileState, text: &str) {
        self.file_event(state, Some(text));
        if state == FileState::Done {
            let (seconds, number) = self.finished;
            self.finished = (seconds + self.timeline.elapsed().as_secs_f64(), number + 1);
        }
        if let (Some(file), FileState::Done, false) = (&self.file, state, self.quiet) {
            let line = format!("{}/{} {text}", file.index, file.count);
            match &self.display {
                Display::Bar(bar) => bar.bar.suspend(|| say(&line)),
                Display::Percent => say(&line),
                Display::Seldom(pause) if pause.is_over() => say(&line),
                Display::Json | Display::Seldom(_) | Display::Nothing => {}
            }
        }
        self.file = None;
    }

    fn file_event(&self, state: FileState, text: Option<&str>) {
        if let Some(CurrentFile { index, count, input, output }) = &self.file {
            self.emit(|| Event::File { state, index: *index, count: *count, input, output, text });
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

/// Percent done, in tens.
fn tens(done: usize, total: usize) -> usize {
    10 * done / total.max(1) * 10
}

impl Reporter {
    /// The stage at work in one line: `repainting 40% (8/20 regions × steps), about 2 min left`.
    fn stage_line(&self) -> String {
        let Some((stage, done, total)) = self.timeline.stage() else { return String::new() };
        let file = self.file.as_ref();
        let file = file.map(|f| format!("{}/{} {}: ", f.index, f.count, f.input));
        let (file, verb, unit) = (file.unwrap_or_default(), stage.verb(), stage.unit());
        let left = self.timeline.left().filter(|left| *left >= Duration::from_secs(1));
        let left = left.map(|left| format!(", about {} left", words(left))).unwrap_or_default();
        format!("{file}{verb} {}% ({done}/{total} {unit}){left}", tens(done, total))
    }

    /// Shows the bar as things are now.
    fn show(&self) {
        if let Display::Bar(bar) = &self.display {
            let mut view = bar.view();
            view.timeline = Some(self.timeline.clone());
            view.file = self.file.as_ref().map(CurrentFile::short).unwrap_or_default();
            view.left_of_all = self.left_of_all();
        }
    }

    /// What is left of a folder, from its pictures that are done.
    fn left_of_all(&self) -> Option<Duration> {
        let file = self.file.as_ref()?;
        let (seconds, number @ 1..) = self.finished else { return None };
        let others = seconds / number as f64 * (file.count - file.index) as f64;
        Some(self.timeline.left()? + Duration::from_secs_f64(others))
    }

    fn tell_progress(&self) {
        let Some((stage, done, total)) = self.timeline.stage() else { return };
        self.emit(|| Event::Progress {
            stage: At::Job(stage),
            file: self.of_file(),
            done: done as u64,
            total: Some(total as u64),
            unit: None,
            time: Some(JobTime {
                elapsed_s: tenths(self.timeline.elapsed()),
                eta_s: self.timeline.left().map(tenths),
            }),
        });
    }

    /// Tells of an advance, `before` which so many tens of percent were done.
    fn tell_advance(&self, before: usize) {
        let Some((_, done, total)) = self.timeline.stage() else { return };
        match &self.display {
            Display::Bar(_) => self.show(),
            Display::Percent if tens(done, total) != before => say(&self.stage_line()),
            Display::Seldom(pause) if pause.is_over() => say(&self.stage_line()),
            Display::Percent | Display::Seldom(_) | Display::Json | Display::Nothing => {}
        }
        self.tell_progress();
    }

    fn tens(&self) -> usize {
        self.timeline.stage().map_or(0, |(_, done, total)| tens(done, total))
    }
}

impl Progress for Reporter {
    fn outlined(&mut self, outline: &Outline) {
        let earlier = self.speed.as_ref().and_then(|key| speeds::expect(key, outline));
        self.timeline.outline(outline, earlier.map_or([None; 5], |earlier| earlier.stages));
        let &Outline { width, height, regions, steps, .. } = outline;
        self.emit(|| Event::Job {
            file: self.of_file(),
            width,
            height,
            regions,
            steps,
            eta_s: self.timeline.left().map(tenths),
        });
    }

    fn begin(&mut self, stage: Stage, total: usize) {
        self.timeline.begin(stage, total);
        if let Display::Bar(bar) = &self.display {
            self.show();
            bar.show();
        }
        self.emit(|| Event::Stage {
            stage: At::Job(stage),
            file: self.of_file(),
            done: None,
            total: Some(total as u64),
            unit: stage.unit(),
        });
    }

    fn resumed(&mut self, count: usize) {
        let before = self.tens();
        self.timeline.resume(count);
        self.tell_advance(before);
    }

    fn advance(&mut self, count: usize) {
        let before = self.tens();
        self.timeline.advance(count);
        self.tell_advance(before);
    }

    fn note(&mut self, text: &str) {
        self.tell(text);
    }

    fn wants_preview(&self) -> bool {
        self.preview.is_some()
    }

    fn preview(&mut self, preview: &Preview<'_>) {
        let Some(file) = &self.preview else { return };
        match file.write(preview) {
            Ok(()) => {
                let path = file.path().to_string_lossy();
                let &Preview { stage, step, of, width, height, .. } = preview;
                let file = self.of_file();
                self.emit(|| Event::Preview { file, stage, step, of, width, height, path: &path });
            }
            Err(error) => {
                // The job is worth more than its preview.
                self.preview = None;
                self.tell(&format!("no more previews: {error}"));
            }
        }
    }

    fn interrupted(&self) -> bool {
        self.is_interrupted()
    }
}
