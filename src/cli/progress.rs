//! Progress on stderr: a bar for people, JSON lines for programs.

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use cupscale::pipeline::{Progress, Stage};
use indicatif::{ProgressBar, ProgressStyle};

use super::args::ProgressMode;

enum Display {
    Bar(ProgressBar),
    /// What a bar becomes where stderr is no terminal: a line for every tenth of a stage.
    Percent(Count),
    Json(Count),
    Nothing,
}

/// Where the current stage is.
#[derive(Default)]
struct Count {
    stage: Option<Stage>,
    done: usize,
    total: usize,
}

impl Count {
    /// Percent done, in tens.
    fn percent(&self) -> usize {
        10 * self.done / self.total.max(1) * 10
    }
}

/// What became of a file of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// It is described, before its job begins.
    Captions,
    /// Its job begins.
    Begun,
    Done,
    Skipped,
    Failed,
}

/// The file of a folder whose job runs.
struct CurrentFile {
    /// From 1 to `count`.
    index: usize,
    count: usize,
    input: String,
    output: String,
}

impl CurrentFile {
    /// For the bar, which has to fit a line: without folders, and cut.
    fn short(&self) -> String {
        let name = Path::new(&self.input).file_name().unwrap_or_default().to_string_lossy();
        let mut short: String = name.chars().take(24).collect();
        if short.len() < name.len() {
            short.push('…');
        }
        format!("{}/{} {short}", self.index, self.count)
    }
}

/// Shows a job's progress, and carries the user's Ctrl-C to it.
pub struct Reporter {
    display: Display,
    quiet: bool,
    file: Option<CurrentFile>,
    started: Instant,
    interrupted: Arc<AtomicBool>,
}

impl Reporter {
    /// Also takes over Ctrl-C: the first one asks the job to stop cleanly, a second one ends the
    /// process at once.
    pub fn new(mode: ProgressMode, quiet: bool) -> Self {
        let display = match mode {
            ProgressMode::Bar | ProgressMode::Auto if std::io::stderr().is_terminal() => {
                Display::Bar(bar())
            }
            ProgressMode::Bar => Display::Percent(Count::default()),
            ProgressMode::Json => Display::Json(Count::default()),
            ProgressMode::Auto | ProgressMode::None => Display::Nothing,
        };
        Self { display, quiet, file: None, started: Instant::now(), interrupted: interrupt_flag() }
    }

    /// From here on all progress is that of one file of a folder, the `index`-th (from 1) of `count`.
    pub fn begin_file(&mut self, index: usize, count: usize, input: &str, output: &str) {
        self.set_file(FileState::Begun, index, count, input, output);
    }

    /// The same for a file that is described before its turn.
    pub fn begin_captions(&mut self, index: usize, count: usize, input: &str, output: &str) {
        self.set_file(FileState::Captions, index, count, input, output);
    }

    fn set_file(
        &mut self,
        state: FileState,
        index: usize,
        count: usize,
        input: &str,
        output: &str,
    ) {
        let (input, output) = (input.to_owned(), output.to_owned());
        self.file = Some(CurrentFile { index, count, input, output });
        self.file_event(state, None);
    }

    /// The end of what [`begin_file`](Self::begin_file) began; `text` says how.
    pub fn end_file(&mut self, state: FileState, text: &str) {
        self.file_event(state, Some(text));
        if let (Some(file), FileState::Done, false) = (&self.file, state, self.quiet) {
            let line = format!("{}/{} {text}", file.index, file.count);
            match &self.display {
                Display::Bar(bar) => bar.suspend(|| say(&line)),
                Display::Percent(_) => say(&line),
                Display::Json(_) | Display::Nothing => {}
            }
        }
        self.file = None;
    }

    fn file_event(&self, state: FileState, text: Option<&str>) {
        if let (Display::Json(_), Some(file)) = (&self.display, &self.file) {
            let CurrentFile { index, count, input, output } = file;
            let mut event = serde_json::json!({
                "event": "file", "state": state, "index": index, "count": count,
                "input": input, "output": output,
            });
            if let Some(text) = text {
                event["text"] = text.into();
            }
            line(&event);
        }
    }

    /// Takes the bar away, for a job that ends before its end.
    pub fn clear(&self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }

    /// The last line of a job that went well.
    pub fn finish(&self, summary: &str) {
        self.clear();
        match &self.display {
            Display::Json(_) => line(&serde_json::json!({
                "event": "done",
                "seconds": self.started.elapsed().as_secs_f64(),
                "summary": summary,
            })),
            Display::Bar(_) | Display::Percent(_) | Display::Nothing => {}
        }
        if !self.quiet && !matches!(self.display, Display::Json(_)) {
            say(&format!("{summary} in {:.1} s", self.started.elapsed().as_secs_f64()));
        }
    }
}

/// Takes over Ctrl-C: the first one raises the flag, a second one ends the process at once.
pub fn interrupt_flag() -> Arc<AtomicBool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    // Without a handler Ctrl-C still ends the process, only less cleanly: no reason to fail.
    let _ = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(super::INTERRUPTED));
        }
    });
    interrupted
}

/// A bar on stderr, for a terminal.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg:>10} {wide_bar} {pos}/{len} {prefix} {elapsed} ETA {eta}",
    )
    .expect("the template is a constant that parses");
    ProgressBar::new(0).with_style(style)
}

impl Progress for Reporter {
    fn begin(&mut self, stage: Stage, total: usize) {
        match &mut self.display {
            Display::Bar(bar) => {
                bar.reset();
                bar.set_length(total as u64);
                bar.set_message(match &self.file {
                    Some(file) => format!("{} {}", file.short(), stage.verb()),
                    None => stage.verb().to_owned(),
                });
                bar.set_prefix(stage.unit());
            }
            Display::Percent(count) => *count = Count { stage: Some(stage), done: 0, total },
            Display::Json(count) => {
                *count = Count { stage: Some(stage), done: 0, total };
                line(&serde_json::json!({
                    "event": "stage", "stage": stage, "total": total, "unit": stage.unit(),
                }));
            }
            Display::Nothing => {}
        }
    }

    fn advance(&mut self, count: usize) {
        match &mut self.display {
            Display::Bar(bar) => bar.inc(count as u64),
            Display::Percent(state) => {
                let before = state.percent();
                state.done += count;
                if let (Some(stage), true) = (state.stage, state.percent() != before) {
                    let file = self.file.as_ref();
                    let file = file.map(|f| format!("{}/{} {}: ", f.index, f.count, f.input));
                    say(&format!(
                        "{}{} {}% ({}/{} {})",
                        file.unwrap_or_default(),
                        stage.verb(),
                        state.percent(),
                        state.done,
                        state.total,
                        stage.unit()
                    ));
                }
            }
            Display::Json(state) => {
                state.done += count;
                line(&serde_json::json!({
                    "event": "progress",
                    "stage": state.stage,
                    "done": state.done,
                    "total": state.total,
                }));
            }
            Display::Nothing => {}
        }
    }

    fn note(&mut self, text: &str) {
        let said = match &self.file {
            Some(file) => format!("{}: {text}", file.input),
            None => text.to_owned(),
        };
        match &self.display {
            Display::Json(_) => line(&serde_json::json!({ "event": "note", "text": text })),
            _ if self.quiet => {}
            Display::Bar(bar) => bar.suspend(|| say(&said)),
            Display::Percent(_) | Display::Nothing => say(&said),
        }
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }
}

/// One JSON line on stderr.
pub fn line(value: &serde_json::Value) {
    say(&value.to_string());
}

/// One line on stderr. Nobody reading it is no reason to stop the job.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
