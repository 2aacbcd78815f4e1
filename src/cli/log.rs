//! Log of what the library does, on stderr, for who asks for it: with `-v`, or with `RUST_LOG` in words of
//! `tracing_subscriber`'s filters.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

/// Listens to the library from now on: `verbose` times `-v`, or else as the environment says. Without either,
/// nothing listens, and nothing is spent on it.
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
    // A span tells, when it ends, how long it took. Whoever has set another listener keeps it.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .try_init();
}
