//! Errors of the canvas.

use std::io;
use std::path::PathBuf;

/// Errors of the canvas: invalid sizes, a full disk, wrong arguments.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CanvasError {
    /// A latent with a side of zero.
    #[error("a canvas of {height} x {width} with {channels} channels has no elements")]
    EmptyLatent {
        /// Rows asked for.
        height: usize,
        /// Columns asked for.
        width: usize,
        /// Channels asked for.
        channels: usize,
    },
    /// A latent or a picture whose size cannot be addressed.
    #[error("{what} is too large to be addressed on this machine")]
    TooLarge {
        /// The thing that does not fit, with its sides.
        what: String,
    },
    /// A canvas file could not be made, opened or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A canvas file that is not as long as the canvas calls for.
    #[error("{}: holds {actual} bytes where {expected} are needed", path.display())]
    FileLength {
        /// The file.
        path: PathBuf,
        /// Bytes needed.
        expected: usize,
        /// Bytes there.
        actual: u64,
    },
    /// The memory map was refused.
    #[error("cannot map {bytes} bytes of canvas into memory: {source}")]
    Map {
        /// Size of the whole canvas.
        bytes: usize,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A slice handed in does not have the length that its shape calls for.
    #[error("{what} holds {actual} values where {expected} are needed")]
    Length {
        /// Name of the slice.
        what: &'static str,
        /// Values needed.
        expected: usize,
        /// Values given.
        actual: usize,
    },
    /// The region side is odd or zero.
    #[error(
        "a region side of {region} latent pixels is not possible: it must be even and at least 2"
    )]
    RegionSide {
        /// The side asked for.
        region: usize,
    },
    /// Regions that would never advance.
    #[error(
        "an overlap of {overlap} latent pixels is not possible: it must be smaller than the region side, {region}"
    )]
    Overlap {
        /// The overlap asked for.
        overlap: usize,
        /// The region side.
        region: usize,
    },
    /// A place beyond the range that the noise field numbers.
    #[error("the noise field has no element at {axis} {value}: its coordinates are 32-bit")]
    NoiseRange {
        /// Name of the coordinate.
        axis: &'static str,
        /// Its value.
        value: usize,
    },
    /// A VAE that would reduce each side by nothing.
    #[error("a VAE that reduces each side by a factor of 0 is not possible")]
    Factor,
    /// A scale that is not a positive number.
    #[error("a scale of {scale} is not possible: it must be a number above 0")]
    Scale {
        /// The scale asked for.
        scale: f64,
    },
    /// A size, of input or output, with a side of zero.
    #[error("a size of {width} x {height} pixels is not possible: both sides must be at least 1")]
    EmptySize {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
}

pub(super) fn check_len(
    what: &'static str,
    expected: usize,
    actual: usize,
) -> Result<(), CanvasError> {
    if expected == actual { Ok(()) } else { Err(CanvasError::Length { what, expected, actual }) }
}
