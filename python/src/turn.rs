//! Turns: one job at a time has an engine, because each is planned for all of the memory. Others wait, and may give up.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
    time::Duration,
};

/// Interval at which one who waits is asked whether he goes on.
const POLL: Duration = Duration::from_millis(50);

/// Whose turn it is.
#[derive(Debug, Default)]
pub struct Turns {
    holder: Mutex<Option<ThreadId>>,
    freed: Condvar,
}

/// Why there is no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTurn {
    /// This thread has it: its job's callback asks for another one.
    OwnJob,
    /// The caller gave up.
    GivenUp,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for the turn while `waits` says so. The interpreter must not be held.
    ///
    /// # Errors
    /// See [`NoTurn`].
    pub fn take(&self, waits: impl Fn() -> bool) -> Result<Turn<'_>, NoTurn> {
        let own = thread::current().id();
        let mut holder = self.lock();
        while let Some(other) = *holder {
            if other == own {
                return Err(NoTurn::OwnJob);
            }
            let waited = self.freed.wait_timeout(holder, POLL);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            holder = guard;
            if timeout.timed_out() {
                // Asking takes the interpreter, for which the one at work may wait.
                drop(holder);
                if !waits() {
                    return Err(NoTurn::GivenUp);
                }
                holder = self.lock();
            }
        }
        *holder = Some(own);
        Ok(Turn(self))
    }

    fn lock(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
        self.0.freed.notify_one();
    }
}
