//! What is done to decoded pixels on their way to the output, in this order: lines, sharpening, texture, the colour fix, back-projection, the
//! protection of flat and neutral places, the light that is cut, grain, the repaint's light alone, the mix with the input, the mask (docs/method.md
//! §6b and §6c).
//!
//! Most of it is done to a VAE tile as soon as it is decoded. Where the fix compares whole pictures, the rest waits until
//! all rows are decoded (`stages/whole_colours.rs`).

use std::ops::Range;

use super::{
    back_projection::{BackProjection, InputPixels},
    blend,
    coherence::{Coherence, Lines},
    colour_fix,
    colour_match::{Measure, Moments},
    cut_light,
    grain::Grain,
    plan::geometry::Geometry,
    protect::{self, Places},
    settings::{ColourFix, Defaults, Settings},
    sharpen,
    structure::Structure,
    texture::{Rough, Texture},
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
    /// What its structure says, for a tile.
    pub told: Told,
    /// Pixels of the input itself, for back-projection.
    pub input: Option<InputPixels>,
    /// Shares of a mask, `[height, width]`.
    pub shares: Option<Vec<f32>>,
}

/// What the structure of the input says of a window's pixels, as far as it is looked at.
#[derive(Debug, Default)]
pub(super) struct Told {
    lines: Option<Lines>,
    rough: Option<Vec<Rough>>,
    /// The input itself, resized, where there is a texture: what a network makes of it has lines of its own there.
    plain: Vec<f32>,
}

/// What the settings ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finish {
    /// Share of the first network's picture that stays.
    first: f32,
    /// The filter along the lines of the input.
    coherence: Option<Coherence>,
    /// How much stronger the finest detail gets.
    sharpen: f32,
    texture: Option<Texture>,
    fix: ColourFix,
    pub projection: Option<BackProjection>,
    grain: Grain,
    detail_only: bool,
    /// Share of the repaint in the mix.
    blend: f32,
    /// A mask says which pixels are the input's.
    masked: bool,
    structure: Structure,
}

impl Finish {
    /// What these settings ask for, in which the model's defaults are
    /// ([`Settings::with_finish`](super::settings::Settings::with_finish)), of an output of this geometry.
    pub(super) fn new(settings: &Settings, geometry: &Geometry) -> Self {
        let Settings { sharpen, colour_fix: fix, grain, seed, detail_only, blend, .. } = *settings;
        let Geometry { input, canvas, .. } = geometry;
        let input = (input.width as usize, input.height as usize);
        let output = (canvas.width, canvas.height);
        let fidelity = settings.fidelity.unwrap_or(Defaults::FIDELITY);
        let coherence = settings.coherence.unwrap_or(Defaults::COHERENCE);
        let texture = settings.texture.unwrap_or(Defaults::TEXTURE);
        let first = settings.first_share.filter(|_| geometry.by_network);
        Self {
            first: first.unwrap_or(Defaults::FIRST_SHARE) as f32,
            coherence: Coherence::new(input, output, coherence),
            sharpen: sharpen.unwrap_or(Defaults::SHARPEN) as f32,
            texture: Texture::new(input, output, texture, seed),
            fix,
            projection: BackProjection::new(input, output, fidelity),
            grain: Grain::new(grain.unwrap_or(Defaults::GRAIN), seed),
            detail_only,
            blend: blend as f32,
            masked: settings.mask.is_some(),
            structure: Structure::new(input, output).0,
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

    /// What the structure of the input says of the pixels in these columns and rows of the output; `source` gives the resized input
    /// in any columns and rows.
    pub(super) fn told(
        self,
        columns: &Range<usize>,
        rows: &Range<usize>,
        source: impl FnOnce(Range<usize>, Range<usize>) -> Vec<f32>,
    ) -> Told {
        let of_lines = self.coherence.map(|_| Coherence::CELLS);
        let Some(cells) = of_lines.max(self.texture.map(|_| Texture::CELLS)) else {
            return Told::default();
        };
        let (across, down) = self.structure.around(cells, columns, rows);
        let plain = source(across.clone(), down.clone());
        let tensors = self.structure.tensors(&plain, &across, &down);
        let rough = self.texture.and_then(|texture| texture.rough(&tensors, columns, rows));
        let plain = rough.as_ref().map_or_else(Vec::new, |_| {
            let first = columns.start - across.start;
            let lines = plain.chunks_exact(3 * across.len()).skip(rows.start - down.start);
            let lines = lines.take(rows.len());
            lines.flat_map(|line| &line[3 * first..3 * (first + columns.len())]).copied().collect()
        });
        let lines = self.coherence.map(|coherence| coherence.lines(&tensors, columns, rows));
        Told { lines, rough, plain }
    }

    /// True if [`tile`](Self::tile) looks at the input.
    pub(super) fn tile_sees_input(self) -> bool {
        match self.fix {
            ColourFix::Wavelet | ColourFix::Lab => true,
            ColourFix::Adain => {
                self.first > 0.0
                    || self.sharpen > 0.0
                    || self.coherence.is_some()
                    || self.texture.is_some()
            }
            ColourFix::None => {
                self.first > 0.0
                    || self.sharpen > 0.0
                    || self.coherence.is_some()
                    || self.texture.is_some()
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
        let coherence = self.coherence.map_or(0, Coherence::radius);
        let sharpen = if self.sharpen > 0.0 { sharpen::RADIUS } else { 0 };
        let fix = match self.fix {
            ColourFix::Wavelet | ColourFix::Lab => colour_fix::RADIUS,
            ColourFix::Adain | ColourFix::None => 0,
        };
        let rest = if self.needs_whole() { 0 } else { self.rest_rim() };
        coherence + sharpen + fix + rest
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
        if self.first > 0.0 {
            blend::mix(picture, &beside.source, 1.0 - self.first);
        }
        if let (Some(coherence), Some(lines)) = (self.coherence, &beside.told.lines) {
            coherence.apply(picture, lines);
        }
        if self.sharpen > 0.0 {
            sharpen::apply(picture, self.sharpen, width);
        }
        if let (Some(texture), Some(rough)) = (self.texture, &beside.told.rough) {
            texture.apply(picture, &beside.told.plain, rough, place, width);
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
