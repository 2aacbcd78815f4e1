//! Geometry of a job: sizes and places derived from the picture, the settings and the model's shape. Stages and the
//! memory estimate share these numbers.

use std::sync::Arc;

use super::tiles::{Span, spans};
use crate::{
    backend::ops::CropRect,
    canvas::{CanvasSize, Region, RegionGrid, SizeSpec, target_size},
    caption::Rect,
    image::PictureShape,
    pipeline::{
        error::Error,
        first::FirstEnlarger,
        model::{Model, ModelShape},
        settings::{Defaults, Settings},
    },
};

/// The largest output, 131 072²: far beyond any practical job, but a canvas that still fits on a disk.
const MAX_OUTPUT_PIXELS: u64 = 1 << 34;

/// Longest side of the whole picture for a captioner; no model uses a higher resolution.
const WHOLE_SIDE: u32 = 1344;

/// Sizes and places of a job, in latent pixels unless stated otherwise.
#[derive(Clone, Debug)]
pub struct Geometry {
    /// The input picture.
    pub input: PictureShape,
    /// The canvas, and through it the output's exact size.
    pub canvas: CanvasSize,
    /// Regions of the canvas.
    pub grid: RegionGrid,
    /// Overlap of regions as a share of their side: the user's, the model's, or the program's.
    pub overlap: f64,
    /// Height and width of the low-resolution pass, if there is one.
    pub low_resolution: Option<(usize, usize)>,
    /// Padding of VAE tiles towards each other: the receptive field of the convolutions.
    pub vae_padding: usize,
    /// Shape of the model.
    pub shape: ModelShape,
    /// A network makes the picture that is repainted.
    pub by_network: bool,
    /// The picture is made from noise: there is nothing to encode.
    pub generated: bool,
}

/// The most of a picture that is made in one call, as a multiple of the native size's area: beyond, it is made in regions.
const WHOLE_AREA: f64 = 1.5;

/// The largest picture that is made from noise, as a multiple of the native size's area: beyond, models repeat themselves.
const MOST_AREA: usize = 4;

impl Geometry {
    /// The network that makes the picture which is repainted. A model's own is for outputs that are larger than the input.
    pub(crate) fn first(&self, model: &Model, settings: &Settings) -> Option<Arc<FirstEnlarger>> {
        let canvas = (self.canvas.width as u32, self.canvas.height as u32);
        let enlarges = canvas.0 > self.input.width || canvas.1 > self.input.height;
        settings.first.network(model.first.as_ref(), enlarges)
    }

    /// Geometry for an `input`.
    ///
    /// # Errors
    /// A size of zero or beyond the address range.
    pub fn new(model: &Model, input: PictureShape, settings: &Settings) -> Result<Self, Error> {
        let shape = model.shape();
        let (width, height) = target_size(input.width, input.height, settings.size)?;
        if u64::from(width) * u64::from(height) > MAX_OUTPUT_PIXELS {
            return Err(Error::OutputTooLarge { width, height });
        }
        let canvas = CanvasSize::for_pixels(width, height, shape.factor)?;
        let share = settings.overlap.or(model.defaults.overlap).unwrap_or(Defaults::OVERLAP);
        let overlap = (share * shape.region as f64).round() as usize;
        let grid = RegionGrid::new(
            canvas.latent_height,
            canvas.latent_width,
            shape.region,
            overlap.min(shape.region - 1),
        )?;
        let geometry = Self {
            input,
            canvas,
            grid,
            overlap: share,
            low_resolution: (settings.rap > 0.0)
                .then(|| native_size((input.width, input.height), shape)),
            vae_padding: model.blueprints.vae.context(),
            shape,
            by_network: false,
            generated: false,
        };
        Ok(Self { by_network: geometry.first(model, settings).is_some(), ..geometry })
    }

    /// Geometry of a picture of this width and height in pixels that is made from noise: one region, or, where it is much
    /// larger than the model's native size, regions of that.
    ///
    /// # Errors
    /// [`Error::SizeOfNoise`] for a size that is no multiple of what the model takes, or too large.
    pub fn of_noise(
        model: &Model,
        (width, height): (u32, u32),
        settings: &Settings,
    ) -> Result<Self, Error> {
        let shape = model.shape();
        let unit = shape.factor * shape.stride;
        let (sides, most) = ([width as usize, height as usize], MOST_AREA * shape.region.pow(2));
        let area = sides.iter().map(|side| side / shape.factor).product::<usize>();
        if sides.iter().any(|&side| side == 0 || !side.is_multiple_of(unit)) || area > most {
            let native = shape.region * shape.factor;
            return Err(Error::SizeOfNoise { width, height, unit, native });
        }
        let own = Settings { size: SizeSpec::Exact(width, height), rap: 0.0, ..settings.clone() };
        let geometry = Self::new(model, (width, height).into(), &own)?;
        let CanvasSize { latent_height, latent_width, .. } = geometry.canvas;
        let most = shape.largest.unwrap_or(usize::MAX);
        let is_one = area as f64 <= WHOLE_AREA * shape.region.pow(2) as f64
            && latent_height.max(latent_width) <= most;
        let grid = match is_one {
            true => RegionGrid::whole(latent_height, latent_width)?,
            false => geometry.grid,
        };
        Ok(Self { grid, by_network: false, generated: true, ..geometry })
    }

    /// VAE tiles along an axis of `length`, with cores of at most `tile` image pixels.
    pub(crate) fn tiles(&self, length: usize, tile: usize) -> Vec<Span> {
        spans(length, (tile / self.shape.factor).max(1), self.vae_padding)
    }

    /// Width and height of the whole picture for a captioner, in image pixels.
    pub(crate) fn shown_whole(&self) -> (u32, u32) {
        let PictureShape { width, height, .. } = self.input;
        let longest = width.max(height);
        let side = |length: u32| match longest {
            ..=WHOLE_SIDE => length,
            _ => (u64::from(length) * u64::from(WHOLE_SIDE) / u64::from(longest)).max(1) as u32,
        };
        (side(width), side(height))
    }

    /// A region in output pixels, clipped to the picture.
    pub(crate) fn pixels_of(&self, region: &Region) -> Rect {
        let axis = |start: usize, length: usize, limit: usize| {
            let start = (start * self.shape.factor).min(limit - 1);
            (start as u32, (length * self.shape.factor).min(limit - start) as u32)
        };
        let (x, width) = axis(region.x, region.width, self.canvas.width);
        let (y, height) = axis(region.y, region.height, self.canvas.height);
        Rect { x, y, width, height }
    }

    /// A region relative to the picture without the canvas's padding, as the low-resolution pass sees it; a
    /// region that reaches into the padding ends past 1.
    pub(crate) fn share_of(&self, region: &Region) -> CropRect {
        let (height, width) = (self.canvas.height as f64, self.canvas.width as f64);
        let pixels = |latent: usize| (latent * self.shape.factor) as f64;
        CropRect {
            top: pixels(region.y) / height,
            left: pixels(region.x) / width,
            height: pixels(region.height) / height,
            width: pixels(region.width) / width,
        }
    }
}

/// Width and height in pixels of a picture of about the model's native pixel count, of this aspect ratio.
pub(crate) fn native_pixels(size: (u32, u32), shape: ModelShape) -> (u32, u32) {
    let (height, width) = native_size(size, shape);
    ((width * shape.factor) as u32, (height * shape.factor) as u32)
}

/// Height and width in latent pixels of the whole picture at about the model's native pixel count,
/// in its own aspect ratio as far as multiples of the denoiser's stride allow (docs/method.md §4).
fn native_size((width, height): (u32, u32), shape: ModelShape) -> (usize, usize) {
    let ModelShape { region, stride, largest, .. } = shape;
    let most = largest.unwrap_or(4 * region).min(4 * region);
    let aspect = f64::from(width) / f64::from(height);
    let side = |length: f64| {
        let strides = (length / stride as f64).round() as usize;
        stride * strides.clamp(1, most / stride)
    };
    (side(region as f64 / aspect.sqrt()), side(region as f64 * aspect.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ModelShape = ModelShape {
        factor: 4,
        channels: 4,
        region: 64,
        stride: 4,
        largest: None,
        patch: 4,
        sees_low_resolution: true,
    };

    #[test]
    fn the_low_resolution_pass_keeps_the_aspect_ratio_at_the_native_pixel_count() {
        let size =
            |width, height, region| native_size((width, height), ModelShape { region, ..SHAPE });
        assert_eq!(size(512, 512, 64), (64, 64));
        assert_eq!(size(640, 480, 64), (56, 72));
        assert_eq!(size(480, 640, 128), (148, 112));
        // A strip stays a strip that a denoiser can take.
        assert_eq!(size(10_000, 1, 64), (4, 256));
        assert_eq!(size(1, 10_000, 64), (256, 4));
        // Nor longer than its table of positions.
        let bounded = ModelShape { largest: Some(96), ..SHAPE };
        assert_eq!(native_size((10_000, 1), bounded), (4, 96));
    }

    #[test]
    fn a_region_in_the_padding_is_cut_in_pixels_and_ends_past_the_picture_in_shares() {
        let canvas = CanvasSize::for_pixels(510, 254, 4).unwrap();
        let geometry = Geometry {
            input: (255, 127).into(),
            canvas,
            grid: RegionGrid::new(canvas.latent_height, canvas.latent_width, 64, 0).unwrap(),
            overlap: 0.0,
            low_resolution: None,
            vae_padding: 1,
            shape: SHAPE,
            by_network: false,
            generated: false,
        };
        let last = geometry.grid.regions().last().unwrap();
        assert_eq!(geometry.pixels_of(&last), Rect { x: 256, y: 0, width: 254, height: 254 });
        let share = geometry.share_of(&last);
        assert!(share.left + share.width > 1.0 && share.top == 0.0 && share.height > 1.0);
    }
}
