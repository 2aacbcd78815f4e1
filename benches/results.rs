//! Results of a bench for another program: with `--json FILE` each is a line of JSON at the file's end, written at once, so
//! that a run that is cut off has told what it had.

use std::{error::Error, fs::OpenOptions, io::Write as _, path::Path};

use serde_json::Value;

/// Appends a result.
///
/// # Errors
/// A file that cannot be written.
pub fn record(file: Option<&Path>, result: &Value) -> Result<(), Box<dyn Error>> {
    let Some(path) = file else { return Ok(()) };
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    // One write, so that a line is whole.
    file.write_all(format!("{result}\n").as_bytes())?;
    Ok(())
}
