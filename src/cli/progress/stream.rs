//! The descriptor of `--progress-fd`: JSON lines for a program that leaves standard error to people.

use std::{fs::File, io::Write as _, sync::Arc};

use crate::cli::error::CliError;

/// A stream of lines, which clones share.
#[derive(Clone, Debug)]
pub struct LineStream(Arc<File>);

impl LineStream {
    /// The open descriptor `number`, which the process that started this one has made.
    ///
    /// # Errors
    /// One of the three standard streams, one that is not open or cannot be written to, a system without descriptors.
    pub fn open(number: u32) -> Result<Self, CliError> {
        let refuse = |reason: &str| CliError::Usage(format!("--progress-fd {number}: {reason}"));
        match number {
            0 => Err(refuse("is standard input")),
            1 => Err(refuse("is standard output, which is for pixels")),
            2 => Err(refuse("is standard error, for which there is --progress json")),
            _ => descriptor(number).map(|file| Self(Arc::new(file))).map_err(|why| refuse(&why)),
        }
    }

    /// Writes a line. A reader that has gone away is no reason to end the job.
    pub fn say(&self, line: &str) {
        let _ = (&*self.0).write_all(format!("{line}\n").as_bytes());
    }
}

/// A copy of this descriptor of the process.
#[cfg(unix)]
fn descriptor(number: u32) -> Result<File, String> {
    use std::{
        io::Error,
        os::fd::{FromRawFd as _, OwnedFd},
    };

    let number = i32::try_from(number).map_err(|_| "no descriptor has that number".to_owned())?;
    // SAFETY: the call takes numbers only and says by its result whether the descriptor is open.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
    if flags < 0 {
        return Err("is not open".to_owned());
    }
    if !matches!(flags & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR) {
        return Err("is not open for writing".to_owned());
    }
    // SAFETY: as above; what it returns is a new descriptor, or negative.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(Error::last_os_error().to_string());
    }
    // SAFETY: the descriptor was just made, is open, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) }.into())
}

/// Other systems number their handles otherwise.
#[cfg(not(unix))]
fn descriptor(_: u32) -> Result<File, String> {
    Err("this system has no numbered descriptors; --progress json writes to standard error"
        .to_owned())
}
