//! Work of a job: what its networks compute in each stage, counted by the traces that count their memory. Times follow from
//! it once it is known how fast a machine is.

use super::{
    memory::MemoryPlan,
    needs::Draft,
    pass::{Pass, Tile, WholeCanvas},
    regions,
    tiles::Span,
};
use crate::pipeline::{error::Error, finish::Finish};

/// Multiplications (each with its addition) of a job's networks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WorkAmounts {
    /// By the first enlarger.
    pub enlarge: f64,
    /// By the autoencoder's encoder.
    pub encode: f64,
    /// By the denoiser.
    pub denoise: f64,
    /// By the autoencoder's decoder.
    pub decode: f64,
}

impl Draft<'_> {
    /// Work of the job in the batches and tiles of `memory`.
    ///
    /// # Errors
    /// Errors of the blueprints.
    pub fn work(&self, memory: &MemoryPlan) -> Result<WorkAmounts, Error> {
        let geometry = self.geometry;
        let canvas = (geometry.canvas.latent_height, geometry.canvas.latent_width);
        let (tile, _) = self.tile(canvas, memory.tile, 0);
        let mut encode = match geometry.generated {
            true => 0.0,
            false => self.of_tiles(Pass::Encode(tile), tile, (memory.tile, 0))?,
        };
        if let Some(size) = geometry.low_resolution {
            encode +=
                self.traced(Pass::Encode(Tile { size, whole: WholeCanvas::Nothing }))?.products;
        }
        let rim = self.rim();
        let (tile, _) = self.tile(canvas, memory.tile, rim);
        let decode = self.of_tiles(Pass::Decode(tile), tile, (memory.tile, rim))?
            * self.decoded_share(tile, memory.tile);

        let pair = if self.sampling.guidance.is_some() { 2 } else { 1 };
        let batch = pair * memory.batch.min(self.most_regions());
        let (region_height, region_width) = geometry.grid.region_size();
        let size = (batch, region_height, region_width);
        let (of_batch, of_whole) = match geometry.low_resolution {
            None => (self.traced(Pass::Denoise(size))?, 0.0),
            Some((height, width)) => (
                self.traced(Pass::Blend(size))?,
                self.traced(Pass::Record((pair, height, width)))?.products,
            ),
        };
        let batches = (pair * regions::in_all(self.regions)) as f64 / batch as f64;
        let steps = self.sampling.steps.len() as f64;
        let denoise = batches * of_batch.products + steps * of_whole;
        let enlarge = self.enlarging(memory.first_tile)?.products;
        Ok(WorkAmounts { enlarge, encode, denoise, decode })
    }

    /// Share of the VAE tiles, whose cores have `side` image pixels, that a mask leaves to be decoded.
    fn decoded_share(&self, tile: Tile, side: usize) -> f64 {
        let is_whole = matches!(tile.whole, WholeCanvas::Layers(_));
        let Some(mask) = self.mask.filter(|_| !is_whole) else { return 1.0 };
        if Finish::new(self.settings, self.geometry).needs_whole() {
            return 1.0;
        }
        let (rows, columns) = (
            self.geometry.tiles(self.geometry.canvas.latent_height, side),
            self.geometry.tiles(self.geometry.canvas.latent_width, side),
        );
        let of_row = |row: &Span| {
            let decoded =
                columns.iter().filter(|it| !mask.keeps(row.core.clone(), it.core.clone()));
            decoded.count()
        };
        let decoded: usize = rows.iter().map(of_row).sum();
        decoded as f64 / (rows.len() * columns.len()) as f64
    }

    /// Products of a pass over every tile, whose cores have `side` image pixels and a rim, if over `largest` they are
    /// those of `pass`: what a tile takes follows its area.
    fn of_tiles(
        &self,
        pass: Pass,
        largest: Tile,
        (side, rim): (usize, usize),
    ) -> Result<f64, Error> {
        let products = self.traced(pass)?.products;
        if let WholeCanvas::Layers(_) = largest.whole {
            return Ok(products);
        }
        let canvas = self.geometry.canvas;
        let padded = |length: usize| -> usize {
            let spans = self.geometry.tiles(length, side);
            spans.iter().map(|span| span.with_rim(rim).padded().len()).sum()
        };
        let area = padded(canvas.latent_height) * padded(canvas.latent_width);
        let (height, width) = largest.size;
        let tiles = area as f64 / (height * width) as f64;
        let (count, sample_height, sample_width) = match largest.whole {
            WholeCanvas::Samples(samples) => samples,
            WholeCanvas::Nothing | WholeCanvas::Layers(_) => (0, 0, 0),
        };
        // The samples go through once, before the first tile, and are in the pass.
        let samples = (count * sample_height * sample_width) as f64 / (height * width) as f64;
        Ok(products / (1.0 + samples) * (tiles + samples))
    }
}
