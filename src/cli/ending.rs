//! Ends of the program that nothing else tells: a panic, a limit of the size of files. Each becomes one line and an exit
//! code.

use std::{
    any::Any,
    env, panic,
    sync::atomic::{AtomicBool, Ordering},
};

use super::print::complain;

/// Has panics told in one line, once, and a file beyond `ulimit -f` answered with an error instead of a signal that
/// ends the program.
pub fn install() {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    // SAFETY: no handler is installed, the signal is only ignored: writing then fails with EFBIG.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    // Who asks for a backtrace gets Rust's own words.
    if env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        return;
    }
    panic::set_hook(Box::new(|panic| {
        static IS_TOLD: AtomicBool = AtomicBool::new(false);
        if !IS_TOLD.swap(true, Ordering::SeqCst) {
            let place = panic.location().map(|place| format!(" ({place})")).unwrap_or_default();
            complain(&format!("a fault in the program: {}{place}", words(panic.payload())));
        }
    }));
}

/// The message of a panic.
pub fn words(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of unknown kind")
}
