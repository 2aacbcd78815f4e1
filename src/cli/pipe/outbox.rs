//! What leaves: the one owner of standard output. Messages of several threads leave whole, one after the other.

use std::{
    io::{self, Read, Stdout},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use cupscale::pipe::{answer::Answer, frame};

/// Sends answers. Errors are not returned: an output that takes nothing more is closed, which ends the conversation.
pub struct Outbox {
    stdout: Mutex<Stdout>,
    closed: AtomicBool,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { stdout: Mutex::new(io::stdout()), closed: AtomicBool::new(false) }
    }
}

impl Outbox {
    /// Sends an answer without a payload.
    pub fn send(&self, answer: &Answer<'_>) {
        self.send_with(answer, (&mut io::empty(), 0));
    }

    /// Sends an answer with a payload of this length.
    pub fn send_with(&self, answer: &Answer<'_>, payload: (&mut dyn Read, u64)) {
        if self.is_closed() {
            return;
        }
        let header = serde_json::to_vec(answer).expect("an answer is plain data");
        let mut stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        if frame::write(&mut *stdout, &header, payload).is_err() {
            // Half a frame may have left: nothing behind it would be understood.
            self.closed.store(true, Ordering::SeqCst);
        }
    }

    /// `true` if nothing more can leave.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}
