//! What a mask leaves of a job: the shares of the canvas's cells, and the regions that touch any cell that is repainted.

use std::{ops::Range, sync::Arc};

use super::geometry::Geometry;
use crate::{
    canvas::{Latent, Region, RegionGrid},
    pipeline::{error::Error, mask::Mask},
};

/// The mask of a job on its canvas.
#[derive(Clone, Debug)]
pub(crate) struct MaskPlan {
    /// Share of the repaint in each cell, `[height, width, 1]`.
    pub cells: Arc<Latent>,
}

impl MaskPlan {
    /// That of `mask` on this canvas.
    ///
    /// # Errors
    /// No memory or disk for the cells.
    pub fn new(mask: &Mask, geometry: &Geometry) -> Result<Self, Error> {
        Ok(Self { cells: mask.cells(geometry.canvas)? })
    }

    /// True if no cell of these rows and columns is repainted; what lies past the canvas does not count.
    pub fn keeps(&self, rows: Range<usize>, columns: Range<usize>) -> bool {
        let (height, width) = (self.cells.height(), self.cells.width());
        let (rows, columns) =
            (rows.start..rows.end.min(height), columns.start..columns.end.min(width));
        rows.into_iter().all(|y| {
            let row = self.cells.rows(y..y + 1);
            row[columns.clone()].iter().all(|&share| share == 0.0)
        })
    }

    /// The regions of a grid that touch any cell that is repainted, in their order.
    pub fn touched(&self, grid: &RegionGrid) -> Vec<Region> {
        let touches =
            |&Region { y, x, height, width, .. }: &Region| !self.keeps(y..y + height, x..x + width);
        grid.regions().filter(touches).collect()
    }

    /// Cells that are repainted, wholly or in part.
    pub fn repainted(&self) -> usize {
        self.cells.as_slice().iter().filter(|&&share| share > 0.0).count()
    }
}
