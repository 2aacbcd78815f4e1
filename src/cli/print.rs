//! The two ways out for text: the one thing that a verb prints, and the lines of complaints.

use std::io::{self, Write as _};

use super::error::CliError;

/// One line on standard error. Nobody reading it is no reason to fail.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "cupscale-fast: {line}");
}

/// Writes the one thing that a verb prints.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Print)
}
