//! The process that computes: threads do not survive a fork, so that a child would wait for them for ever. It is told so.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::errors::{Class, Failure};

/// The process that called first; 0 before that.
static FIRST: AtomicU32 = AtomicU32::new(0);

/// Refuses a process that was forked from one that had started threads.
///
/// # Errors
/// That, in one line.
pub fn check() -> Result<(), Failure> {
    let own = process::id();
    match FIRST.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed) {
        Err(first) if first != own => Err(Failure::new(
            Class::Error,
            "this process was forked from one in which cupscale was at work, whose threads it does not have: \
             start it by multiprocessing's \"spawn\" or \"forkserver\""
                .to_owned(),
        )),
        _ => Ok(()),
    }
}
