//! The bar of a job: one line for all of it, which fits the terminal, and goes on between two batches.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cupscale::pipeline::Stage;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::timeline::{Timeline, clock};

/// Time between two drawings: the clocks go on, and nothing flickers.
const TICK: Duration = Duration::from_millis(250);

/// Columns of the bar itself.
const LONGEST: usize = 40;
const SHORTEST: usize = 8;

/// Columns where the terminal does not say how wide it is.
const WIDTH: usize = 80;

/// What the bar shows.
#[derive(Default)]
pub struct View {
    pub timeline: Option<Timeline>,
    /// In a folder: `3/12 harbour.jpg`.
    pub file: String,
    /// In a folder: what is left of all pictures, if anything can be said of it yet.
    pub left_of_all: Option<Duration>,
}

/// A bar on standard error.
pub struct JobBar {
    pub bar: ProgressBar,
    view: Arc<Mutex<View>>,
}

impl JobBar {
    /// A bar that shows nothing yet.
    pub fn new() -> Self {
        Self { bar: ProgressBar::no_length(), view: Arc::default() }
    }

    /// Changes what is shown.
    pub fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the bar of a job, if it is not shown already.
    pub fn show(&self) {
        let view = Arc::clone(&self.view);
        let key = move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            let (_, width) = console::Term::stderr().size_checked().unwrap_or((24, WIDTH as u16));
            let view = view.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = out.write_str(&line(&view, usize::from(width)));
        };
        let style = ProgressStyle::with_template("{line}")
            .expect("the template is a constant that parses")
            .with_key("line", key);
        self.bar.set_style(style);
        self.bar.enable_steady_tick(TICK);
    }
}

/// The line of a job on a terminal of this width: as much of it as fits, what matters least left out first.
fn line(view: &View, width: usize) -> String {
    let Some(timeline) = &view.timeline else { return String::new() };
    let share = timeline.share();
    let verb = timeline.stage().map_or("preparing", |(stage, ..)| stage.verb());
    let count = timeline.stage().map_or_else(String::new, |(stage, done, total)| {
        format!("{done}/{total} {}", stage.unit())
    });
    let step = step(timeline);
    let left = timeline.left().map(|left| format!("{} left", clock(left)));
    let all = view.left_of_all.map(|left| format!("all {}", clock(left)));
    let elapsed = clock(timeline.elapsed());
    let percent = format!("{:>3.0} %", 100.0 * share);
    let (file, left, all) = (view.file.as_str(), left.unwrap_or_default(), all.unwrap_or_default());
    // From all to the least, each as what stands before the bar and behind it.
    let layouts: [(&[&str], &[&str]); 6] = [
        (&[file, verb, &count], &[&percent, &elapsed, &left, &all]),
        (&[file, verb, &step], &[&percent, &elapsed, &left, &all]),
        (&[file, verb], &[&percent, &elapsed, &left]),
        (&[file, verb], &[&percent, &left]),
        (&[verb], &[&percent, &left]),
        (&[verb], &[&percent]),
    ];
    let joined = |parts: &[&str]| {
        let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
        parts.join("  ")
    };
    // The last column stays free: some terminals wrap when it is written to.
    let room = width.saturating_sub(1);
    for (before, behind) in layouts {
        let (before, behind) = (joined(before), joined(behind));
        let words = console::measure_text_width(&before) + console::measure_text_width(&behind) + 2;
        if words + SHORTEST <= room {
            let bar = bar(share, (room - words).min(LONGEST));
            return format!("{before} {bar} {behind}");
        }
    }
    console::truncate_str(&format!("{percent} {verb}"), room, "").into_owned()
}

/// The step of the denoising that is under way, `step 2 of 4`, or how much of another stage is done.
fn step(timeline: &Timeline) -> String {
    match (timeline.stage(), timeline.outlined()) {
        (Some((Stage::Denoise, done, total)), Some(outline)) if outline.steps > 1 => {
            let step = (done * outline.steps / total.max(1) + 1).min(outline.steps);
            format!("step {step} of {}", outline.steps)
        }
        (Some((_, done, total)), _) => format!("{done}/{total}"),
        (None, _) => String::new(),
    }
}

/// A bar of so many columns, in half columns.
fn bar(share: f64, columns: usize) -> String {
    let halves = (share * 2.0 * columns as f64).round() as usize;
    let mut bar = String::new();
    for column in 0..columns {
        let _ = bar.write_char(match halves.saturating_sub(2 * column) {
            0 if column > 0 && halves == 2 * column => '╶',
            0 => '─',
            1 => '╾',
            _ => '━',
        });
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::{super::timeline::tests::timeline, *};

    #[test]
    fn the_line_fits_every_terminal_and_says_less_on_a_narrow_one() {
        let expected = [Some(1.0), Some(0.0), Some(10.0), Some(60.0), Some(30.0)];
        let stages = [(Stage::Encode, 10.0, 4, 4), (Stage::Denoise, 30.0, 50, 100)];
        let view = View {
            timeline: Some(timeline(expected, &stages)),
            file: "3/12 東京の夜景.jpg".to_owned(),
            left_of_all: Some(Duration::from_secs(845)),
        };
        for width in 1..200 {
            let line = line(&view, width);
            assert!(console::measure_text_width(&line) < width.max(2), "{width}: {line}");
        }
        let wide = line(&view, 140);
        for part in [
            "3/12 東京の夜景.jpg",
            "repainting",
            "50/100 regions × steps",
            "41 %",
            " left",
            "all 14:05",
        ] {
            assert!(wide.contains(part), "{part} in: {wide}");
        }
        let middle = line(&view, 80);
        assert!(middle.contains("3/12") && middle.contains("left"), "{middle}");
        assert!(line(&view, 40).starts_with("repainting "), "{}", line(&view, 40));
        assert!(line(&view, 16).contains("41 %"), "{}", line(&view, 16));
    }

    #[test]
    fn the_bar_fills_by_half_columns() {
        assert_eq!(bar(0.0, 4), "────");
        assert_eq!(bar(1.0, 4), "━━━━");
        assert_eq!(bar(0.5, 4), "━━╶─");
        assert_eq!(bar(0.375, 4), "━╾──");
    }
}
