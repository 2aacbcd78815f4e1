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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        canvas::{CanvasSize, RegionGrid},
        pipeline::model::ModelShape,
    };

    fn scale(width: u32, height: u32, factor: usize) -> PreviewScale {
        let shape = ModelShape {
            factor,
            channels: 4,
            region: 64,
            stride: 4,
            largest: None,
            patch: 4,
            sees_low_resolution: false,
        };
        let canvas = CanvasSize::for_pixels(width, height, factor).unwrap();
        PreviewScale::new(&Geometry {
            input: (width, height).into(),
            canvas,
            grid: RegionGrid::new(canvas.latent_height, canvas.latent_width, 64, 0).unwrap(),
            overlap: 0.0,
            low_resolution: None,
            vae_padding: 1,
            shape,
            by_network: false,
            generated: false,
        })
    }

    #[test]
    fn a_preview_is_as_large_as_it_may_be_and_takes_little_whatever_the_output() {
        for (size, factor, expected) in [
            ((512, 384), 8, (384, 512)),
            ((2048, 1024), 8, (512, 1024)),
            ((2048, 2048), 4, (1024, 1024)),
            ((5000, 10), 8, (2, 625)),
            ((100_000, 8), 8, (1, 962)),
            ((1, 1), 8, (1, 1)),
        ] {
            let scale = scale(size.0, size.1, factor);
            assert_eq!(scale.size, expected, "{size:?}");
            assert_eq!(scale.ratio * scale.pixels, scale.latents * factor);
        }
        assert!(scale(131_072, 131_072, 8).bytes(16) < 16 << 20);
        assert!(scale(384, 256, 4).bytes(16) < 2 << 20);
    }
}
