//! The calls that wait for their jobs, so that other calls can tell how far they are, and end them.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::super::jobs::Jobs;

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

    /// Changes what is known of a call.
    pub fn change(&self, number: u64, change: impl FnOnce(&mut Ticket)) {
        let mut inner = self.lock();
        if let Some(ticket) = inner.tickets.iter_mut().find(|ticket| ticket.number == number) {
            change(ticket);
        }
    }

    /// `true` if the call was interrupted.
    pub fn is_interrupted(&self, number: u64) -> bool {
        self.lock().tickets.iter().any(|ticket| ticket.number == number && ticket.is_interrupted)
    }

    /// Begins a call that makes so many pictures; the number is its name.
    pub fn begin(&self, what: &'static str, count: usize) -> u64 {
        let mut inner = self.lock();
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
        number
    }

    /// Ends a call.
    pub fn end(&self, number: u64) {
        let mut inner = self.lock();
        if let Some(at) = inner.tickets.iter().position(|ticket| ticket.number == number) {
            let ticket = inner.tickets.remove(at);
            inner.last = (ticket.is_interrupted, ticket.is_skipped);
        }
    }
}
