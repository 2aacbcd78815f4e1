//! Progress on stderr: a bar for people, JSON lines for programs.

use std::{
    io::{IsTerminal as _, Write as _},
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

/// Shows a job's progress, and carries the user's Ctrl-C to it.
pub struct Reporter {
    display: Display,
    quiet: bool,
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
        Self { display, quiet, started: Instant::now(), interrupted: interrupt_flag() }
    }

    /// The last line of a job that went well.
    pub fn finish(&self, summary: &str) {
        match &self.display {
            Display::Bar(bar) => bar.finish_and_clear(),
            Display::Json(_) => line(&serde_json::json!({
                "event": "done",
                "seconds": self.started.elapsed().as_secs_f64(),
                "summary": summary,
            })),
            Display::Percent(_) | Display::Nothing => {}
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
                bar.set_message(stage.verb());
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
                    say(&format!(
                        "{} {}% ({}/{} {})",
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
        match &self.display {
            Display::Json(_) => line(&serde_json::json!({ "event": "note", "text": text })),
            _ if self.quiet => {}
            Display::Bar(bar) => bar.suspend(|| say(text)),
            Display::Percent(_) | Display::Nothing => say(text),
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
