//! Regions in which the canvas is denoised (docs/method.md §2, "Regions").
//!
//! Per axis the regions are spread evenly instead of pushing the last one back, so that no seam gets much
//! less overlap than the others. Starts are even: a Haar block or a denoiser's stride-2 cell then never straddles
//! two regions' grids.

use super::error::CanvasError;

/// One region of the grid, in latent pixels. All regions of a grid have the same size, so they batch; on a
/// canvas that is smaller than a region, the region reaches past the canvas ([`super::Latent::gather`] mirrors).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Place in row-major order: `row × columns + col`.
    pub index: usize,
    /// Row of the grid.
    pub row: usize,
    /// Column of the grid.
    pub col: usize,
    /// First row on the canvas.
    pub y: usize,
    /// First column on the canvas.
    pub x: usize,
    /// Rows, reaching past the canvas where that is smaller.
    pub height: usize,
    /// Columns, reaching past the canvas where that is smaller.
    pub width: usize,
}

/// The regions of a canvas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionGrid {
    height: usize,
    width: usize,
    /// Height and width of a region.
    region: (usize, usize),
    overlap: usize,
    ys: Vec<usize>,
    xs: Vec<usize>,
}

impl RegionGrid {
    /// The grid of square regions of side `region` that cover `height × width` latent pixels with at least
    /// `overlap` pixels in common between neighbours (one less where `overlap` is odd, because of the rounding).
    ///
    /// Starts are even, except that the last region of an axis always ends at the canvas's edge: on a canvas
    /// with an odd side, which [`super::CanvasSize`] never gives, its start is odd.
    ///
    /// # Errors
    /// [`CanvasError::RegionSide`] for an odd or zero side, [`CanvasError::Overlap`] for `overlap >= region`,
    /// [`CanvasError::EmptyLatent`] for an empty canvas.
    pub fn new(
        height: usize,
        width: usize,
        region: usize,
        overlap: usize,
    ) -> Result<Self, CanvasError> {
        if region == 0 || !region.is_multiple_of(2) {
            return Err(CanvasError::RegionSide { region });
        }
        if overlap >= region {
            return Err(CanvasError::Overlap { overlap, region });
        }
        if height == 0 || width == 0 {
            return Err(CanvasError::EmptyLatent { height, width, channels: 1 });
        }
        let ys = axis_starts(height, region, overlap);
        let xs = axis_starts(width, region, overlap);
        Ok(Self { height, width, region: (region, region), overlap, ys, xs })
    }

    /// The grid whose one region is the whole of `height × width` latent pixels, whatever their shape.
    ///
    /// # Errors
    /// [`CanvasError::EmptyLatent`] for an empty canvas.
    pub fn whole(height: usize, width: usize) -> Result<Self, CanvasError> {
        if height == 0 || width == 0 {
            return Err(CanvasError::EmptyLatent { height, width, channels: 1 });
        }
        Ok(Self { height, width, region: (height, width), overlap: 0, ys: vec![0], xs: vec![0] })
    }

    /// Number of regions.
    pub fn len(&self) -> usize {
        self.ys.len() * self.xs.len()
    }

    /// Never true: a grid has at least one region.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Region number `index` in row-major order, or `None` past the last.
    pub fn region(&self, index: usize) -> Option<Region> {
        let (row, col) = (index / self.xs.len(), index % self.xs.len());
        let y = *self.ys.get(row)?;
        Some(Region {
            index,
            row,
            col,
            y,
            x: self.xs[col],
            height: self.region.0,
            width: self.region.1,
        })
    }

    /// All regions in row-major order.
    pub fn regions(&self) -> impl ExactSizeIterator<Item = Region> + '_ {
        (0..self.len())
            .map(|index| self.region(index).expect("every index below len() is a region"))
    }

    /// First rows of the grid's rows, ascending.
    pub fn ys(&self) -> &[usize] {
        &self.ys
    }

    /// First columns of the grid's columns, ascending.
    pub fn xs(&self) -> &[usize] {
        &self.xs
    }

    /// Rows of the canvas.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns of the canvas.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height and width of a region: of one side, but for a canvas that is one region whatever its shape.
    pub fn region_size(&self) -> (usize, usize) {
        self.region
    }

    /// The overlap asked for, which is also the width of the feather.
    pub fn overlap(&self) -> usize {
        self.overlap
    }
}

/// Starts of `⌈(L − o)/(R − o)⌉` regions spread evenly over 0…L−R, interior ones rounded to the nearest even
/// number. Neighbours never come apart: rounding to even is monotone and `R` is even, so a spacing of at most
/// `R` before rounding is at most `R` after it (and `L − R`, where odd, lies below its even neighbour).
fn axis_starts(length: usize, region: usize, overlap: usize) -> Vec<usize> {
    if length <= region {
        return vec![0];
    }
    let n = (length - overlap).div_ceil(region - overlap);
    let span = length - region;
    let mut starts: Vec<usize> = (0..n)
        .map(|i| {
            if i == n - 1 {
                return span;
            }
            // 2·round(i·span / (2·(n − 1))), halves up, in whole numbers.
            let (p, q) = (i as u128 * span as u128, (n - 1) as u128);
            2 * ((p + q) / (2 * q)) as usize
        })
        .collect();
    // A spacing below 2 rounds neighbours onto each other; a region twice is only work twice.
    starts.dedup();
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sdxl_at_4096_pixels_has_the_49_regions_of_the_paper() {
        let grid = RegionGrid::new(512, 512, 128, 64).unwrap();
        assert_eq!(grid.len(), 49);
        assert_eq!(grid.ys(), [0, 64, 128, 192, 256, 320, 384]);
        let last = grid.regions().last().unwrap();
        assert_eq!((last.index, last.row, last.col, last.y, last.x), (48, 6, 6, 384, 384));
        // An overlap of a quarter: 25 regions (docs/method.md §7).
        assert_eq!(RegionGrid::new(512, 512, 128, 32).unwrap().len(), 25);
    }

    #[test]
    fn a_canvas_no_larger_than_a_region_is_one_region_of_full_size() {
        for (height, width) in [(1, 1), (3, 128), (128, 128)] {
            let grid = RegionGrid::new(height, width, 128, 64).unwrap();
            assert_eq!(grid.len(), 1);
            let only = grid.region(0).unwrap();
            assert_eq!((only.y, only.x, only.height, only.width), (0, 0, 128, 128));
            assert_eq!(grid.region(1), None);
        }
    }

    #[test]
    fn starts_are_spread_evenly_and_rounded_to_even() {
        // L − R = 70, 3 regions: 35 is halfway between 34 and 36 and goes up.
        assert_eq!(axis_starts(198, 128, 64), [0, 36, 70]);
        assert_eq!(axis_starts(256, 64, 0), [0, 64, 128, 192]);
        assert_eq!(axis_starts(130, 128, 127), [0, 2]);
        // An odd canvas: the last region still ends at the edge.
        assert_eq!(axis_starts(9, 4, 0), [0, 2, 5]);
    }

    #[test]
    fn grids_that_cannot_be_are_typed_errors() {
        assert!(matches!(
            RegionGrid::new(64, 64, 16, 16),
            Err(CanvasError::Overlap { overlap: 16, region: 16 })
        ));
        assert!(matches!(
            RegionGrid::new(64, 64, 15, 4),
            Err(CanvasError::RegionSide { region: 15 })
        ));
        assert!(matches!(
            RegionGrid::new(64, 64, 0, 0),
            Err(CanvasError::RegionSide { region: 0 })
        ));
        assert!(matches!(RegionGrid::new(0, 64, 16, 4), Err(CanvasError::EmptyLatent { .. })));
    }
}
