//! Sizes and memory of a job's previews.

use super::geometry::Geometry;

/// The longer side of a preview at most, in pixels.
const LONGEST: usize = 1024;

/// Side in image pixels of the windows of the input that the map to colours is fitted to, at most.
const WINDOW: usize = 256;

/// Side of such a window in cells, at most.
const WINDOW_CELLS: usize = 16;

/// Sizes of a preview. Its cells are latent pixels, or squares of them where the canvas is larger than a preview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviewScale {
    /// Latent pixels along the side of a cell.
    pub latents: usize,
    /// Pixels of the preview along the side of a cell.
    pub pixels: usize,
    /// Image pixels per pixel of the preview, in each direction.
    pub ratio: usize,
    /// Height and width of the canvas in cells.
    pub cells: (usize, usize),
    /// Height and width of the preview.
    pub size: (usize, usize),
}

impl PreviewScale {
    /// Sizes of the preview of a job.
    pub fn new(Geometry { canvas, shape, .. }: &Geometry) -> Self {
        let longest = canvas.latent_height.max(canvas.latent_width);
        let latents = longest.div_ceil(LONGEST);
        let fits =
            |pixels: &usize| shape.factor.is_multiple_of(*pixels) && longest * pixels <= LONGEST;
        let pixels = (1..=shape.factor).rev().find(fits).unwrap_or(1);
        let ratio = latents * shape.factor / pixels;
        let cells = |length: usize| length.div_ceil(latents);
        Self {
            latents,
            pixels,
            ratio,
            cells: (cells(canvas.latent_height), cells(canvas.latent_width)),
            size: (canvas.height.div_ceil(ratio), canvas.width.div_ceil(ratio)),
        }
    }

    /// Side in cells of the windows that the map is fitted to.
    pub fn window(&self) -> usize {
        (WINDOW / (self.ratio * self.pixels)).clamp(1, WINDOW_CELLS)
    }

    /// Bytes that previews take with latents of so many channels: the picture and a copy of it on its way, lines of
    /// cells, and windows of the input.
    pub fn bytes(&self, channels: usize) -> usize {
        let (height, width) = self.size;
        let line = self.cells.1 * (4 * channels + 6 * self.pixels.pow(2));
        let window = (self.window() * self.ratio * self.pixels).pow(2) * 3;
        2 * 3 * height * width + (line + 2 * window) * size_of::<f32>()
    }
}
