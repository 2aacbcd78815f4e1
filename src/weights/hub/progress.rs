//! What a long transfer tells its caller, and how the caller stops it.

/// What is being done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Its bytes come from the hub.
    Download,
    /// Its bytes are read from the disk and hashed.
    Check,
}

/// Watches transfers and checks. Every method may be called from the thread that does the work only.
pub trait TransferProgress {
    /// Work on a file begins, or begins again: `done` of `total` bytes are behind it.
    fn begin(&mut self, work: Work, file: &str, done: u64, total: Option<u64>);
    /// So many more bytes are done.
    fn advance(&mut self, bytes: u64);
    /// Something that a person may want to know: waiting, trying again.
    fn note(&mut self, text: &str);
    /// Whether to stop as soon as possible; what arrived is kept.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Shows nothing and never stops.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl TransferProgress for NoProgress {
    fn begin(&mut self, _: Work, _: &str, _: u64, _: Option<u64>) {}
    fn advance(&mut self, _: u64) {}
    fn note(&mut self, _: &str) {}
}
