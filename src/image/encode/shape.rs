//! Shape of the samples that a file holds.

/// Size, channels and depth of the samples in the file, after the format's limits were applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SampleShape {
    pub width: u32,
    pub height: u32,
    pub grey: bool,
    pub alpha: bool,
    pub sixteen: bool,
}

impl SampleShape {
    pub(super) fn channels(self) -> usize {
        let colours = if self.grey { 1 } else { 3 };
        colours + usize::from(self.alpha)
    }

    /// Bytes of one row.
    pub(super) fn row_bytes(self) -> usize {
        let sample = if self.sixteen { 2 } else { 1 };
        self.width as usize * self.channels() * sample
    }
}
