//! A worker process: start, requests, replies, and the cause of its end.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::protocol::{self, Reply, Request};

/// Interval at which `stop` is polled while waiting for a reply.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Longest part, in characters, of a worker's error line that is passed on.
const LONGEST_REASON: usize = 300;

/// Bytes of a worker's error line that are read at once: an engine may print whatever it likes, without an end.
const LONGEST_LINE: u64 = 1 << 16;

/// Reason for a missing reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoReply {
    /// The process has ended, sent an invalid reply, or exceeded the timeout. The reason, in one line.
    Dead(String),
    /// The user has cancelled.
    Stopped,
}

/// A running worker. Dropping it ends the process, and with it all memory that it has.
pub(super) struct Worker {
    child: Child,
    requests: Option<Sender<Vec<u8>>>,
    replies: Receiver<io::Result<Option<Reply>>>,
    last_error_line: Option<JoinHandle<String>>,
}

impl Worker {
    /// Starts `command`, whose standard streams are set here.
    pub(super) fn start(mut command: Command) -> io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C in a terminal goes to the program, which ends its worker itself.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("no pipes to the worker"));
        };
        // Pixels exceed a pipe's buffer: a worker that does not read must not block the program.
        let (requests, to_write) = mpsc::channel::<Vec<u8>>();
        thread::spawn(move || {
            for bytes in to_write {
                if stdin.write_all(&bytes).and_then(|()| stdin.flush()).is_err() {
                    return; // the worker's end is seen at its standard output
                }
            }
        });
        let (say, replies) = mpsc::channel();
        thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            loop {
                let reply = protocol::read_reply(&mut stdout);
                let is_last = !matches!(reply, Ok(Some(_)));
                if say.send(reply).is_err() || is_last {
                    return;
                }
            }
        });
        let last_error_line = thread::spawn(move || last_line(BufReader::new(stderr)));
        Ok(Self {
            child,
            requests: Some(requests),
            replies,
            last_error_line: Some(last_error_line),
        })
    }

    /// Sends a request. A worker that has ended is noticed when the reply is awaited.
    pub(super) fn send(&self, request: &Request, pixels: &[u8]) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(protocol::encode_request(request, pixels));
        }
    }

    /// The next reply, awaited for `timeout` at most, or until `stop` returns `true`.
    pub(super) fn reply(
        &mut self,
        timeout: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Result<Reply, NoReply> {
        let begin = Instant::now();
        loop {
            if stop() {
                return Err(NoReply::Stopped);
            }
            match self.replies.recv_timeout(POLL_INTERVAL) {
                Ok(Ok(Some(reply))) => return Ok(reply),
                Ok(Err(error)) => {
                    return Err(NoReply::Dead(format!("the worker talks nonsense: {error}")));
                }
                Ok(Ok(None)) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(NoReply::Dead(self.exit_reason()));
                }
                Err(RecvTimeoutError::Timeout) if begin.elapsed() >= timeout => {
                    let seconds = timeout.as_secs_f32();
                    return Err(NoReply::Dead(format!("no answer for {seconds} seconds")));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Exit status of the process and its last line on standard error.
    fn exit_reason(&mut self) -> String {
        self.requests = None;
        // Its standard output is closed: it is ending, or has become useless.
        let deadline = Instant::now() + Duration::from_secs(2);
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status.to_string(),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                Ok(None) | Err(_) => {
                    let _ = self.child.kill();
                    break "it closed its output".to_owned();
                }
            }
        };
        let words = self.last_error_line.take().and_then(|thread| thread.join().ok());
        match words.filter(|words| !words.is_empty()) {
            Some(words) => format!("the worker ended ({status}): {words}"),
            None => format!("the worker ended ({status})"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only where the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last line with anything on it, cut to a sensible length; a line beyond all bounds counts as several.
fn last_line(mut input: impl io::BufRead) -> String {
    let mut last = String::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        match input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return last,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                let words: Vec<_> = text.split_whitespace().collect();
                if !words.is_empty() {
                    last = words.join(" ").chars().take(LONGEST_REASON).collect();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_an_end_is_cut_where_it_is_read() {
        let endless = vec![b'x'; 3 * LONGEST_LINE as usize + 7];
        assert_eq!(last_line(endless.as_slice()), "xxxxxxx");
        let told = [endless.as_slice(), b"\n it  failed\n\n"].concat();
        assert_eq!(last_line(told.as_slice()), "it failed");
    }
}
