//! What is done to decoded pixels on their way to the output, in this order: sharpening, the colour fix, back-projection, the
//! protection of flat and neutral places, the light that is cut, grain, the repaint's light alone, the mix with the input, the mask (docs/method.md
//! §6b and §6c).
//!
//! Most of it is done to a VAE tile as soon as it is decoded. Where the fix compares whole pictures, the rest waits until
//! all rows are decoded (`stages/whole_colours.rs`).

use super::{
    back_projection::{BackProjection, InputPixels},
    blend, colour_fix,
    colour_match::{Measure, Moments},
    cut_light,
    grain::Grain,
    plan::geometry::Geometry,
    protect::{self, Places},
    settings::{ColourFix, Defaults, Settings},
    sharpen,
};

/// Rows of a whole picture that are measured or finished at once.
pub(super) const BAND: usize = 32;
/// Bytes of a pixel that is kept as it was decoded.
pub(super) const PIXEL_BYTES: usize = 3 * size_of::<f32>();
/// Planes of colours that finishing a band takes: the picture and the input, what of them is looked at around a pixel,
/// and copies on the way.
const PLANES: usize = 9;

/// What finishing looks at beside the decoded pixels, in the same window.
pub(super) struct Beside {
    /// The input at the output's size, `[height, width, 3]` in −1…1.
    pub source: Vec<f32>,
    /// Pixels of the input itself, for back-projection.
    pub input: Option<InputPixels>,
    /// Shares of a mask, `[height, width]`.
    pub shares: Option<Vec<f32>>,
}

/// What the settings ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finish {
    /// How much stronger the finest detail gets.
    sharpen: f32,
    fix: ColourFix,
    pub projection: Option<BackProjection>,
    grain: Grain,
    detail_only: bool,
    /// Share of the repaint in the mix.
    blend: f32,
    /// A mask says which pixels are the input's.
    masked: bool,
}

impl Finish {
    /// What these settings ask for, in which the model's defaults are
    /// ([`Settings::with_finish`](super::settings::Settings::with_finish)), of an output of this geometry.
    pub(super) fn new(settings: &Settings, geometry: &Geometry) -> Self {
        let Settings { sharpen, colour_fix: fix, grain, seed, detail_only, blend, .. } = *settings;
        let Geometry { input, canvas, .. } = geometry;
        let input = (input.width as usize, input.height as usize);
        let fidelity = settings.fidelity.unwrap_or(Defaults::FIDELITY);
        Self {
            sharpen: sharpen.unwrap_or(Defaults::SHARPEN) as f32,
            fix,
            projection: BackProjection::new(input, (canvas.width, canvas.height), fidelity),
            grain: Grain::new(grain.unwrap_or(Defaults::GRAIN), seed),
            detail_only,
            blend: blend as f32,
            masked: settings.mask.is_some(),
        }
    }

    /// True if the colours depend on the whole decoded picture.
    pub(super) fn needs_whole(self) -> bool {
        self.measure().is_some()
    }

    /// An empty measure of a whole picture, if there is one to take.
    pub(super) fn measure(self) -> Option<Measure> {
        match self.fix {
            ColourFix::Adain => Some(Measure::Moments(Moments::default())),
            ColourFix::Lab => Some(Measure::Histogram(Box::default())),
            ColourFix::Wavelet | ColourFix::None => None,
        }
    }

    /// True if [`tile`](Self::tile) looks at the input.
    pub(super) fn tile_sees_input(self) -> bool {
        match self.fix {
            ColourFix::Wavelet | ColourFix::Lab => true,
            ColourFix::Adain => self.sharpen > 0.0,
            ColourFix::None => {
                self.sharpen > 0.0
                    || self.projection.is_some()
                    || !self.grain.is_none()
                    || self.detail_only
                    || self.blend < 1.0
                    || self.masked
            }
        }
    }

    /// Image pixels around a tile that [`tile`](Self::tile) has to see as they are.
    pub(super) fn tile_rim(self) -> usize {
        let sharpen = if self.sharpen > 0.0 { sharpen::RADIUS } else { 0 };
        let fix = match self.fix {
            ColourFix::Wavelet | ColourFix::Lab => colour_fix::RADIUS,
            ColourFix::Adain | ColourFix::None => 0,
        };
        let rest = if self.needs_whole() { 0 } else { self.rest_rim() };
        sharpen + fix + rest
    }

    /// Image pixels around a window that [`rest`](Self::rest) has to see as they are.
    pub(super) fn rest_rim(self) -> usize {
        let cut = if self.fix == ColourFix::Wavelet { cut_light::RADIUS } else { 0 };
        let of_picture = self.projection.map_or(0, BackProjection::radius) + cut;
        // The wavelet fix has looked further at the input already.
        let protects = self.needs_whole() || self.fix == ColourFix::None && !self.grain.is_none();
        of_picture.max(if protects { protect::RADIUS } else { 0 })
    }

    /// Bytes that finishing a band of a picture of this width takes.
    pub(super) fn band_bytes(self, width: usize) -> usize {
        (BAND + 2 * self.rest_rim()) * width * PIXEL_BYTES * PLANES
    }

    /// What is done to a decoded tile, `[height, width, 3]` in −1…1, whose first pixel is at the row and column `place` of the
    /// output.
    pub(super) fn tile(
        self,
        picture: &mut [f32],
        beside: &Beside,
        place: (usize, usize),
        width: usize,
    ) {
        if self.sharpen > 0.0 {
            sharpen::apply(picture, self.sharpen, width);
        }
        if matches!(self.fix, ColourFix::Wavelet | ColourFix::Lab) {
            colour_fix::apply(picture, &beside.source, width);
        }
        if !self.needs_whole() {
            self.rest(picture, beside, place, width);
        }
    }

    /// What comes behind the colour fix; as for [`tile`](Self::tile). The result is invalid within [`rest_rim`](Self::rest_rim) of a
    /// border past which the picture goes on.
    pub(super) fn rest(
        self,
        picture: &mut [f32],
        beside: &Beside,
        place: (usize, usize),
        width: usize,
    ) {
        let source = &beside.source;
        if let (Some(projection), Some(input)) = (self.projection, &beside.input) {
            projection.apply(picture, place, width, input);
        }
        let protects = self.fix != ColourFix::None;
        if protects || !self.grain.is_none() {
            let places = Places::new(source, width);
            if protects {
                places.apply(picture, source);
            }
            // The others set the mean of the whole picture.
            if self.fix == ColourFix::Wavelet {
                cut_light::give_back(picture, &places, width);
            }
            // What is flat in the input is no photograph's, and stays clean.
            self.grain.add(picture, &places.detail, place, width);
        }
        if self.detail_only {
            blend::luminosity(picture, source);
        }
        if self.blend < 1.0 {
            blend::mix(picture, source, self.blend);
        }
        if let Some(shares) = &beside.shares {
            blend::mix_by(picture, source, shares);
        }
    }
}
