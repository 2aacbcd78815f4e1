//! Progress of a request as messages.

use cupscale::{
    pipe::{answer::Answer, request::Id},
    pipeline::{Progress, Stage},
};

use super::{Host, inbox::Stop};

/// Sends what a job tells.
pub struct Messages<'a> {
    pub host: &'a Host,
    pub id: &'a Id,
    pub stop: &'a Stop,
    /// The stage, with what is done of it, and its total.
    pub at: Option<(Stage, usize, usize)>,
}

impl<'a> Messages<'a> {
    pub fn new(host: &'a Host, id: &'a Id, stop: &'a Stop) -> Self {
        Self { host, id, stop, at: None }
    }

    fn tell(&self) {
        let Some((stage, done, total)) = self.at else { return };
        let name = serde_json::to_value(stage).unwrap_or_default();
        let (stage, unit) = (name.as_str().unwrap_or_default(), stage.unit());
        self.host.outbox.send(&Answer::Progress { id: self.id, stage, done, total, unit });
    }
}

impl Progress for Messages<'_> {
    fn begin(&mut self, stage: Stage, total: usize) {
        self.at = Some((stage, 0, total));
        self.tell();
    }

    fn advance(&mut self, count: usize) {
        if let Some((_, done, _)) = &mut self.at {
            *done += count;
        }
        if count > 0 {
            self.tell();
        }
    }

    fn note(&mut self, text: &str) {
        self.host.outbox.send(&Answer::Note { id: self.id, text });
    }

    fn interrupted(&self) -> bool {
        self.stop.is_asked() || self.host.is_over()
    }
}
