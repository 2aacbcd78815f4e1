//! Logging of the library's `tracing` spans to stderr, enabled by `-v` or by a `tracing_subscriber` filter in
//! `RUST_LOG`.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

/// Installs the subscriber: `verbose` is the number of `-v`; with 0, `RUST_LOG` decides. Without either, no
/// subscriber is installed, at no cost.
pub fn start(verbose: u8) {
    let filter = match verbose {
        0 => match EnvFilter::try_from_default_env() {
            Ok(filter) => filter,
            Err(_) => return,
        },
        1 => EnvFilter::new("cupscale=info"),
        2 => EnvFilter::new("cupscale=debug"),
        _ => EnvFilter::new("cupscale=trace"),
    };
    // Spans are logged with their duration when they close. An existing subscriber is kept.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .try_init();
}
