//! The wish to stop: Ctrl-C, SIGTERM and SIGHUP ask the job to end after the work at hand, and end the process where that
//! takes too long. What the journal counts is kept either way.

use std::{
    process::exit,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, sleep},
    time::Duration,
};

use crate::cli::{error::INTERRUPTED, print::complain};

/// Seconds that a job has for its end where nobody says otherwise: Slurm and Kubernetes kill after 30.
pub const GRACE: u64 = 20;

static SECONDS: AtomicU64 = AtomicU64::new(GRACE);

/// Sets the time that a job has for its end.
pub fn grant(seconds: u64) {
    SECONDS.store(seconds, Ordering::SeqCst);
}

/// Has signals ask to stop from now on, before there is a job that is asked.
pub fn listen() {
    interrupt_flag();
}

/// The flag that the first signal sets; a second one ends the process at once.
pub fn interrupt_flag() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let flag = FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&flag);
        // Without a handler Ctrl-C still ends the process, only less cleanly: no reason to fail.
        let _ = ctrlc::set_handler(move || {
            if set.swap(true, Ordering::SeqCst) {
                exit(i32::from(INTERRUPTED));
            }
            // The next signal is waited for here.
            if thread::Builder::new().spawn(end_after_grace).is_err() {
                end_after_grace();
            }
        });
        flag
    });
    Arc::clone(flag)
}

fn end_after_grace() {
    let seconds = SECONDS.load(Ordering::SeqCst);
    sleep(Duration::from_secs(seconds));
    complain(&format!(
        "interrupted, and ended after {seconds} s (--grace); the same command goes on with what is done"
    ));
    exit(i32::from(INTERRUPTED));
}
