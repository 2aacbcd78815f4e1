//! The hidden verb `caption-worker`: runs this program as the captioning process. See `cupscale::caption::worker`.

use std::{io, panic, process};

use cupscale::caption::mistralrs;

use super::error::CliError;

/// Exit code after a panic in any thread.
const PANICKED: i32 = 101;

pub fn run() -> Result<(), CliError> {
    // A thread of mistral.rs that is gone would leave requests without an answer.
    panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("of unknown kind");
        let place = panic.location().map(|place| format!(" ({place})")).unwrap_or_default();
        eprintln!("panic: {}{place}", text.replace('\n', " "));
        process::exit(PANICKED);
    }));
    mistralrs::serve(io::stdin().lock(), io::stdout()).map_err(CliError::Worker)
}
