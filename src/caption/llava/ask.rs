//! Inference on threads of its own, one for each device, so that the caller can cancel at any time: loading seven billion
//! weights, or prefilling four prompts on a CPU, takes minutes without a cancellation check.

use std::ops::ControlFlow;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc::{self, Receiver, RecvTimeoutError, Sender},
};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::batches::PictureBatch;
use super::error::{engine, failed, one_line};
use crate::caption::CaptionError;
use crate::caption::key::GeneratedText;
use crate::caption::vision::Answer;
use crate::caption::wording::CaptionLength;
use crate::model::llava::{GenerateOptions, GenerationStep, Llava, LlavaError, Prompt, Row};

/// Loads the model, or gives out the loaded one.
pub type LoadFn = Arc<dyn Fn() -> Result<Arc<Llava>, CaptionError> + Send + Sync>;

/// Interval at which `stop` is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Grace period for the threads after a stop. Most steps are shorter, so that they end cleanly.
const GRACE: Duration = Duration::from_millis(400);

/// Pictures of one size, and the question about them.
struct BatchRequest {
    load: LoadFn,
    instruction: String,
    rows: Vec<Row<'static>>,
    options: GenerateOptions,
}

/// Progress and result sent by a thread.
enum ThreadEvent {
    /// Number of texts that have ended.
    Ended(usize),
    Done(Result<Vec<Answer>, CaptionError>),
}

/// A batch that a device is at work on.
struct UnderWay {
    /// Indices of its pictures.
    indices: Vec<usize>,
    /// Texts of it that have ended.
    ended: usize,
    thread: JoinHandle<()>,
}

/// Indices of a batch's pictures, and the answer about each.
pub(super) type Answered = (Vec<usize>, Vec<Answer>);

/// Devices that answer one question, each about one batch of pictures at a time.
pub(super) struct Answering<'a> {
    loads: &'a [LoadFn],
    instruction: &'a str,
    options: GenerateOptions,
    /// For each device.
    under_way: Vec<Option<UnderWay>>,
    /// Events by the device's number.
    sender: Sender<(usize, ThreadEvent)>,
    events: Receiver<(usize, ThreadEvent)>,
    /// Tells all threads to end.
    halt: Arc<AtomicBool>,
}

impl<'a> Answering<'a> {
    /// The devices on which `loads` load the model.
    pub(super) fn new(loads: &'a [LoadFn], instruction: &'a str, options: GenerateOptions) -> Self {
        let (sender, events) = mpsc::channel();
        let under_way = loads.iter().map(|_| None).collect();
        let halt = Arc::default();
        Self { loads, instruction, options, under_way, sender, events, halt }
    }

    /// True if a device has nothing to do.
    pub(super) fn has_free(&self) -> bool {
        self.under_way.iter().any(Option::is_none)
    }

    /// Texts that have ended of the batches under way.
    pub(super) fn ended(&self) -> usize {
        self.under_way.iter().flatten().map(|batch| batch.ended).sum()
    }

    /// Gives a batch to a device that has nothing to do.
    ///
    /// # Errors
    /// A thread that cannot be started, or no such device.
    pub(super) fn begin(
        &mut self,
        PictureBatch { rows, indices }: PictureBatch,
    ) -> Result<(), CaptionError> {
        let free = self.under_way.iter_mut().enumerate().find(|(_, batch)| batch.is_none());
        let Some((device, place)) = free else { return Err(failed("no device is free")) };
        let request = BatchRequest {
            load: self.loads[device].clone(),
            instruction: self.instruction.to_owned(),
            rows,
            options: self.options,
        };
        let (sender, halted) = (self.sender.clone(), Arc::clone(&self.halt));
        let asking = move || {
            let result = answer(&request, &mut |ended| {
                // Nobody listens any more only if nobody wants more.
                let is_heard = sender.send((device, ThreadEvent::Ended(ended))).is_ok();
                if is_heard && !halted.load(Ordering::Relaxed) {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            // What the model was asked with goes before anybody goes on.
            drop(request);
            let _ = sender.send((device, ThreadEvent::Done(result)));
        };
        let thread = thread::Builder::new().name("captions".to_owned()).spawn(asking);
        let thread = thread.map_err(|error| failed(&error.to_string()))?;
        *place = Some(UnderWay { indices, ended: 0, thread });
        Ok(())
    }

    /// Waits for a batch, and gives the indices of its pictures and the model's answers; `on_ended` is called when the
    /// number of ended texts changes. `None` if no batch is under way.
    ///
    /// If `stop` returns `true`, or a device fails, this returns within half a second, and the threads end after their
    /// current step.
    ///
    /// # Errors
    /// [`CaptionError::Interrupted`], or whatever keeps the model from working at all.
    pub(super) fn wait(
        &mut self,
        stop: &dyn Fn() -> bool,
        on_ended: &mut dyn FnMut(&Self),
    ) -> Result<Option<Answered>, CaptionError> {
        while self.under_way.iter().any(Option::is_some) {
            if stop() {
                self.stop();
                return Err(CaptionError::Interrupted);
            }
            let is_over = self.under_way.iter().flatten().any(|batch| batch.thread.is_finished());
            match self.events.recv_timeout(POLL_INTERVAL) {
                Ok((device, ThreadEvent::Ended(count))) => {
                    if let Some(batch) = &mut self.under_way[device] {
                        batch.ended = count;
                    }
                    on_ended(self);
                }
                Ok((device, ThreadEvent::Done(result))) => {
                    let Some(batch) = self.under_way[device].take() else { continue };
                    let _ = batch.thread.join();
                    return match result {
                        Ok(answers) => Ok(Some((batch.indices, answers))),
                        Err(error) => {
                            self.stop();
                            Err(error)
                        }
                    };
                }
                // A thread was over before, and has sent no answer.
                Err(RecvTimeoutError::Timeout) if is_over => {
                    self.stop();
                    return Err(failed("the model's thread broke off"));
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        Ok(None)
    }

    /// Tells all threads to end, and gives them a moment to do so.
    fn stop(&mut self) {
        self.halt.store(true, Ordering::Relaxed);
        let until = Instant::now() + GRACE;
        let is_at_work =
            |batch: &Option<UnderWay>| batch.as_ref().is_some_and(|it| !it.thread.is_finished());
        while self.under_way.iter().any(is_at_work) && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            let _ = self.events.recv_timeout(left.min(POLL_INTERVAL));
        }
    }
}

fn answer(
    request: &BatchRequest,
    on_ended: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Answer>, CaptionError> {
    let BatchRequest { load, instruction, rows, options } = request;
    let model = load()?;
    let prompt = model.prompt(instruction).map_err(engine)?;
    // Behind a long question an answer may have to end sooner, but not sooner than the shortest that are asked for.
    let room = rows.first().map_or(0, |row| model.room(&prompt, row.picture.size()));
    let most = options.max_new_tokens.min(room.max(CaptionLength::default().most()));
    let options = &GenerateOptions { max_new_tokens: most, ..*options };
    match generate(&model, &prompt, rows, options, on_ended) {
        Ok(texts) => {
            let said = |tokens: Vec<u32>| -> Answer {
                let text = model.decode(&tokens).map_err(|error| one_line(&error))?;
                Ok(GeneratedText { text, has_ended: tokens.len() < options.max_new_tokens })
            };
            Ok(texts.into_iter().map(said).collect())
        }
        Err(LlavaError::Interrupted) => Err(CaptionError::Interrupted),
        Err(error) => {
            let reason = one_line(&error);
            Ok(rows.iter().map(|_| Err(reason.clone())).collect())
        }
    }
}

/// The tokens of each row. Where the device may be out of memory, half of the rows are tried at a time.
fn generate(
    model: &Llava,
    prompt: &Prompt,
    rows: &[Row<'_>],
    options: &GenerateOptions,
    on_ended: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Vec<u32>>, LlavaError> {
    let mut on_step = |step| match step {
        GenerationStep::Decoded { ended, .. } => on_ended(ended),
        GenerationStep::Prefilled { .. } => on_ended(0),
    };
    match model.generate(prompt, rows, options, &mut on_step) {
        Err(LlavaError::Tensor(_)) if rows.len() > 1 => {
            let (first, second) = rows.split_at(rows.len() / 2);
            let mut texts = generate(model, prompt, first, options, on_ended)?;
            texts.extend(generate(model, prompt, second, options, &mut |ended| {
                on_ended(first.len() + ended)
            })?);
            Ok(texts)
        }
        result => result,
    }
}
