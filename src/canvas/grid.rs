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
    /// Where the fusion weights of the rows and columns of regions begin: at their starts, but for regions of a moved grid
    /// that would reach past the canvas.
    tops: Vec<isize>,
    lefts: Vec<isize>,
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
        let (tops, lefts) = (signed(&ys), signed(&xs));
        Ok(Self { height, width, region: (region, region), overlap, ys, xs, tops, lefts })
    }

    /// The grid whose one region is the whole of `height × width` latent pixels, whatever their shape.
    ///
    /// # Errors
    /// [`CanvasError::EmptyLatent`] for an empty canvas.
    pub fn whole(height: usize, width: usize) -> Result<Self, CanvasError> {
        if height == 0 || width == 0 {
            return Err(CanvasError::EmptyLatent { height, width, channels: 1 });
        }
        let (starts, from) = (vec![0], vec![0]);
        Ok(Self {
            height,
            width,
            region: (height, width),
            overlap: 0,
            ys: starts.clone(),
            xs: starts,
            tops: from.clone(),
            lefts: from,
        })
    }

    /// The even distances by which the grid can be moved up, and to the left: 2, 4 and so on up to this, below the distance of
    /// neighbours; 0 along an axis with one region or with neighbours too close.
    pub fn reach(&self) -> (usize, usize) {
        let of = |starts: &[usize]| {
            let nearest = starts.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap_or(0);
            (nearest / 2 * 2).saturating_sub(2)
        };
        (of(&self.ys), of(&self.xs))
    }

    /// The grid moved up and to the left by even distances within [`reach`](Self::reach), with one more region along an axis
    /// that is moved. A region that would reach past the canvas is moved back onto it, and counts where it would have lain:
    /// so all seams move, those beside the canvas's edge too.
    #[must_use]
    pub fn moved(&self, up: usize, left: usize) -> Self {
        let (ys, tops) = moved_axis(&self.ys, up);
        let (xs, lefts) = moved_axis(&self.xs, left);
        Self { ys, xs, tops, lefts, ..self.clone() }
    }

    /// The region of this grid that overlaps most with a region of a [moved](Self::moved) one; of two the upper left.
    pub fn nearest(&self, region: &Region) -> usize {
        let of = |starts: &[usize], at: usize| {
            let distances = starts.iter().map(|start| start.abs_diff(at)).enumerate();
            distances.min_by_key(|it| it.1).map_or(0, |it| it.0)
        };
        of(&self.ys, region.y) * self.xs.len() + of(&self.xs, region.x)
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

    /// Rows at which the weights of the grid's rows begin, which may lie outside of the canvas.
    pub fn tops(&self) -> &[isize] {
        &self.tops
    }

    /// Columns at which the weights of the grid's columns begin.
    pub fn lefts(&self) -> &[isize] {
        &self.lefts
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

/// The starts of a moved axis, and where the weights of its regions begin.
fn moved_axis(starts: &[usize], back: usize) -> (Vec<usize>, Vec<isize>) {
    let mut from = signed(starts);
    let (&[.., before, last], 1..) = (&from[..], back) else {
        return (starts.to_vec(), from);
    };
    from.push(2 * last - before);
    from.iter_mut().for_each(|start| *start -= back as isize);
    (from.iter().map(|&start| start.clamp(0, last) as usize).collect(), from)
}

fn signed(starts: &[usize]) -> Vec<isize> {
    starts.iter().map(|&start| start as isize).collect()
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
    fn a_moved_grid_covers_the_canvas_with_seams_elsewhere() {
        let grid = RegionGrid::new(512, 198, 128, 64).unwrap();
        assert_eq!(grid.reach(), (62, 32));
        let moved = grid.moved(10, 32);
        assert_eq!(moved.ys(), [0, 54, 118, 182, 246, 310, 374, 384]);
        assert_eq!(moved.tops(), [-10, 54, 118, 182, 246, 310, 374, 438]);
        assert_eq!((moved.xs(), moved.lefts()), (&[0, 4, 38, 70][..], &[-32, 4, 38, 72][..]));
        assert_eq!(moved.len(), 32);
        let last = moved.region(31).unwrap();
        assert_eq!((last.y, last.x, last.height), (384, 70, 128));
        // Along an axis that is not moved all stays.
        assert_eq!(grid.moved(0, 2).ys(), grid.ys());
        let one = RegionGrid::new(100, 512, 128, 64).unwrap();
        assert_eq!(one.reach(), (0, 62));
        assert_eq!(RegionGrid::new(130, 130, 128, 127).unwrap().reach(), (0, 0));
    }

    #[test]
    fn a_region_of_a_moved_grid_has_a_nearest_one() {
        let grid = RegionGrid::new(128, 256, 128, 64).unwrap();
        assert_eq!(grid.xs(), [0, 64, 128]);
        let moved = grid.moved(0, 32);
        let nearest: Vec<usize> = moved.regions().map(|region| grid.nearest(&region)).collect();
        assert_eq!((moved.xs(), &nearest[..]), (&[0, 32, 96, 128][..], &[0, 0, 1, 2][..]));
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
