//! Text output: the result of a verb on standard output, messages on standard error.

use std::io::{self, Write as _};

use super::error::CliError;

/// Writes one line to standard error; write errors are ignored.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "cupscale-fast: {line}");
}

/// Writes the result of a verb to standard output.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Print)
}
