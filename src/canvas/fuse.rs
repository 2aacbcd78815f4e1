//! Blending the regions' noise predictions into one for the whole canvas (METHOD.md, section 2, "Fusion").
//!
//! Every region is a window on the same `z_t`, and a scheduler step is linear in `(z, ε)`, so the weighted mean
//! of ε followed by one step equals stepping every region and averaging the results. The mean is gathered in f32
//! as `Σ w·ε` and divided by `Σ w`.
//!
//! Floating-point sums depend on their order, and regions come in whatever order batches and devices finish. So
//! the sum is always taken in row-major region order: a prediction that comes early waits for its turn.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::error::CanvasError;
use super::grid::{Region, RegionGrid};
use super::latent::{Latent, check_len};
use super::weights::{Fusion, axis_sum};

/// The memory in which predictions are blended, step after step.
#[derive(Debug)]
pub struct Fuser {
    fusion: Fusion,
    sum: Latent,
}

/// One step's fusion: `add` each region once, in any order, then `finish`.
#[derive(Debug)]
pub struct Round<'a> {
    sum: &'a mut Latent,
    grid: RegionGrid,
    /// Weights along one axis of a region.
    profile: Vec<f32>,
    /// The same, repeated for every channel: the weights of one row of a region.
    row_weights: Vec<f32>,
    next: usize,
    early: BTreeMap<usize, Vec<f32>>,
}

impl Fuser {
    /// A fuser that gathers in `sum`, a latent of the canvas's size (its contents do not matter).
    pub fn new(sum: Latent, fusion: Fusion) -> Self {
        Self { fusion, sum }
    }

    /// Starts a step on `grid`, from zero.
    ///
    /// # Errors
    /// [`CanvasError::GridMismatch`] if the grid is for another canvas.
    pub fn begin(&mut self, grid: &RegionGrid) -> Result<Round<'_>, CanvasError> {
        if (grid.height(), grid.width()) != (self.sum.height(), self.sum.width()) {
            return Err(CanvasError::GridMismatch {
                grid_height: grid.height(),
                grid_width: grid.width(),
                height: self.sum.height(),
                width: self.sum.width(),
            });
        }
        let channels = self.sum.channels();
        let profile = self.fusion.profile(grid.region_side(), grid.overlap());
        let row_weights = profile.iter().flat_map(|&w| std::iter::repeat_n(w, channels)).collect();
        self.sum.as_mut_slice().par_chunks_mut(1 << 16).for_each(|chunk| chunk.fill(0.0));
        Ok(Round {
            sum: &mut self.sum,
            grid: grid.clone(),
            profile,
            row_weights,
            next: 0,
            early: BTreeMap::new(),
        })
    }
}

impl<'a> Round<'a> {
    /// Adds the prediction of region `index`: `eps`, `[region side, region side, channels]`. What lies past the
    /// canvas is dropped. A region that comes before its turn is copied and kept until then, so hand regions
    /// over roughly in order to keep memory low.
    ///
    /// # Errors
    /// [`CanvasError::UnexpectedRegion`] for a region that the grid lacks or that came already,
    /// [`CanvasError::Length`] for a slice of another size. Neither changes the sum.
    pub fn add(&mut self, index: usize, eps: &[f32]) -> Result<(), CanvasError> {
        let count = self.grid.len();
        if index >= count || index < self.next || self.early.contains_key(&index) {
            return Err(CanvasError::UnexpectedRegion { index, count });
        }
        let side = self.grid.region_side();
        check_len("the prediction of a region", side * side * self.sum.channels(), eps.len())?;
        if index > self.next {
            self.early.insert(index, eps.to_vec());
            return Ok(());
        }
        self.accumulate(eps);
        while let Some(waiting) = self.early.remove(&self.next) {
            self.accumulate(&waiting);
        }
        Ok(())
    }

    /// Divides by the sum of weights and hands out the fused prediction, `[height, width, channels]`.
    ///
    /// # Errors
    /// [`CanvasError::MissingRegions`] if a region was never added.
    pub fn finish(self) -> Result<&'a mut Latent, CanvasError> {
        let count = self.grid.len();
        if self.next < count {
            let missing = count - self.next - self.early.len();
            return Err(CanvasError::MissingRegions { first: self.next, missing, count });
        }
        let sum_y = axis_sum(self.grid.ys(), &self.profile, self.sum.height());
        let sum_x = axis_sum(self.grid.xs(), &self.profile, self.sum.width());
        let (channels, row_len) = (self.sum.channels(), self.sum.row_len());
        self.sum.as_mut_slice().par_chunks_mut(row_len).zip(&sum_y).for_each(|(row, wy)| {
            for (pixel, wx) in row.chunks_exact_mut(channels).zip(&sum_x) {
                let weight = wy * wx;
                pixel.iter_mut().for_each(|value| *value /= weight);
            }
        });
        Ok(self.sum)
    }

    /// `sum += w·ε` over the region whose turn it is. Rows are independent, so threads cannot change the result.
    fn accumulate(&mut self, eps: &[f32]) {
        let Some(Region { y, x, height, width, .. }) = self.grid.region(self.next) else {
            return;
        };
        let (channels, row_len) = (self.sum.channels(), self.sum.row_len());
        let rows = height.min(self.sum.height() - y);
        let columns = width.min(self.sum.width() - x);
        let row_weights = &self.row_weights;
        self.sum
            .rows_mut(y..y + rows)
            .par_chunks_mut(row_len)
            .zip(eps.par_chunks(width * channels))
            .zip(&self.profile)
            .with_min_len(8)
            .for_each(|((sum_row, eps_row), wy)| {
                let target = &mut sum_row[x * channels..(x + columns) * channels];
                for ((value, wx), e) in target.iter_mut().zip(row_weights).zip(eps_row) {
                    *value += wy * wx * e;
                }
            });
        self.next += 1;
    }
}
