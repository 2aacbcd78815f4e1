//! Progress of a job, put where those who watch it see it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use cupscale::{
    caption::document::Document,
    image::{Buffer, EncodeOptions, Encoder, Format, ImageError, Output},
    pipeline::{Engine, Outline, Preview, Progress, Settings, Stage},
};

use super::{
    cell::{self, Cell, Stop},
    jobs::Jobs,
    view::ProgressView,
};
use crate::cli::{
    progress::Timeline,
    speeds::{self, SpeedKey},
};

/// JPEG quality of a preview.
const QUALITY: u8 = 85;
/// Time between two previews: nobody sees more, and a small picture has many steps a second.
const PREVIEW_PAUSE: Duration = Duration::from_millis(200);

/// Tells of one job.
pub struct Report<'a> {
    jobs: &'a Jobs,
    cell: &'a Cell,
    folder: &'a Path,
    name: &'a str,
    /// When it has run for too long.
    deadline: Option<Instant>,
    timeline: Timeline,
    speed: SpeedKey,
    has_previews: bool,
    shown: Option<Instant>,
}

impl<'a> Report<'a> {
    /// Tells of the job in `folder`, whose picture has this name.
    pub fn new(
        (jobs, cell): (&'a Jobs, &'a Cell),
        (folder, name): (&'a Path, &'a str),
        (engine, settings): (&Engine, &Settings),
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            jobs,
            cell,
            folder,
            name,
            deadline,
            timeline: Timeline::new(),
            speed: SpeedKey::new(engine, settings),
            has_previews: true,
            shown: None,
        }
    }

    /// The job has ended well: its speed is remembered.
    pub fn ended(&mut self) {
        self.timeline.end();
        speeds::remember(&self.speed, &self.timeline);
    }

    /// How far the job is; `is_new` for a stage that begins.
    fn tell(&self, is_new: bool) {
        let Some((stage, done, total)) = self.timeline.stage() else { return };
        let progress = ProgressView {
            stage: Some(stage.into()),
            done,
            total,
            unit: Some(stage.unit()),
            share: self.timeline.share(),
            eta_s: self.timeline.left().map(|left| left.as_secs_f64()),
        };
        self.cell.change(
            |_, live| live.progress = progress,
            |changes| if is_new { changes.job += 1 } else { changes.progress += 1 },
        );
    }

    fn show(&self, preview: &Preview<'_>) -> Result<(), ImageError> {
        let &Preview { stage, step, of, width, height, rgb8, .. } = preview;
        let options = EncodeOptions { quality: QUALITY, ..EncodeOptions::default() };
        let buffer = Buffer::default();
        let output = Output::Buffer(buffer.clone());
        let mut writer = Encoder::create(&output, Format::Jpeg, width, height, options)?;
        let rgb: Vec<f32> = rgb8.iter().map(|&value| f32::from(value) / 255.0).collect();
        writer.write_rows(&rgb, None)?;
        writer.finish()?;
        let jpeg = buffer.take().into();
        let preview = cell::Preview { jpeg, stage: stage.into(), step, of };
        self.cell.change(|_, live| live.preview = Some(preview), |changes| changes.preview += 1);
        Ok(())
    }
}

impl Progress for Report<'_> {
    fn outlined(&mut self, outline: &Outline) {
        let earlier = speeds::expect(&self.speed, outline);
        self.timeline.outline(outline, earlier.map_or([None; 5], |earlier| earlier.stages));
    }

    fn begin(&mut self, stage: Stage, total: usize) {
        self.timeline.begin(stage, total);
        self.tell(true);
    }

    fn resumed(&mut self, count: usize) {
        self.timeline.resume(count);
        self.tell(false);
    }

    fn advance(&mut self, count: usize) {
        self.timeline.advance(count);
        self.tell(false);
    }

    fn described(&mut self, document: &Document) {
        match self.jobs.store.save_captions(self.cell.id(), &document.to_json()) {
            Ok(()) => self
                .cell
                .change(|_, live| live.has_captions = true, |changes| changes.captions += 1),
            // The job goes on without them.
            Err(error) => self.note(&format!("the captions cannot be kept ({error})")),
        }
    }

    fn note(&mut self, text: &str) {
        self.cell.note(self.jobs.host.words.of_job(text, self.folder, self.name));
    }

    fn wants_preview(&self) -> bool {
        self.has_previews && self.cell.is_watched()
    }

    fn preview(&mut self, preview: &Preview<'_>) {
        if self.shown.is_some_and(|shown| shown.elapsed() < PREVIEW_PAUSE) {
            return;
        }
        if let Err(error) = self.show(preview) {
            // The job is worth more than its preview.
            self.has_previews = false;
            self.note(&format!("no more previews: {error}"));
        }
        self.shown = Some(Instant::now());
    }

    fn interrupted(&self) -> bool {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.cell.ask_to_stop(Stop::TimedOut);
        }
        self.cell.stop().is_some() || self.jobs.is_stopping()
    }
}
