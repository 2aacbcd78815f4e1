//! Progress of transfers: the interface by which a long one reports to its caller and is stopped by it.

/// Kind of work on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferWork {
    /// Bytes come from the hub.
    Download,
    /// Bytes are read from the disk and hashed.
    Check,
}

/// Observer of transfers and checks. Methods are called from the thread that does the work only.
pub trait TransferProgress {
    /// Work on a file begins, or begins again: `done` of `total` bytes are behind it.
    fn begin(&mut self, work: TransferWork, file: &str, done: u64, total: Option<u64>);
    /// This many more bytes are done.
    fn advance(&mut self, bytes: u64);
    /// A line for the user: waiting, trying again.
    fn note(&mut self, text: &str);
    /// `true` to stop as soon as possible; what arrived is kept.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Observer that shows nothing and never stops.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl TransferProgress for NoProgress {
    fn begin(&mut self, _: TransferWork, _: &str, _: u64, _: Option<u64>) {}
    fn advance(&mut self, _: u64) {}
    fn note(&mut self, _: &str) {}
}
