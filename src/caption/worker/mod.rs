//! Captions from a process of its own: an engine that may panic, run out of memory or hang costs one caption
//! there and not the job, and with the process goes all of its memory.
//!
//! Whatever engine it is, the process speaks [`protocol`]. It is started when the first picture is to be
//! captioned of which the cache knows nothing. Where it dies, the region that it was at falls back to the
//! prompt and the next process goes on with the others; a process that died of several regions at once leaves
//! each to be tried alone.

mod process;
pub mod protocol;

use std::collections::{BTreeSet, VecDeque};
use std::process::Command;
use std::time::Duration;

use self::process::{Silence, Worker};
use self::protocol::{Load, Reply, Request};
use super::cache::{CacheKey, CaptionCache, Said, Subject};
use super::wording::{Fits, Stop, cut_to_fit, instruction};
use super::{CaptionContext, CaptionError, Captioner, Captions, Pixels, Progress, RegionSource};

/// Pictures that are with the worker at once, where it takes several.
const TOGETHER: usize = 32;

/// Workers that may die in a row without one caption between them.
const MAX_DEATHS: usize = 3;

/// How long a worker may say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// While it loads a model.
    pub load: Duration,
    /// While it captions.
    pub caption: Duration,
}

impl Default for Patience {
    /// A model of 7 billion weights on a slow disk and CPU stays well below both.
    fn default() -> Self {
        Self { load: Duration::from_secs(3600), caption: Duration::from_secs(900) }
    }
}

/// Starts a worker: the same command every time.
pub type Start = Box<dyn Fn() -> Command>;

/// How a job uses its worker.
pub struct WorkerOptions<'a> {
    /// What users call the engine.
    pub engine: &'static str,
    /// What users call the model.
    pub model: String,
    /// How a worker is started.
    pub start: Start,
    /// What it loads.
    pub load: Load,
    /// Changes with the model.
    pub fingerprint: String,
    /// Looked into first; what the model says is kept there.
    pub cache: CaptionCache,
    /// How long it may say nothing.
    pub patience: Patience,
    /// Whether a caption fits the text encoders.
    pub fits: Fits<'a>,
    /// Whether to stop; asked many times a second.
    pub stop: Stop<'a>,
}

/// The captioner.
pub struct WorkerCaptioner<'a> {
    /// ends before whatever `options` hold for it
    worker: Option<Worker>,
    options: WorkerOptions<'a>,
    /// what the model was told last
    instruction: String,
    /// whether several pictures may be with the worker at once
    together: bool,
    notes: Vec<String>,
}

/// Why there is no worker, or no answer from it.
enum Failure {
    Stopped,
    /// in one line
    Because(String),
}

impl From<Silence> for Failure {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Stopped => Self::Stopped,
            Silence::Dead(reason) => Self::Because(reason),
        }
    }
}

/// What a model said, or why it said nothing.
type Answer = Result<Said, String>;

/// Regions without an answer.
struct Queue {
    /// one of several of which a worker died: each goes alone
    suspects: VecDeque<usize>,
    fresh: VecDeque<usize>,
    /// with the worker now
    asked: BTreeSet<usize>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.suspects.is_empty() && self.fresh.is_empty() && self.asked.is_empty()
    }

    /// The next region to send, if one may be sent now.
    fn next(&mut self, together: bool) -> Option<usize> {
        let most = if together && self.suspects.is_empty() { TOGETHER } else { 1 };
        if self.asked.len() >= most {
            return None;
        }
        self.suspects.pop_front().or_else(|| self.fresh.pop_front())
    }

    /// The worker died. The region that it died of is returned, if that is known.
    fn culprit(&mut self) -> Option<usize> {
        let asked = std::mem::take(&mut self.asked);
        if asked.len() == 1 {
            return asked.first().copied();
        }
        self.suspects.extend(asked);
        None
    }

    fn drain(&mut self) -> impl Iterator<Item = usize> + '_ {
        let asked = std::mem::take(&mut self.asked);
        asked.into_iter().chain(self.suspects.drain(..)).chain(self.fresh.drain(..))
    }
}

impl<'a> WorkerCaptioner<'a> {
    /// Nothing is started yet.
    #[must_use]
    pub fn new(options: WorkerOptions<'a>) -> Self {
        Self {
            options,
            instruction: instruction(""),
            worker: None,
            together: false,
            notes: Vec::new(),
        }
    }

    /// A caption of a whole picture, for jobs without a prompt. The worker stays for the regions.
    ///
    /// # Errors
    /// [`CaptionError::Interrupted`], or whatever keeps the model from working.
    pub fn describe(&mut self, pixels: &Pixels) -> Result<String, CaptionError> {
        self.instruction = instruction("");
        let key = self.subject().key(pixels, None);
        let said = match self.options.cache.get(&key) {
            Some(said) => Ok(said),
            None => self.try_describe(pixels).inspect(|said| {
                self.options.cache.put(&key, said);
                self.options.cache.prune();
            }),
        };
        said.and_then(|said| self.caption_of(Ok(said)).map_err(Failure::Because))
            .map_err(|failure| self.error(failure))
    }

    /// What all questions about regions have in common.
    fn subject(&self) -> Subject {
        let WorkerOptions { engine, fingerprint, load, .. } = &self.options;
        let mut subject = Subject::new(engine);
        for part in [fingerprint, &self.instruction, &load.max_new_tokens.to_string()] {
            subject.add(part);
        }
        subject
    }

    fn try_describe(&mut self, pixels: &Pixels) -> Result<Said, Failure> {
        self.ensure_worker()?;
        self.send(u64::MAX, pixels);
        match self.reply(self.options.patience.caption)? {
            Reply::Text { text, ended, .. } => Ok(Said { text, has_ended: ended }),
            Reply::Failed { reason, .. } => Err(Failure::Because(reason)),
            other => Err(Failure::Because(nonsense(&other))),
        }
    }

    fn error(&self, failure: Failure) -> CaptionError {
        match failure {
            Failure::Stopped => CaptionError::Interrupted,
            Failure::Because(message) => {
                CaptionError::Engine { name: self.options.engine.into(), message }
            }
        }
    }

    /// Starts a worker with its model, unless one runs.
    fn ensure_worker(&mut self) -> Result<(), Failure> {
        if self.worker.is_some() {
            return Ok(());
        }
        let worker = Worker::start((self.options.start)())
            .map_err(|error| Failure::Because(format!("the worker does not start: {error}")))?;
        worker.send(&Request::Load(self.options.load.clone()), &[]);
        self.worker = Some(worker);
        let mut is_trying = false;
        let reason = loop {
            match self.reply(self.options.patience.load) {
                Ok(Reply::TryingTogether) => is_trying = true,
                Ok(Reply::Ready { together, note }) => {
                    // What was found out holds for the next worker as well.
                    self.options.load.try_together &= together;
                    self.together = self.options.load.try_together;
                    self.notes.extend(note);
                    return Ok(());
                }
                Ok(Reply::Refused(reason)) | Err(Failure::Because(reason)) => break reason,
                Ok(other) => break nonsense(&other),
                Err(Failure::Stopped) => return Err(Failure::Stopped),
            }
        };
        self.worker = None;
        if !is_trying || !self.options.load.try_together {
            return Err(Failure::Because(reason));
        }
        self.one_after_the_other(&reason);
        self.ensure_worker()
    }

    fn send(&self, id: u64, pixels: &Pixels) {
        let request = Request::Describe {
            id,
            instruction: self.instruction.clone(),
            width: pixels.width(),
            height: pixels.height(),
        };
        if let Some(worker) = &self.worker {
            worker.send(&request, pixels.rgb());
        }
    }

    /// The next reply; without one there is no worker any more.
    fn reply(&mut self, patience: Duration) -> Result<Reply, Failure> {
        let Some(worker) = &mut self.worker else {
            return Err(Failure::Because("the worker is not running".to_owned()));
        };
        worker.reply(patience, &*self.options.stop).map_err(|silence| {
            self.worker = None;
            silence.into()
        })
    }

    fn caption_of(&self, answer: Answer) -> Result<String, String> {
        let said = answer?;
        let caption = cut_to_fit(&said.text, said.has_ended, &self.options.fits);
        if caption.is_empty() { Err("the model said nothing".to_owned()) } else { Ok(caption) }
    }

    /// One more region with its answer.
    fn step(
        &mut self,
        regions: &dyn RegionSource,
        queue: &mut Queue,
    ) -> Result<(usize, Answer), Failure> {
        self.ensure_worker()?;
        while let Some(index) = queue.next(self.together) {
            match regions.pixels(index) {
                Ok(pixels) => {
                    self.send(index as u64, &pixels);
                    queue.asked.insert(index);
                }
                Err(error) => return Ok((index, Err(error.to_string()))),
            }
        }
        let (id, answer) = match self.reply(self.options.patience.caption)? {
            Reply::Text { id, text, ended } => (id, Ok(Said { text, has_ended: ended })),
            Reply::Failed { id, reason } => (id, Err(reason)),
            other => {
                self.worker = None;
                return Err(Failure::Because(nonsense(&other)));
            }
        };
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        if queue.asked.remove(&index) {
            return Ok((index, answer));
        }
        self.worker = None;
        Err(Failure::Because(format!(
            "the worker answers for region {id}, which was not asked for"
        )))
    }

    /// An answer for every region.
    fn answers(
        &mut self,
        regions: &dyn RegionSource,
        progress: Progress<'_>,
    ) -> Result<Vec<Answer>, CaptionError> {
        let total = regions.len();
        if total == 0 {
            return Ok(Vec::new());
        }
        let mut answers: Vec<Option<Answer>> = vec![None; total];
        let mut keys: Vec<Option<CacheKey>> = vec![None; total];
        let subject = self.subject();
        let (mut done, mut deaths) = (0, 0);
        for (index, (answer, key)) in answers.iter_mut().zip(&mut keys).enumerate() {
            if (self.options.stop)() {
                return Err(CaptionError::Interrupted);
            }
            *answer = match regions.pixels(index) {
                Ok(pixels) => {
                    let key = key.insert(subject.key(&pixels, None));
                    self.options.cache.get(key).map(Ok)
                }
                Err(error) => Some(Err(error.to_string())),
            };
            if answer.is_some() {
                done += 1;
                progress(done, total);
            }
        }
        let unknown = (0..total).filter(|&index| answers[index].is_none());
        let mut queue =
            Queue { suspects: VecDeque::new(), fresh: unknown.collect(), asked: BTreeSet::new() };
        if !queue.is_empty() {
            // A model that cannot be loaded at all is no accident of a region.
            self.ensure_worker().map_err(|failure| self.error(failure))?;
        }
        while !queue.is_empty() {
            match self.step(regions, &mut queue) {
                Ok((index, answer)) => {
                    if let (Ok(said), Some(key)) = (&answer, &keys[index]) {
                        deaths = 0;
                        self.options.cache.put(key, said);
                    }
                    answers[index] = Some(answer);
                    done += 1;
                }
                Err(Failure::Stopped) => return Err(CaptionError::Interrupted),
                Err(Failure::Because(reason)) => {
                    deaths += 1;
                    if queue.asked.len() > 1 {
                        self.one_after_the_other(&reason);
                    }
                    if let Some(index) = queue.culprit() {
                        answers[index] = Some(Err(reason.clone()));
                        done += 1;
                    }
                    if deaths == MAX_DEATHS {
                        self.notes.push(format!(
                            "the captioner was given up after {deaths} deaths of its worker in a row \
                             ({reason})"
                        ));
                        for index in queue.drain() {
                            answers[index] = Some(Err(reason.clone()));
                        }
                        done = total;
                    }
                }
            }
            progress(done, total);
        }
        self.options.cache.prune();
        let missing = || Err("it was left out".to_owned());
        Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect())
    }

    /// Several pictures at once were too much for a worker.
    fn one_after_the_other(&mut self, reason: &str) {
        self.options.load.try_together = false;
        self.notes.push(format!(
            "regions are captioned one after the other: several at once end the worker ({reason})"
        ));
    }
}

fn nonsense(reply: &Reply) -> String {
    format!("the worker talks nonsense: {reply:?}")
}

impl Captioner for WorkerCaptioner<'_> {
    fn name(&self) -> &str {
        self.options.engine
    }

    fn model(&self) -> Option<&str> {
        Some(&self.options.model)
    }

    fn instruction(&self) -> Option<&str> {
        Some(&self.instruction)
    }

    /// Afterwards the worker has ended, and its memory is free.
    fn caption(
        &mut self,
        regions: &dyn RegionSource,
        context: &CaptionContext<'_>,
        progress: Progress<'_>,
    ) -> Result<Captions, CaptionError> {
        self.instruction = instruction(context.prompt);
        let answers = self.answers(regions, progress);
        self.worker = None;
        let notes = std::mem::take(&mut self.notes);
        let results = answers?.into_iter().map(|answer| self.caption_of(answer));
        let captions = Captions::from_results(results, regions, context)
            .map_err(|message| self.error(Failure::Because(message)))?;
        Ok(Captions { notes, ..captions })
    }
}
