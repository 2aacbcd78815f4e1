//! Shape of the samples that a file holds.

use crate::image::format::Format;

/// Kind of the samples in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Whole numbers up to 255.
    Eight,
    /// Whole numbers up to 65,535.
    Sixteen,
    /// Floats of 16 bits.
    Half,
    /// Floats of 32 bits.
    Float,
}

impl Depth {
    /// What a format holds of a picture of so many bits: 8, 16, or 32 for floats.
    pub(super) fn of(format: Format, bits: u8) -> Self {
        match (format, bits) {
            (Format::Exr, ..=16) => Self::Half,
            (Format::Exr | Format::Tiff, 17..) => Self::Float,
            (Format::Farbfeld, _) => Self::Sixteen,
            (_, 9..) if format.has_16_bit() => Self::Sixteen,
            _ => Self::Eight,
        }
    }

    /// Bytes of a sample.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Eight => 1,
            Self::Sixteen | Self::Half => 2,
            Self::Float => 4,
        }
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::Half | Self::Float)
    }
}

/// Size, channels and depth of the samples in the file, after the format's limits were applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SampleShape {
    pub width: u32,
    pub height: u32,
    pub grey: bool,
    pub alpha: bool,
    pub depth: Depth,
}

impl SampleShape {
    pub(super) fn channels(self) -> usize {
        let colours = if self.grey { 1 } else { 3 };
        colours + usize::from(self.alpha)
    }

    /// Bytes of one row.
    pub(super) fn row_bytes(self) -> usize {
        self.width as usize * self.channels() * self.depth.bytes()
    }
}
