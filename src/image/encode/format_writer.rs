//! Interface of the writers of the single formats.

use crate::image::error::Result;

/// One format's writer, fed with whole rows of file samples.
pub(super) trait FormatWriter: Send {
    /// Any number of whole rows, in the byte order of [`Quantizer`](super::samples::Quantizer).
    fn write(&mut self, rows: &[u8]) -> Result<()>;
    fn finish(self: Box<Self>) -> Result<()>;
}
