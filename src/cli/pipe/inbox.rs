//! What comes: requests, read on a thread of their own, so that a cancel reaches the request that runs. A bounded number
//! of requests, of a bounded size together, waits for its turn.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use cupscale::{
    pipe::{
        answer::{Answer, Kind},
        frame::{read_head, read_payload, skip_payload},
        request::{Id, MaskPart, OutputForm, PlanInput, RawInput, Request},
    },
    pipeline::Error,
};
use serde_json::{Map, Value};

use super::outbox::Outbox;
use crate::cli::error::CliError;

/// Requests that may wait behind the one that runs.
pub const WAITING: usize = 8;
/// Bytes of the payloads that may wait together.
pub const WAITING_BYTES: u64 = 1 << 30;

/// Interval at which is looked whether the conversation is over.
const POLL: Duration = Duration::from_millis(50);

/// Set once a request is to end.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn ask(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A request in its turn.
pub enum Work {
    Upscale(Upscale),
    Plan(Plan),
}

pub struct Upscale {
    pub id: Id,
    pub settings: Map<String, Value>,
    pub input: Option<RawInput>,
    pub mask: Option<MaskPart>,
    pub output: OutputForm,
    pub preview: bool,
    pub payload: Vec<u8>,
    pub stop: Stop,
}

pub struct Plan {
    pub id: Id,
    pub settings: Map<String, Value>,
    pub input: PlanInput,
    stop: Stop,
}

impl Work {
    pub fn id(&self) -> &Id {
        match self {
            Self::Upscale(work) => &work.id,
            Self::Plan(plan) => &plan.id,
        }
    }

    /// The wish that it ends.
    pub fn stop(&self) -> Stop {
        match self {
            Self::Upscale(work) => work.stop.clone(),
            Self::Plan(plan) => plan.stop.clone(),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Upscale(work) => work.payload.len() as u64,
            Self::Plan(_) => 0,
        }
    }
}

/// What is to be done next.
pub enum Next {
    Work(Work),
    /// There is nothing left to do, and nothing comes any more; with the reason if that is an error.
    End(Option<String>),
    /// The conversation is over, whatever waits.
    Over,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    running: Option<(Id, Stop)>,
    /// The input has ended, with the reason if that is an error.
    ended: Option<Option<String>>,
}

/// Requests in their order.
pub struct Inbox {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when there is something to do, or the input has ended.
    changed: Condvar,
    outbox: Arc<Outbox>,
}

impl Inbox {
    /// An empty one; refusals leave through `outbox`.
    pub fn new(outbox: Arc<Outbox>) -> Self {
        Self {
            shared: Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), outbox }),
        }
    }

    /// Begins to read standard input.
    ///
    /// # Errors
    /// No thread.
    pub fn start(&self) -> Result<(), CliError> {
        let reader = Arc::clone(&self.shared);
        let read = move || {
            let ended = reader.read(&mut io::stdin().lock()).err().map(|error| error.to_string());
            reader.lock().ended = Some(ended);
            reader.changed.notify_all();
        };
        let thread = thread::Builder::new().name("requests".to_owned()).spawn(read);
        thread.map_err(|source| Error::Thread { source })?;
        Ok(())
    }

    /// The running request is about to be answered for the last time: its id may be used again then.
    pub fn end_running(&self) {
        self.shared.lock().running = None;
    }

    /// Waits for what is to be done next, unless `is_over`.
    pub fn next(&self, is_over: &dyn Fn() -> bool) -> Next {
        let mut state = self.shared.lock();
        loop {
            if is_over() {
                return Next::Over;
            }
            if let Some(work) = state.waiting.pop_front() {
                state.running = Some((work.id().clone(), work.stop()));
                return Next::Work(work);
            }
            if let Some(reason) = state.ended.take() {
                return Next::End(reason);
            }
            let waited = self.shared.changed.wait_timeout(state, POLL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes requests until the input ends or a request says so.
    fn read(&self, input: &mut impl Read) -> io::Result<()> {
        while let Some(head) = read_head(input)? {
            let request = match Request::parse(&head.header) {
                Ok(request) => request,
                Err((id, reason)) => {
                    skip_payload(input, head.payload)?;
                    self.refuse(id.as_ref(), Kind::Request, &reason);
                    continue;
                }
            };
            let stop = Stop::default();
            match request {
                Request::Upscale { id, settings, input: raw, mask, output, preview } => {
                    if let Err((kind, reason)) = self.has_room(&id, head.payload) {
                        skip_payload(input, head.payload)?;
                        self.refuse(Some(&id), kind, &reason);
                        continue;
                    }
                    let payload = read_payload(input, head.payload)?;
                    let input = raw;
                    self.accept(Work::Upscale(Upscale {
                        id,
                        settings,
                        input,
                        mask,
                        output,
                        preview,
                        payload,
                        stop,
                    }));
                    continue;
                }
                Request::Plan { id, settings, input } => match self.has_room(&id, 0) {
                    Ok(()) => self.accept(Work::Plan(Plan { id, settings, input, stop })),
                    Err((kind, reason)) => self.refuse(Some(&id), kind, &reason),
                },
                Request::Cancel { id } => self.cancel(&id),
                Request::Ping { id } => self.outbox.send(&Answer::Pong { id: id.as_ref() }),
                Request::Shutdown {} => {
                    self.cancel_all();
                    return Ok(());
                }
            }
            skip_payload(input, head.payload)?;
        }
        Ok(())
    }

    /// Checks that a request of this name, with so many bytes, can wait.
    fn has_room(&self, id: &Id, bytes: u64) -> Result<(), (Kind, String)> {
        let state = self.lock();
        let running = state.running.iter().map(|(id, _)| id);
        if state.waiting.iter().map(Work::id).chain(running).any(|other| other == id) {
            return Err((Kind::Request, "a request with this id is not answered yet".to_owned()));
        }
        if state.waiting.len() >= WAITING {
            return Err((Kind::Busy, format!("{WAITING} requests are waiting")));
        }
        if state.waiting.iter().map(Work::bytes).sum::<u64>() + bytes > WAITING_BYTES {
            return Err((Kind::Busy, format!("{WAITING_BYTES} bytes may wait")));
        }
        Ok(())
    }

    /// Puts a request behind the others. Its answer leaves before anything else about it.
    fn accept(&self, work: Work) {
        let mut state = self.lock();
        let waiting = state.waiting.len() + usize::from(state.running.is_some());
        self.outbox.send(&Answer::Accepted { id: work.id(), waiting });
        state.waiting.push_back(work);
        self.changed.notify_all();
    }

    fn refuse(&self, id: Option<&Id>, kind: Kind, reason: &str) {
        self.outbox.send(&Answer::Error { id, kind, message: reason });
    }

    fn cancel(&self, id: &Id) {
        let mut state = self.lock();
        if let Some(place) = state.waiting.iter().position(|work| work.id() == id) {
            state.waiting.remove(place);
            self.outbox.send(&Answer::Cancelled { id });
            return;
        }
        match &state.running {
            // Whoever runs it answers.
            Some((running, stop)) if running == id => stop.ask(),
            _ => self.refuse(Some(id), Kind::Request, "no request with this id waits or runs"),
        }
    }

    fn cancel_all(&self) {
        let mut state = self.lock();
        for work in state.waiting.drain(..) {
            self.outbox.send(&Answer::Cancelled { id: work.id() });
        }
        if let Some((_, stop)) = &state.running {
            stop.ask();
        }
    }
}
