//! Progress of a stream of frames, which has no known end.

use std::time::Duration;

use indicatif::ProgressStyle;

use super::{Display, Reporter, event::Event};
use crate::cli::print::say;

impl Reporter {
    /// Ends a frame, counted from 1, that took this time.
    pub fn end_frame(&self, frame: usize, time: Duration) {
        let line = || {
            let speed = frame as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
            format!("frame {frame}, {speed:.2} a second")
        };
        self.emit(|| Event::Frame { frame, seconds: time.as_secs_f64() });
        match &self.display {
            Display::Bar(bar) => {
                if frame == 1 {
                    let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
                    bar.bar.set_style(style.expect("the template is a constant that parses"));
                }
                bar.bar.set_message(line());
                bar.bar.tick();
            }
            Display::Percent if frame.is_power_of_two() => say(&line()),
            Display::Seldom(pause) if pause.is_over() => say(&line()),
            Display::Percent | Display::Seldom(_) | Display::Json | Display::Nothing => {}
        }
    }
}
