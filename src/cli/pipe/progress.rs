//! Progress of a request as messages.

use std::time::{Duration, Instant};

use cupscale::{
    image::{Buffer, EncodeOptions, Encoder, Format, ImageError, Output},
    pipe::{answer::Answer, request::Id},
    pipeline::{Outline, Preview, Progress, Settings, Stage},
};

use super::{Host, inbox::Stop};
use crate::cli::{
    progress::Timeline,
    request::format_name,
    speeds::{self, SpeedKey},
};

/// Format and JPEG quality of a preview.
const FORMAT: Format = Format::Jpeg;
const QUALITY: u8 = 85;

/// Time between two previews: an editor shows no more, and a small picture has many steps a second.
const PREVIEW_PAUSE: Duration = Duration::from_millis(200);

/// Sends what a job tells.
pub struct Messages<'a> {
    host: &'a Host,
    id: &'a Id,
    stop: &'a Stop,
    timeline: Timeline,
    speed: SpeedKey,
    wants_preview: bool,
    shown: Option<Instant>,
}

impl<'a> Messages<'a> {
    pub fn new(
        host: &'a Host,
        (id, stop): (&'a Id, &'a Stop),
        settings: &Settings,
        wants_preview: bool,
    ) -> Self {
        let speed = SpeedKey::new(&host.engine, settings);
        Self { host, id, stop, timeline: Timeline::new(), speed, wants_preview, shown: None }
    }

    /// The job has ended well: its speed is remembered.
    pub fn ended(&mut self) {
        self.timeline.end();
        speeds::remember(&self.speed, &self.timeline);
    }

    fn tell(&self) {
        let Some((stage, done, total)) = self.timeline.stage() else { return };
        let (id, unit) = (self.id, stage.unit());
        let eta_s = self.timeline.left().map(|left| left.as_secs_f64());
        let stage = stage_name(stage);
        self.host.outbox.send(&Answer::Progress { id, stage: &stage, done, total, unit, eta_s });
    }

    fn show(&self, preview: &Preview<'_>) -> Result<(), ImageError> {
        let &Preview { stage, step, of, width, height, rgb8, .. } = preview;
        let options = EncodeOptions { quality: QUALITY, ..EncodeOptions::default() };
        let buffer = Buffer::default();
        let output = Output::Buffer(buffer.clone());
        let mut writer = Encoder::create(&output, FORMAT, width, height, options)?;
        let rgb: Vec<f32> = rgb8.iter().map(|&value| f32::from(value) / 255.0).collect();
        writer.write_rows(&rgb, None)?;
        writer.finish()?;
        let (id, format, stage, file) =
            (self.id, format_name(FORMAT), stage_name(stage), buffer.take());
        let answer = Answer::Preview { id, stage: &stage, step, of, width, height, format };
        self.host.outbox.send_with(&answer, (&mut file.as_slice(), file.len() as u64));
        Ok(())
    }
}

/// The stage as `--progress json` names it.
fn stage_name(stage: Stage) -> String {
    serde_json::to_value(stage)
        .ok()
        .and_then(|name| Some(name.as_str()?.to_owned()))
        .unwrap_or_default()
}

impl Progress for Messages<'_> {
    fn outlined(&mut self, outline: &Outline) {
        let earlier = speeds::expect(&self.speed, outline);
        self.timeline.outline(outline, earlier.map_or([None; 5], |earlier| earlier.stages));
    }

    fn begin(&mut self, stage: Stage, total: usize) {
        self.timeline.begin(stage, total);
        self.tell();
    }

    fn resumed(&mut self, count: usize) {
        self.timeline.resume(count);
    }

    fn advance(&mut self, count: usize) {
        self.timeline.advance(count);
        self.tell();
    }

    fn note(&mut self, text: &str) {
        self.host.outbox.send(&Answer::Note { id: self.id, text });
    }

    fn wants_preview(&self) -> bool {
        self.wants_preview
    }

    fn preview(&mut self, preview: &Preview<'_>) {
        if self.shown.is_some_and(|shown| shown.elapsed() < PREVIEW_PAUSE) {
            return;
        }
        if let Err(error) = self.show(preview) {
            // The job is worth more than its preview.
            self.wants_preview = false;
            self.note(&format!("no more previews: {error}"));
        }
        self.shown = Some(Instant::now());
    }

    fn interrupted(&self) -> bool {
        self.stop.is_asked() || self.host.is_over()
    }
}
