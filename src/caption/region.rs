//! Regions for captioners: place in the output picture, pixels made on demand, and the context of the job.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::CaptionError;

/// The region grid of a job, in output pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridSpec {
    /// Regions from top to bottom.
    pub rows: u32,
    /// Regions from left to right.
    pub cols: u32,
    /// Side of a region.
    pub region: u32,
    /// Least overlap of neighbouring regions.
    pub overlap: u32,
    /// Width of the output picture.
    pub width: u32,
    /// Height of the output picture.
    pub height: u32,
}

/// A rectangle in output pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width, at least 1.
    pub width: u32,
    /// Height, at least 1.
    pub height: u32,
}

/// Place of a region: in the grid, counted from 0 at the top left, and in the output picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionPlace {
    /// Row of the grid.
    pub row: u32,
    /// Column of the grid.
    pub col: u32,
    /// Rectangle in the output picture.
    pub rect: Rect,
}

/// sRGB pixels of a region, 8 bits a channel, interleaved, row-major; at least one pixel.
///
/// The size may differ from the region's rectangle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Pixels {
    /// Takes `rgb`, `height` × `width` × 3.
    ///
    /// # Errors
    /// [`CaptionError::Pixels`] if the length does not fit the size or a side is 0.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self, CaptionError> {
        check_size(width, height, rgb.len())?;
        Ok(Self { width, height, rgb })
    }

    /// Rounds `rgb`, `height` × `width` × 3 in 0.0..=1.0, to 8 bits; what lies outside is clamped, and NaN
    /// reads as 0.
    ///
    /// # Errors
    /// [`CaptionError::Pixels`] if the length does not fit the size or a side is 0.
    pub fn from_f32(width: usize, height: usize, rgb: &[f32]) -> Result<Self, CaptionError> {
        check_size(width, height, rgb.len())?;
        // `as u8` saturates and turns NaN into 0.
        let rgb = rgb.iter().map(|v| (v * 255.0 + 0.5) as u8).collect();
        Ok(Self { width, height, rgb })
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// `height` × `width` × 3.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }
}

fn check_size(width: usize, height: usize, len: usize) -> Result<(), CaptionError> {
    let expected = width.checked_mul(height).and_then(|n| n.checked_mul(3));
    if len == 0 || expected != Some(len) {
        return Err(CaptionError::Pixels { width, height, len });
    }
    Ok(())
}

/// All regions of a job. Pixels are asked for when they are needed, in any order, possibly never.
pub trait RegionSource {
    /// Number of regions.
    fn len(&self) -> usize;

    /// `true` if there are no regions.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Place of region `index` < [`len`](Self::len).
    fn place(&self, index: usize) -> RegionPlace;

    /// The pixels of region `index` < [`len`](Self::len).
    ///
    /// # Errors
    /// Whatever keeps this one region from being shown; the job goes on without it.
    fn pixels(
        &self,
        index: usize,
    ) -> Result<Cow<'_, Pixels>, Box<dyn std::error::Error + Send + Sync>>;
}

/// A region with its pixels, for callers that hold them anyway.
#[derive(Clone, Debug)]
pub struct RegionImage {
    /// Place of the region.
    pub place: RegionPlace,
    /// Pixels of the region.
    pub pixels: Pixels,
}

impl RegionSource for Vec<RegionImage> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn place(&self, index: usize) -> RegionPlace {
        self[index].place
    }

    fn pixels(
        &self,
        index: usize,
    ) -> Result<Cow<'_, Pixels>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Cow::Borrowed(&self[index].pixels))
    }
}

/// The job around the regions.
#[derive(Clone, Copy, Debug)]
pub struct CaptionContext<'a> {
    /// The user's prompt for the whole picture; may be empty.
    pub prompt: &'a str,
    /// The grid that the regions belong to.
    pub grid: GridSpec,
}
