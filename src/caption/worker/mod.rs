//! Captions from a separate process: an engine that panics, runs out of memory or hangs costs one caption and not
//! the job, and all of its memory is freed with the process.
//!
//! Every engine uses [`protocol`]. The process starts with the first request. If it dies, the region in progress
//! falls back to the prompt and the next process continues with the others; if it dies with several regions in
//! progress, each of them is tried alone.

mod process;
pub mod protocol;

use std::collections::{BTreeMap, VecDeque};
use std::process::Command;
use std::time::Duration;

use self::process::{NoReply, Worker};
use self::protocol::{LoadOptions, Reply, Request};
use super::key::{GeneratedText, KeyPrefix};
use super::vision::{Answer, Question, VisionEvent, VisionModel};
use super::wording::Stop;
use super::{CaptionError, Pixels};

/// Limit of simultaneous requests, if the worker takes several.
const TOGETHER: usize = 32;

/// Limit of consecutive worker deaths without a caption between them.
const MAX_DEATHS: usize = 3;

/// Reply timeouts of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// While it loads a model.
    pub load: Duration,
    /// While it captions.
    pub caption: Duration,
}

impl Default for Timeouts {
    /// A model of 7 billion weights on a slow disk and CPU stays well below both.
    fn default() -> Self {
        Self { load: Duration::from_secs(3600), caption: Duration::from_secs(900) }
    }
}

/// Starts a worker: the same command every time.
pub type Start = Box<dyn Fn() -> Command>;

/// Settings of a job's worker.
pub struct WorkerOptions<'a> {
    /// Engine name shown to users.
    pub engine: &'static str,
    /// Command that starts a worker.
    pub start: Start,
    /// Model to load.
    pub load: LoadOptions,
    /// Changes with the model.
    pub fingerprint: String,
    /// Reply timeouts.
    pub timeouts: Timeouts,
    /// Cancellation check, polled many times a second.
    pub stop: Stop<'a>,
}

/// A vision model in a separate process.
pub struct WorkerModel<'a> {
    /// dropped before the resources that `options` hold for it
    worker: Option<Worker>,
    options: WorkerOptions<'a>,
    /// whether several pictures may be with the worker at once
    together: bool,
    notes: Vec<String>,
}

/// Reason for which there is no worker, or no answer from it.
enum WorkerFailure {
    Stopped,
    /// in one line
    Because(String),
}

impl From<NoReply> for WorkerFailure {
    fn from(no_reply: NoReply) -> Self {
        match no_reply {
            NoReply::Stopped => Self::Stopped,
            NoReply::Dead(reason) => Self::Because(reason),
        }
    }
}

/// Pictures without an answer, by index.
struct Queue {
    /// in progress together when a worker died: each is sent alone
    suspects: VecDeque<usize>,
    fresh: VecDeque<usize>,
    /// sent to the worker, by number
    asked: BTreeMap<u64, usize>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.suspects.is_empty() && self.fresh.is_empty() && self.asked.is_empty()
    }

    /// The next picture to send, if one may be sent now.
    fn next(&mut self, together: bool) -> Option<usize> {
        let most = if together && self.suspects.is_empty() { TOGETHER } else { 1 };
        if self.asked.len() >= most {
            return None;
        }
        self.suspects.pop_front().or_else(|| self.fresh.pop_front())
    }

    /// Updates the queue after the worker's death; returns the picture that caused it, if that is known.
    fn culprit(&mut self) -> Option<usize> {
        let asked = std::mem::take(&mut self.asked);
        if asked.len() == 1 {
            return asked.into_values().next();
        }
        self.suspects.extend(asked.into_values());
        None
    }

    fn drain(&mut self) -> impl Iterator<Item = usize> + '_ {
        let asked = std::mem::take(&mut self.asked);
        asked.into_values().chain(self.suspects.drain(..)).chain(self.fresh.drain(..))
    }
}

impl<'a> WorkerModel<'a> {
    /// The process starts with the first request, not here.
    #[must_use]
    pub fn new(options: WorkerOptions<'a>) -> Self {
        Self { options, worker: None, together: false, notes: Vec::new() }
    }

    fn error(&self, failure: WorkerFailure) -> CaptionError {
        match failure {
            WorkerFailure::Stopped => CaptionError::Interrupted,
            WorkerFailure::Because(message) => {
                CaptionError::Engine { name: self.options.engine.into(), message }
            }
        }
    }

    /// Starts a worker with its model, unless one runs.
    fn ensure_worker(&mut self) -> Result<(), WorkerFailure> {
        if self.worker.is_some() {
            return Ok(());
        }
        let worker = Worker::start((self.options.start)()).map_err(|error| {
            WorkerFailure::Because(format!("the worker does not start: {error}"))
        })?;
        worker.send(&Request::Load(self.options.load.clone()), &[]);
        self.worker = Some(worker);
        let mut is_trying = false;
        let reason = loop {
            match self.reply(self.options.timeouts.load) {
                Ok(Reply::TryingTogether) => is_trying = true,
                Ok(Reply::Ready { together, note }) => {
                    // The result holds for the next worker as well.
                    self.options.load.try_together &= together;
                    self.together = self.options.load.try_together;
                    self.notes.extend(note);
                    return Ok(());
                }
                Ok(Reply::Refused(reason)) | Err(WorkerFailure::Because(reason)) => break reason,
                Ok(other) => break invalid_reply(&other),
                Err(WorkerFailure::Stopped) => return Err(WorkerFailure::Stopped),
            }
        };
        self.worker = None;
        if !is_trying || !self.options.load.try_together {
            return Err(WorkerFailure::Because(reason));
        }
        self.one_after_the_other(&reason);
        self.ensure_worker()
    }

    fn send(&self, id: u64, instruction: &str, pixels: &Pixels) {
        let request = Request::Describe {
            id,
            instruction: instruction.to_owned(),
            width: pixels.width(),
            height: pixels.height(),
        };
        if let Some(worker) = &self.worker {
            worker.send(&request, pixels.rgb());
        }
    }

    /// The next reply; without one there is no worker any more.
    fn reply(&mut self, timeout: Duration) -> Result<Reply, WorkerFailure> {
        let Some(worker) = &mut self.worker else {
            return Err(WorkerFailure::Because("the worker is not running".to_owned()));
        };
        worker.reply(timeout, &*self.options.stop).map_err(|no_reply| {
            self.worker = None;
            no_reply.into()
        })
    }

    /// Sends pending pictures and returns the next answer.
    fn step(
        &mut self,
        question: &Question<'_>,
        queue: &mut Queue,
    ) -> Result<(usize, Answer), WorkerFailure> {
        self.ensure_worker()?;
        let Question { instruction, pictures } = *question;
        while let Some(index) = queue.next(self.together) {
            match pictures.pixels(index) {
                Ok(pixels) => {
                    let number = pictures.number(index);
                    self.send(number, instruction, &pixels);
                    queue.asked.insert(number, index);
                }
                Err(error) => return Ok((index, Err(error.to_string()))),
            }
        }
        let (id, answer) = match self.reply(self.options.timeouts.caption)? {
            Reply::Text { id, text, ended } => (id, Ok(GeneratedText { text, has_ended: ended })),
            Reply::Failed { id, reason } => (id, Err(reason)),
            other => {
                self.worker = None;
                return Err(WorkerFailure::Because(invalid_reply(&other)));
            }
        };
        if let Some(index) = queue.asked.remove(&id) {
            return Ok((index, answer));
        }
        self.worker = None;
        Err(WorkerFailure::Because(format!(
            "the worker answers for region {id}, which was not asked for"
        )))
    }

    /// Switches to one picture at a time, after several at once ended a worker.
    fn one_after_the_other(&mut self, reason: &str) {
        self.options.load.try_together = false;
        self.notes.push(format!(
            "regions are captioned one after the other: several at once end the worker ({reason})"
        ));
    }
}

fn invalid_reply(reply: &Reply) -> String {
    format!("the worker talks nonsense: {reply:?}")
}

impl VisionModel for WorkerModel<'_> {
    fn key_prefix(&self, instruction: &str) -> KeyPrefix {
        let WorkerOptions { engine, fingerprint, load, .. } = &self.options;
        let mut prefix = KeyPrefix::new(engine);
        for part in [fingerprint, instruction, &load.max_new_tokens.to_string()] {
            prefix.add(part);
        }
        prefix
    }

    fn ask(
        &mut self,
        question: &Question<'_>,
        wanted: &[usize],
        on_event: &mut dyn FnMut(VisionEvent),
    ) -> Result<(), CaptionError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut queue = Queue {
            suspects: VecDeque::new(),
            fresh: wanted.iter().copied().collect(),
            asked: BTreeMap::new(),
        };
        // A model that cannot be loaded fails the job, not a picture.
        self.ensure_worker().map_err(|failure| self.error(failure))?;
        let (mut done, mut deaths) = (0, 0);
        while !queue.is_empty() {
            match self.step(question, &mut queue) {
                Ok((index, answer)) => {
                    if answer.is_ok() {
                        deaths = 0;
                    }
                    on_event(VisionEvent::Answer(index, answer));
                    done += 1;
                }
                Err(WorkerFailure::Stopped) => return Err(CaptionError::Interrupted),
                Err(WorkerFailure::Because(reason)) => {
                    deaths += 1;
                    if queue.asked.len() > 1 {
                        self.one_after_the_other(&reason);
                    }
                    if let Some(index) = queue.culprit() {
                        on_event(VisionEvent::Answer(index, Err(reason.clone())));
                        done += 1;
                    }
                    if deaths == MAX_DEATHS {
                        self.notes.push(format!(
                            "the captioner was given up after {deaths} deaths of its worker in a row \
                             ({reason})"
                        ));
                        for index in queue.drain() {
                            on_event(VisionEvent::Answer(index, Err(reason.clone())));
                        }
                        done = wanted.len();
                    }
                }
            }
            on_event(VisionEvent::Done(done));
        }
        Ok(())
    }

    fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Afterwards the worker has ended, and its memory is free.
    fn end(&mut self) {
        self.worker = None;
    }
}
