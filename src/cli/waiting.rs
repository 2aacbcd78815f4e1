//! Waits for pictures that other processes work on, gently and as long as the user wants.

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use cupscale::pipeline::{self, Error};

use super::{error::CliError, job::Job, progress::Reporter};

/// Why a picture is skipped with `--skip-locked`.
pub const LOCKED: &str = "another process works on it";

/// The shortest and the longest time between two looks.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Time between two looks for Ctrl-C.
const INTERRUPTION: Duration = Duration::from_millis(50);

/// A pause between looks that becomes longer.
pub struct Patience(Duration);

impl Patience {
    pub fn new() -> Self {
        Self(LOOKS.0)
    }

    /// Waits until the next look.
    ///
    /// # Errors
    /// The user's wish to stop.
    pub fn wait(&mut self, reporter: &Reporter) -> Result<(), CliError> {
        let begun = Instant::now();
        loop {
            if reporter.is_interrupted() {
                return Err(Error::Interrupted(None).into());
            }
            match self.0.checked_sub(begun.elapsed()) {
                Some(left) if !left.is_zero() => sleep(left.min(INTERRUPTION)),
                _ => break,
            }
        }
        self.0 = (2 * self.0).min(LOOKS.1);
        Ok(())
    }
}

/// Does a job as soon as no other process works on it, and says once that it waits; `None` where it is to be skipped then.
///
/// # Errors
/// Those of the job, and the user's wish to stop.
pub fn until_free<T>(
    job: &Job,
    reporter: &mut Reporter,
    mut attempt: impl FnMut(&mut Reporter) -> Result<T, CliError>,
) -> Result<Option<T>, CliError> {
    let mut is_told = false;
    loop {
        let busy = match attempt(reporter) {
            Err(CliError::Job(busy @ Error::Busy { .. })) => busy,
            result => return result.map(Some),
        };
        if job.skip_locked {
            return Ok(None);
        }
        if !std::mem::replace(&mut is_told, true) {
            reporter.tell(&format!("{busy}: waiting for it to end"));
        }
        if let Error::Busy { folder, .. } = &busy {
            until_left(folder, reporter)?;
        }
    }
}

/// Waits until no process works in this work folder.
fn until_left(folder: &Path, reporter: &Reporter) -> Result<(), CliError> {
    let mut patience = Patience::new();
    loop {
        patience.wait(reporter)?;
        if pipeline::is_free(folder) {
            return Ok(());
        }
    }
}
