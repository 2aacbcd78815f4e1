//! Inference on a thread of its own, so that the caller can cancel at any time: loading seven billion weights, or
//! prefilling four prompts on a CPU, takes minutes without a cancellation check.

use std::ops::ControlFlow;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc::{self, RecvTimeoutError},
};
use std::thread;
use std::time::{Duration, Instant};

use super::{LoadFn, NAME, engine, one_line};
use crate::caption::CaptionError;
use crate::caption::key::GeneratedText;
use crate::caption::vision::Answer;
use crate::model::llava::{GenerateOptions, GenerationStep, Llava, LlavaError, Prompt, Row};

/// Interval at which `stop` is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Grace period for the thread after a stop. Most steps are shorter, so that it ends cleanly.
const GRACE: Duration = Duration::from_millis(400);

/// Pictures of one size, and the question about them.
pub(super) struct BatchRequest {
    pub load: LoadFn,
    pub instruction: String,
    pub rows: Vec<Row<'static>>,
    pub options: GenerateOptions,
}

/// Progress and result sent by the thread.
enum ThreadEvent {
    /// Number of texts that have ended.
    Ended(usize),
    Done(Result<Vec<Answer>, CaptionError>),
}

/// The model's answer for each row; `on_ended` is told how many there are so far.
///
/// If `stop` returns `true`, this returns within half a second, and the thread ends after its current step.
///
/// # Errors
/// [`CaptionError::Interrupted`], or whatever keeps the model from working at all.
pub(super) fn ask(
    request: BatchRequest,
    stop: &dyn Fn() -> bool,
    on_ended: &mut dyn FnMut(usize),
) -> Result<Vec<Answer>, CaptionError> {
    let failed =
        |message: &str| CaptionError::Engine { name: NAME.into(), message: message.to_owned() };
    let (sender, events) = mpsc::channel();
    let halt = Arc::new(AtomicBool::new(false));
    let halted = Arc::clone(&halt);
    let asking = move || {
        let result = answer(&request, &mut |ended| {
            // Nobody listens any more only if nobody wants more.
            let is_heard = sender.send(ThreadEvent::Ended(ended)).is_ok();
            if is_heard && !halted.load(Ordering::Relaxed) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        // What the model was asked with goes before anybody goes on.
        drop(request);
        let _ = sender.send(ThreadEvent::Done(result));
    };
    let thread = thread::Builder::new().name("captions".to_owned()).spawn(asking);
    let thread = thread.map_err(|error| failed(&error.to_string()))?;
    loop {
        if stop() {
            halt.store(true, Ordering::Relaxed);
            let until = Instant::now() + GRACE;
            while let Ok(ThreadEvent::Ended(_)) =
                events.recv_timeout(until.saturating_duration_since(Instant::now()))
            {}
            return Err(CaptionError::Interrupted);
        }
        match events.recv_timeout(POLL_INTERVAL) {
            Ok(ThreadEvent::Ended(count)) => on_ended(count),
            Ok(ThreadEvent::Done(result)) => {
                let _ = thread.join();
                return result;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(failed("the model's thread broke off"));
            }
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
