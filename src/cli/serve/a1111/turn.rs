//! One call at a time that waits for its jobs: clients of A1111 keep the connection open until the picture is there. While it
//! waits, `/progress` tells how far it is and `/interrupt` ends it; a client that goes away ends its job too.

use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use cupscale::image::settings_in;
use serde_json::{Map, Value};

use super::{
    super::{
        jobs::{Jobs, NewJob},
        view::State,
    },
    Door,
    error::A1111Error,
    picture,
};

/// The calls that wait, the oldest first.
#[derive(Debug, Default)]
pub struct Turns {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    tickets: Vec<Ticket>,
    next: u64,
    /// The last call was interrupted, or skipped a picture, as clients ask after it.
    last: (bool, bool),
}

/// A call that waits.
#[derive(Clone, Debug)]
pub struct Ticket {
    number: u64,
    /// The call, by A1111's name for what it does.
    pub what: &'static str,
    pub begun: SystemTime,
    /// The job that it waits for.
    pub job: Option<String>,
    /// Pictures that are done, of how many.
    pub done: usize,
    pub count: usize,
    pub is_interrupted: bool,
    pub is_skipped: bool,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calls that wait, the oldest first.
    pub fn tickets(&self) -> Vec<Ticket> {
        self.lock().tickets.clone()
    }

    /// Whether the last call was interrupted, and whether it skipped a picture.
    pub fn last(&self) -> (bool, bool) {
        self.lock().last
    }

    /// The call that clients mean when they ask for the one that runs: that whose job runs, else the oldest.
    pub fn current(&self, jobs: &Jobs) -> Option<Ticket> {
        let tickets = self.tickets();
        let running = jobs.running().map(|view| view.id);
        let runs = |ticket: &&Ticket| running.is_some() && ticket.job == running;
        tickets.iter().find(runs).or(tickets.first()).cloned()
    }

    /// Ends the picture that the current call waits for, and if `whole`, the call; `false` if none waits.
    pub fn stop(&self, jobs: &Jobs, whole: bool) -> bool {
        let Some(Ticket { number, .. }) = self.current(jobs) else { return false };
        let job = {
            let mut inner = self.lock();
            let Some(ticket) = inner.tickets.iter_mut().find(|ticket| ticket.number == number)
            else {
                return false;
            };
            ticket.is_interrupted |= whole;
            ticket.is_skipped |= !whole;
            ticket.job.clone()
        };
        job.is_none_or(|job| jobs.cancel(&job).is_some())
    }

    fn change(&self, number: u64, change: impl FnOnce(&mut Ticket)) {
        let mut inner = self.lock();
        if let Some(ticket) = inner.tickets.iter_mut().find(|ticket| ticket.number == number) {
            change(ticket);
        }
    }

    fn is_interrupted(&self, number: u64) -> bool {
        self.lock().tickets.iter().any(|ticket| ticket.number == number && ticket.is_interrupted)
    }
}

/// A call while it waits; dropped, it waits no longer.
pub struct Turn {
    door: Arc<Door>,
    number: u64,
}

/// What became of a picture.
pub enum Outcome {
    Made(Made),
    /// It was skipped, or its job was cancelled by its id.
    Skipped,
    /// The call was interrupted.
    Interrupted,
}

/// A picture that is done.
pub struct Made {
    /// Its file.
    pub base64: String,
    /// The settings that it carries.
    pub settings: Map<String, Value>,
    pub width: u32,
    pub height: u32,
    pub notes: Vec<String>,
}

impl Turn {
    /// Begins a call that makes so many pictures.
    pub fn begin(door: &Arc<Door>, what: &'static str, count: usize) -> Self {
        let mut inner = door.turns.lock();
        let number = inner.next;
        inner.next += 1;
        inner.tickets.push(Ticket {
            number,
            what,
            begun: SystemTime::now(),
            job: None,
            done: 0,
            count,
            is_interrupted: false,
            is_skipped: false,
        });
        drop(inner);
        Self { door: Arc::clone(door), number }
    }

    /// Makes the next picture.
    ///
    /// # Errors
    /// A job that is refused or fails.
    pub async fn make(&mut self, new: NewJob) -> Result<Outcome, A1111Error> {
        let turns = &self.door.turns;
        if turns.is_interrupted(self.number) {
            return Ok(Outcome::Interrupted);
        }
        let (door, number) = (Arc::clone(&self.door), self.number);
        // If the client goes away meanwhile, the guest is dropped where it is made, and its job ends.
        let guest = self.door.blocking(move |_| {
            let guest = door.jobs.submit_guest(new)?;
            door.turns.change(number, |ticket| ticket.job = Some(guest.id().to_owned()));
            // It may have been interrupted before its job was known.
            if door.turns.is_interrupted(number) {
                door.jobs.cancel(guest.id());
            }
            Ok(guest)
        });
        let guest = guest.await?;
        let view = guest.ended().await;
        turns.change(self.number, |ticket| {
            ticket.job = None;
            ticket.done += 1;
        });
        // Whoever has its id may have removed it.
        let Some(view) = view else { return Ok(Outcome::Skipped) };
        match view.state {
            State::Done => {}
            State::Failed => {
                let refusal = view.error.as_ref();
                return Err(refusal.map_or_else(
                    || A1111Error::failed("the job failed"),
                    |refusal| refusal.clone().into(),
                ));
            }
            State::Cancelled if turns.is_interrupted(self.number) => {
                return Ok(Outcome::Interrupted);
            }
            State::Cancelled => return Ok(Outcome::Skipped),
            State::Waiting | State::Running => return Err(A1111Error::stopping()),
        }
        let made = self.door.blocking(move |door| {
            let file = door.jobs.result(guest.id())?;
            let bytes = fs::read(&file.path).map_err(|error| {
                A1111Error::failed(format!("the result cannot be read: {error}"))
            })?;
            let settings = settings_in(&bytes).and_then(|text| serde_json::from_str(&text).ok());
            Ok(Made {
                base64: picture::encode(&bytes),
                settings: settings.unwrap_or_default(),
                width: view.width,
                height: view.height,
                notes: view.notes,
            })
        });
        Ok(Outcome::Made(made.await?))
    }

    /// `true` if the call was interrupted.
    pub fn is_interrupted(&self) -> bool {
        self.door.turns.is_interrupted(self.number)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut inner = self.door.turns.lock();
        let Some(at) = inner.tickets.iter().position(|ticket| ticket.number == self.number) else {
            return;
        };
        let ticket = inner.tickets.remove(at);
        inner.last = (ticket.is_interrupted, ticket.is_skipped);
    }
}
