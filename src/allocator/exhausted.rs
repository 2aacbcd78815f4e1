//! End of the program where memory ends: one line and the exit code of a failure, where Rust would abort.

use std::{
    io::Write as _,
    sync::atomic::{AtomicBool, Ordering},
};

/// `true` if the system limits the process's addresses or its data.
pub fn is_limited() -> bool {
    [libc::RLIMIT_AS, libc::RLIMIT_DATA].into_iter().any(|resource| {
        let mut limit =
            libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: it writes to the place that is passed along, which outlives the call.
        unsafe { libc::getrlimit(resource, &raw mut limit) };
        limit.rlim_cur != libc::RLIM_INFINITY
    })
}

/// Passes a block on, or ends the program if there is none: with a line and the exit code of a failure, where Rust
/// would abort.
///
/// Nobody here lives on without the block: code that asks whether there is memory asks the memory plan.
pub fn or_exhausted(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() { exhausted(bytes) } else { block }
}

#[cold]
fn exhausted(bytes: usize) -> ! {
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    if IS_TOLD.swap(true, Ordering::SeqCst) {
        // Another thread is telling it, and ends this one.
        loop {
            // SAFETY: it may be called at any time.
            unsafe { libc::pause() };
        }
    }
    let mut line = [0; 256];
    let mut rest = &mut line[..];
    let by = if is_limited() { " within the limits of this process (ulimit -v, -d)" } else { "" };
    let _ = writeln!(
        rest,
        "cupscale-fast: out of memory: {} KiB more are not to be had{by}; a smaller --max-memory, --quantize or a \
         smaller picture helps",
        bytes.div_ceil(1 << 10),
    );
    let left = rest.len();
    let length = line.len() - left;
    // SAFETY: so many bytes were written; nothing is allocated, and no destructor runs.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), length);
        libc::_exit(1)
    }
}
