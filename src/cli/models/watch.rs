//! Progress of downloads and checks, on stderr: bytes and speed of one file at a time.

use std::{
    io::IsTerminal as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cupscale::{
    units,
    weights::hub::{TransferProgress, Work},
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{
    args::ProgressMode,
    progress::{interrupt_flag, line, say},
};

/// JSON lines about one file come no more often.
const JSON_PAUSE: Duration = Duration::from_millis(250);

enum Display {
    Bar(ProgressBar),
    /// What a bar becomes where stderr is no terminal: a line for every tenth of a download.
    Percent,
    Json,
    Nothing,
}

/// The file at work.
struct File {
    work: Work,
    name: String,
    done: u64,
    total: Option<u64>,
    told: Instant,
}

impl File {
    fn percent(&self) -> u64 {
        self.total.map_or(0, |total| 10 * self.done / total.max(1) * 10)
    }

    fn verb(&self) -> &'static str {
        match self.work {
            Work::Download => "download",
            Work::Check => "check",
        }
    }
}

/// Shows transfers, and carries the user's Ctrl-C to them.
pub struct Watcher {
    display: Display,
    quiet: bool,
    started: Instant,
    interrupted: Arc<AtomicBool>,
    file: Option<File>,
}

impl Watcher {
    pub fn new(mode: ProgressMode, quiet: bool) -> Self {
        let display = match mode {
            ProgressMode::Auto if quiet => Display::Nothing,
            ProgressMode::Bar | ProgressMode::Auto if std::io::stderr().is_terminal() => {
                Display::Bar(ProgressBar::no_length())
            }
            ProgressMode::Bar => Display::Percent,
            ProgressMode::Json => Display::Json,
            ProgressMode::Auto | ProgressMode::None => Display::Nothing,
        };
        let interrupted = interrupt_flag();
        Self { display, quiet, started: Instant::now(), interrupted, file: None }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }

    /// The last line of what went well.
    pub fn finish(&self, summary: &str) {
        self.clear();
        if matches!(self.display, Display::Json) {
            line(&serde_json::json!({
                "event": "done",
                "seconds": self.started.elapsed().as_secs_f64(),
                "summary": summary,
            }));
        } else if !self.quiet {
            say(summary);
        }
    }

    fn tell(&self, event: &str) {
        if let Some(file) = &self.file {
            line(&serde_json::json!({
                "event": event, "stage": file.verb(), "file": file.name,
                "done": file.done, "total": file.total, "unit": "bytes",
            }));
        }
    }
}

impl TransferProgress for Watcher {
    fn begin(&mut self, work: Work, file: &str, done: u64, total: Option<u64>) {
        let name = file.to_owned();
        let file = self.file.insert(File { work, name, done, total, told: Instant::now() });
        match &self.display {
            Display::Bar(bar) => {
                let template = if total.is_some() {
                    "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {eta}"
                } else {
                    "{msg} {spinner} {decimal_bytes} {decimal_bytes_per_sec}"
                };
                let style = ProgressStyle::with_template(template)
                    .expect("the template is a constant that parses");
                bar.set_style(style);
                bar.set_message(format!("{:>8} {}", file.verb(), file.name));
                bar.reset();
                match total {
                    Some(total) => bar.set_length(total),
                    None => bar.unset_length(),
                }
                bar.set_position(done);
                bar.reset_eta();
            }
            Display::Json => self.tell("stage"),
            Display::Percent | Display::Nothing => {}
        }
    }

    fn advance(&mut self, bytes: u64) {
        let Some(file) = &mut self.file else { return };
        let before = file.percent();
        file.done += bytes;
        match &self.display {
            Display::Bar(bar) => bar.inc(bytes),
            Display::Percent if file.work == Work::Download && file.percent() != before => {
                let total = units::bytes(file.total.unwrap_or_default());
                say(&format!("download {} {}% of {total}", file.name, file.percent()));
            }
            Display::Json => {
                if file.told.elapsed() >= JSON_PAUSE || file.total == Some(file.done) {
                    file.told = Instant::now();
                    self.tell("progress");
                }
            }
            Display::Percent | Display::Nothing => {}
        }
    }

    fn note(&mut self, text: &str) {
        match &self.display {
            Display::Json => line(&serde_json::json!({ "event": "note", "text": text })),
            _ if self.quiet => {}
            Display::Bar(bar) => bar.suspend(|| say(text)),
            Display::Percent | Display::Nothing => say(text),
        }
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }
}
