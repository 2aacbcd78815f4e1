//! Plan of the first enlargement by a network: how often it runs, to which sizes, and what that takes on the disk.

use std::{fmt, sync::Arc};

use candle_core::Device;

use super::{geometry::Geometry, tiles::spans};
use crate::{
    backend::Placement,
    image::MEMORY_BYTES,
    model::enlarger::{Enlarger, EnlargerConfig},
    pipeline::{error::Error, finish::PIXEL_BYTES, first::FirstEnlarger},
    weights::Footprint,
};

/// Side of a tile of the network's maps in places, if memory allows; on a GPU, which is idle between small ones, larger. The
/// result does not depend on it.
const TILE_CPU: usize = 256;
const TILE_GPU: usize = 512;
/// The smallest side that a plan chooses.
const TILE_LEAST: usize = 32;
/// Rows of places whose pixels are made at once: the last step has many pixels for each.
pub const LAST_ROWS: usize = 32;
/// Share of a pass's factor that Lanczos takes in the place of one more pass.
const SPARED: f64 = 1.5;
/// The most passes: from a pixel to the largest output.
const MOST_PASSES: usize = 16;

/// A pass of the network over a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstPass {
    /// Width and height of the picture that it is given.
    pub from: (u32, u32),
    /// Width and height to which its result is resized.
    pub to: (u32, u32),
}

/// Plan of the first enlargement by a network.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FirstPlan {
    /// Name of the network.
    pub name: String,
    /// Its architecture.
    pub network: EnlargerConfig,
    /// Its passes, each over the result of the one before.
    pub passes: Vec<FirstPass>,
    /// Its steps before the last one.
    pub steps: usize,
}

impl FirstPlan {
    /// The plan for a job of this geometry with a network of so many steps.
    pub(crate) fn new(first: &FirstEnlarger, steps: usize, geometry: &Geometry) -> Self {
        let network = *first.files().config();
        let from = (geometry.input.width, geometry.input.height);
        let to = (geometry.canvas.width as u32, geometry.canvas.height as u32);
        let passes = passes(from, to, network.scale() as u64);
        Self { name: first.name().to_owned(), network, passes, steps }
    }

    /// Height and width of the maps of a pass, in places.
    pub(crate) fn places(&self, pass: &FirstPass) -> (usize, usize) {
        let places = |pixels: u32| (pixels as usize).div_ceil(self.network.unit());
        (places(pass.from.1), places(pass.from.0))
    }

    /// Width and height of a pass's result before it is resized.
    pub(crate) fn made(&self, pass: &FirstPass) -> (u32, u32) {
        let scale = self.network.scale() as u32;
        (pass.from.0 * scale, pass.from.1 * scale)
    }

    /// Tiles of all steps of all passes, for the progress.
    pub(crate) fn tiles(&self, tile: usize) -> usize {
        let of_pass = |pass| {
            let (height, width) = self.places(pass);
            let columns = spans(width, tile, 0).len();
            columns
                * (self.steps * spans(height, tile, 0).len() + spans(height, LAST_ROWS, 0).len())
        };
        self.passes.iter().map(of_pass).sum()
    }

    /// The most bytes on the disk while it works: the maps of a pass in several tiles (that of the first step, that of the
    /// step before, and that which is made), the picture that the pass is given, and, of all but the last, that which it makes.
    pub(crate) fn disk_bytes(&self, tile: usize) -> u64 {
        let on_disk = |bytes: u64| if bytes > MEMORY_BYTES { bytes } else { 0 };
        let picture = |(width, height): (u32, u32)| {
            on_disk(u64::from(width) * u64::from(height) * PIXEL_BYTES as u64)
        };
        let of_pass = |(index, pass): (usize, &FirstPass)| {
            let (height, width) = self.places(pass);
            let map = height * width * self.network.features() * size_of::<f32>();
            let maps = if height.max(width) > tile { 3 * map as u64 } else { 0 };
            let given = if index > 0 { picture(pass.from) } else { 0 };
            let made = if index + 1 < self.passes.len() { picture(pass.to) } else { 0 };
            maps + given + made
        };
        self.passes.iter().enumerate().map(of_pass).max().unwrap_or(0)
    }
}

/// The first enlarger of a job before its tile is chosen.
pub struct FirstDraft {
    pub enlarger: Arc<FirstEnlarger>,
    pub plan: FirstPlan,
    pub footprint: Footprint,
    pub network: Enlarger,
}

impl FirstDraft {
    /// The first enlarger of a job of this geometry on a device.
    ///
    /// # Errors
    /// A tensor of another shape or type than the others imply.
    pub fn new(
        enlarger: Arc<FirstEnlarger>,
        device: &Device,
        geometry: &Geometry,
    ) -> Result<Self, Error> {
        let (network, footprint) = enlarger.files().without_values(device)?;
        let plan = FirstPlan::new(&enlarger, network.steps(), geometry);
        Ok(Self { enlarger, plan, footprint, network })
    }
}

impl fmt::Display for FirstPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, network, passes, .. } = self;
        write!(f, "{name} ({}, {}×), ", network.name(), network.scale())?;
        match passes.len() {
            1 => write!(f, "once")?,
            2 => write!(f, "twice")?,
            more => write!(f, "{more} times")?,
        }
        let is_resized = |pass: &FirstPass| self.made(pass) != pass.to;
        if passes.iter().any(is_resized) { write!(f, " and Lanczos") } else { Ok(()) }
    }
}

/// Sides of tiles that a plan tries, the largest first.
pub(crate) fn tiles(placement: Placement) -> impl Iterator<Item = usize> {
    let largest = if placement == Placement::Cpu { TILE_CPU } else { TILE_GPU };
    std::iter::successors(Some(largest), |tile| Some(tile / 2))
        .take_while(|&tile| tile >= TILE_LEAST)
}

/// Passes of a network that enlarges by `scale`: one, and more as long as the output is much larger than they reach. A picture
/// for a further pass is reduced to the size from which the passes left reach the output, so that none is larger than that.
fn passes(from: (u32, u32), to: (u32, u32), scale: u64) -> Vec<FirstPass> {
    let ratio = |to: u32, from: u32| f64::from(to) / f64::from(from);
    let ratio = ratio(to.0, from.0).max(ratio(to.1, from.1));
    let mut reaches = vec![scale];
    while let Some(&reach) = reaches.last()
        && scale > 1
        && (reach as f64) * SPARED < ratio
        && reaches.len() < MOST_PASSES
    {
        reaches.push(reach * scale);
    }
    let count = reaches.len() as u32;
    let mut given = from;
    (0..count)
        .map(|index| {
            let behind = scale.pow(count - 1 - index);
            let side = |to: u32| u64::from(to).div_ceil(behind) as u32;
            let pass = FirstPass { from: given, to: (side(to.0), side(to.1)) };
            given = pass.to;
            pass
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_runs_as_often_as_the_size_asks_for_and_ends_at_it() {
        let to = |from, to, scale| -> Vec<(u32, u32)> {
            passes(from, to, scale).iter().map(|pass| pass.to).collect()
        };
        assert_eq!(to((100, 50), (400, 200), 4), [(400, 200)]);
        // Lanczos reduces, and enlarges by a little.
        assert_eq!(to((100, 50), (200, 100), 4), [(200, 100)]);
        assert_eq!(to((100, 50), (600, 300), 4), [(600, 300)]);
        // Twice, with no picture larger than the output.
        assert_eq!(to((100, 50), (801, 401), 4), [(201, 101), (801, 401)]);
        assert_eq!(to((100, 50), (400, 200), 2), [(200, 100), (400, 200)]);
        assert_eq!(to((10, 10), (640, 640), 4), [(40, 40), (160, 160), (640, 640)]);
        // The side that grows more decides.
        assert_eq!(to((100, 50), (100, 200), 2), [(50, 100), (100, 200)]);
        // A network that enlarges nothing runs once.
        assert_eq!(to((100, 50), (400, 200), 1), [(400, 200)]);
        let chained = passes((10, 10), (640, 640), 4);
        assert!(chained.windows(2).all(|pair| pair[0].to == pair[1].from));
        assert_eq!(passes((1, 1), (u32::MAX, 1), 2).len(), MOST_PASSES);
    }
}
