//! Progress of downloads, checks and quantizing: bytes and speed of one file at a time.

use std::time::{Duration, Instant};

use cupscale::{
    units,
    weights::hub::{TransferProgress, TransferWork},
};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Display, Reporter,
    event::{At, Event, OfFile, Transfer},
};
use crate::cli::print::{line, say};

/// Minimum interval between JSON lines about one file.
const JSON_PAUSE: Duration = Duration::from_millis(250);

const UNIT: &str = "bytes";

/// The file in transfer.
pub struct CurrentTransfer {
    work: Transfer,
    name: String,
    done: u64,
    total: Option<u64>,
    told: Instant,
}

impl CurrentTransfer {
    /// Percent done, in tens; 0 where the total is not known.
    fn percent(&self) -> u64 {
        self.total.map_or(0, |total| 10 * self.done / total.max(1) * 10)
    }

    /// The file in one line.
    fn line(&self) -> String {
        let (verb, name) = (self.work.verb(), &self.name);
        match self.total {
            Some(total) => format!("{verb} {name} {}% of {}", self.percent(), units::bytes(total)),
            None => format!("{verb} {name} {}", units::bytes(self.done)),
        }
    }

    fn event(&self) -> Event<'_> {
        Event::Progress {
            stage: At::Model(self.work),
            file: Some(OfFile { file: &self.name }),
            done: self.done,
            total: self.total,
            unit: Some(UNIT),
            time: None,
        }
    }
}

impl Reporter {
    /// Begins or restarts a file: `done` of `total` bytes are already transferred.
    pub fn begin_bytes(&mut self, work: Transfer, name: &str, done: u64, total: Option<u64>) {
        if let Display::Bar(bar) = &self.display {
            show(&bar.bar, work, name, done, total);
        }
        self.emit(|| Event::Stage {
            stage: At::Model(work),
            file: Some(OfFile { file: name }),
            done: Some(done),
            total,
            unit: UNIT,
        });
        let name = name.to_owned();
        self.transfer = Some(CurrentTransfer { work, name, done, total, told: Instant::now() });
    }

    /// Adds `bytes` to those already transferred.
    pub fn advance_bytes(&mut self, bytes: u64) {
        let Some(file) = &mut self.transfer else { return };
        let before = file.percent();
        file.done += bytes;
        match &self.display {
            Display::Bar(bar) => bar.bar.inc(bytes),
            Display::Percent if file.work != Transfer::Check && file.percent() != before => {
                say(&file.line());
            }
            Display::Seldom(pause) if pause.is_over() => say(&file.line()),
            Display::Percent | Display::Seldom(_) | Display::Json | Display::Nothing => {}
        }
        if file.told.elapsed() >= JSON_PAUSE || file.total == Some(file.done) {
            file.told = Instant::now();
            if let Some(file) = &self.transfer {
                self.emit(|| file.event());
            }
        }
    }

    /// Bytes already transferred of the current file.
    pub fn bytes_done(&self) -> u64 {
        self.transfer.as_ref().map_or(0, |file| file.done)
    }
}

/// The bar of a file.
fn show(bar: &ProgressBar, work: Transfer, name: &str, done: u64, total: Option<u64>) {
    let template = if total.is_some() {
        "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta}"
    } else {
        "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}"
    };
    let style =
        ProgressStyle::with_template(template).expect("the template is a constant that parses");
    bar.set_style(style);
    bar.set_message(format!("{:>8} {}", work.verb(), line(name)));
    bar.reset();
    match total {
        Some(total) => bar.set_length(total),
        None => bar.unset_length(),
    }
    bar.set_position(done);
    bar.reset_eta();
}

impl TransferProgress for Reporter {
    fn begin(&mut self, work: TransferWork, file: &str, done: u64, total: Option<u64>) {
        let work = match work {
            TransferWork::Download => Transfer::Download,
            TransferWork::Check => Transfer::Check,
        };
        self.begin_bytes(work, file, done, total);
    }

    fn advance(&mut self, bytes: u64) {
        self.advance_bytes(bytes);
    }

    fn note(&mut self, text: &str) {
        self.tell(text);
    }

    fn interrupted(&self) -> bool {
        self.is_interrupted()
    }
}
