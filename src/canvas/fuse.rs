//! Blending the regions' noise predictions into one for the whole canvas (docs/method.md §2, "Fusion").
//!
//! Every region is a window on the same `z_t`, and a scheduler step is linear in `(z, ε)`, so the weighted mean
//! of ε followed by one step equals stepping every region and averaging the results. The mean is taken in f32
//! as `Σ w·ε / Σ w`.
//!
//! The predictions of all regions are kept until a step has them all (some four times the canvas at the usual
//! overlap, in a mapped file), and the mean is taken band by band from them. So a prediction can be written any
//! number of times, in any order and by any process, and the result is the same bits: sums are always taken in
//! row-major region order.

use std::ops::Range;

use rayon::prelude::*;

use super::error::{CanvasError, check_len};
use super::grid::RegionGrid;
use super::weights::{Fusion, axis_sum};

/// The blend of one grid's predictions.
#[derive(Debug, Clone)]
pub struct Fuser {
    grid: RegionGrid,
    channels: usize,
    /// Weights of a region's rows.
    profile: Vec<f32>,
    /// Those of its columns, repeated for every channel: the weights of one row of a region.
    row_weights: Vec<f32>,
    /// Sums of the weights that meet in each row and each column of the canvas.
    sum_y: Vec<f32>,
    sum_x: Vec<f32>,
    /// Place of each region among those whose predictions there are.
    places: Vec<Option<usize>>,
}

impl Fuser {
    /// The blend of predictions of `channels` channels on `grid`.
    #[must_use]
    pub fn new(fusion: Fusion, grid: &RegionGrid, channels: usize) -> Self {
        let (height, width) = grid.region_size();
        let profile = fusion.profile(height, grid.overlap());
        let columns = fusion.profile(width, grid.overlap());
        Self {
            channels,
            row_weights: columns.iter().flat_map(|&w| std::iter::repeat_n(w, channels)).collect(),
            sum_y: axis_sum(grid.tops(), &profile, grid.height()),
            sum_x: axis_sum(grid.lefts(), &columns, grid.width()),
            places: (0..grid.len()).map(Some).collect(),
            grid: grid.clone(),
            profile,
        }
    }

    /// The blend of these regions alone, in the grid's order: it is that of all wherever every region that covers a place is
    /// among them, and elsewhere means nothing.
    #[must_use]
    pub fn of_some(self, indices: impl IntoIterator<Item = usize>) -> Self {
        let mut places = vec![None; self.grid.len()];
        for (place, index) in indices.into_iter().enumerate() {
            places[index] = Some(place);
        }
        Self { places, ..self }
    }

    /// Values of one region's prediction: its height × width × channels.
    #[must_use]
    pub fn prediction_len(&self) -> usize {
        let (height, width) = self.grid.region_size();
        height * width * self.channels
    }

    /// Blends the rows `rows` of the canvas into `out`, `[rows, width, channels]`. `predictions` holds those of
    /// the regions in the grid's order, `[regions, region height, region width, channels]`; of a region that
    /// reaches past the canvas, what lies there is dropped. Threads cannot change the result: rows are
    /// independent.
    ///
    /// # Errors
    /// [`CanvasError::Length`] for slices of another size.
    ///
    /// # Panics
    /// If the range reaches past the last row.
    pub fn band(
        &self,
        rows: Range<usize>,
        predictions: &[f32],
        out: &mut [f32],
    ) -> Result<(), CanvasError> {
        let row_len = self.grid.width() * self.channels;
        let size = self.prediction_len();
        let count = self.places.iter().flatten().count();
        check_len("the regions' predictions", count * size, predictions.len())?;
        check_len("a band of the canvas", rows.len() * row_len, out.len())?;
        let sums = &self.sum_y[rows.clone()];
        out.par_chunks_mut(row_len).zip(rows).zip(sums).with_min_len(8).for_each(
            |((row, y), wy)| {
                row.fill(0.0);
                self.accumulate(y, predictions, row);
                for (pixel, wx) in row.chunks_exact_mut(self.channels).zip(&self.sum_x) {
                    let weight = wy * wx;
                    pixel.iter_mut().for_each(|value| *value /= weight);
                }
            },
        );
        Ok(())
    }

    /// `row += w·ε` for every region that has a part in row `y` of the canvas.
    fn accumulate(&self, y: usize, predictions: &[f32], row: &mut [f32]) {
        let ((height, side), channels) = (self.grid.region_size(), self.channels);
        let columns = self.grid.xs();
        for (index, (&top, &from)) in self.grid.ys().iter().zip(self.grid.tops()).enumerate() {
            let within = usize::try_from(y as isize - from).ok();
            let Some(wy) = within.and_then(|dy| self.profile.get(dy)) else { continue };
            for (column, (&x, &from)) in columns.iter().zip(self.grid.lefts()).enumerate() {
                let Some(place) = self.places[index * columns.len() + column] else { continue };
                let line = (place * height + (y - top)) * side * channels;
                // A region that was moved back onto the canvas counts where it would have lain.
                let first = from.max(0) as usize;
                let end = ((from + side as isize) as usize).min(self.grid.width());
                let target = &mut row[first * channels..end * channels];
                let weights = &self.row_weights[(first as isize - from) as usize * channels..];
                let eps = &predictions[line + (first - x) * channels..][..target.len()];
                for ((value, wx), e) in target.iter_mut().zip(weights).zip(eps) {
                    *value += wy * wx * e;
                }
            }
        }
    }
}
