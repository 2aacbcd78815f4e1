//! Mask of a job: which parts of the picture are repainted and which are kept, as a picture of any size says it
//! (docs/method.md §6c). White is repainted, black is kept, grey blends.
//!
//! The mask is resized to the output window by window, so that a mask of any size costs the rows that are worked on, and
//! once to the cells of the latent, which hold the canvas while it is sampled and tell which regions need not run.

use std::{
    ops::Range,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::error::Error;
use crate::{
    canvas::{
        CanvasSize, Latent,
        latent::{MEMORY_BYTES, reflect, reflected},
    },
    image::{Filter, Picture, Resizer},
    temporary::private_folder,
    units,
};

/// Share of each channel in the luminance of a colour: those of ITU-R BT.601, as Pillow's mode `L`, by which diffusers and
/// Automatic1111 read masks.
const LUMINANCE: [f32; 3] = [0.299, 0.587, 0.114];

/// Distance from 0 and from 1 within which a share is that: the rounding of a resize.
const ROUNDING: f32 = 1e-6;

/// Pixels of the output that are averaged to cells at once.
const BAND_PIXELS: usize = 1 << 20;

/// Samples of the mask's plane that are looked at at once.
const PIECE: usize = 1 << 18;

/// Shares of the repaint in the cells of a canvas of this size.
type Cells = (CanvasSize, Arc<Latent>);

/// A mask. Clones share it.
#[derive(Clone, Debug)]
pub struct Mask {
    picture: Arc<Picture>,
    /// The opacity is the mask, and not the luminance.
    by_alpha: bool,
    inverted: bool,
    feather: u32,
    /// Digest of the samples, once it was asked for.
    digest: Arc<OnceLock<String>>,
    /// The cells of the last canvas that was asked for.
    cells: Arc<Mutex<Option<Cells>>>,
}

impl Mask {
    /// The mask that `picture` shows: by its luminance, or, where it is transparent anywhere, by its opacity, whatever is
    /// painted there.
    #[must_use]
    pub fn new(picture: Picture) -> Self {
        let mut buffer = Vec::new();
        let by_alpha = picture.alpha.as_ref().is_some_and(|alpha| {
            let mut pieces = (0..alpha.len()).step_by(PIECE);
            pieces.any(|start| {
                let piece = start..(start + PIECE).min(alpha.len());
                alpha.samples(piece, &mut buffer).iter().any(|&value| value < 1.0)
            })
        });
        Self {
            picture: Arc::new(picture),
            by_alpha,
            inverted: false,
            feather: 0,
            digest: Arc::default(),
            cells: Arc::default(),
        }
    }

    /// The mask that keeps what this one repaints, if `inverted`.
    #[must_use]
    pub fn inverted(self, inverted: bool) -> Self {
        Self { inverted, cells: Arc::default(), ..self }
    }

    /// The mask whose edges are smoothed over so many output pixels on either side.
    #[must_use]
    pub fn feathered(self, pixels: u32) -> Self {
        Self { feather: pixels, cells: Arc::default(), ..self }
    }

    /// True if it keeps what its picture shows as repainted.
    #[must_use]
    pub fn is_inverted(&self) -> bool {
        self.inverted
    }

    /// Output pixels on either side over which edges are smoothed.
    #[must_use]
    pub fn feather(&self) -> u32 {
        self.feather
    }

    /// Digest of the picture's size and samples, in hexadecimal digits.
    pub(crate) fn digest(&self) -> &str {
        self.digest.get_or_init(|| {
            let Picture { width, height, rgb, alpha, .. } = &*self.picture;
            let plane = alpha.as_ref().filter(|_| self.by_alpha).unwrap_or(rgb);
            let mut hash = Sha256::new();
            [u32::from(self.by_alpha), *width, *height]
                .iter()
                .for_each(|number| hash.update(number.to_le_bytes()));
            let mut buffer = Vec::new();
            for start in (0..plane.len()).step_by(PIECE) {
                let piece = start..(start + PIECE).min(plane.len());
                let samples = plane.samples(piece, &mut buffer).iter();
                let bytes: Vec<u8> = samples.flat_map(|value| value.to_le_bytes()).collect();
                hash.update(&bytes);
            }
            units::hex(&hash.finalize())
        })
    }

    /// Bytes of the picture that are in memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.picture.shape().memory_bytes()
    }

    /// Bytes of a window of this height and width while it is made: colours, shares, and sums of the feather.
    pub(crate) fn window_bytes(&self, (height, width): (usize, usize)) -> usize {
        let wide = |side: usize| side + 2 * self.feather as usize;
        wide(height) * wide(width) * (4 * size_of::<f32>() + 2 * size_of::<f64>())
    }

    /// The mask at an output's width and height.
    ///
    /// # Errors
    /// A size of zero.
    pub(crate) fn at(&self, width: usize, height: usize) -> Result<MaskWindows<'_>, Error> {
        let Picture { rgb, alpha, .. } = &*self.picture;
        let (plane, channels) = match alpha {
            Some(alpha) if self.by_alpha => (alpha, 1),
            _ => (rgb, 3),
        };
        let (from, to) = ((self.picture.width, self.picture.height), (width as u32, height as u32));
        Ok(MaskWindows {
            resizer: Resizer::of_plane(plane, channels, from, to, Filter::Bilinear)?,
            channels,
            inverted: self.inverted,
            feather: self.feather as usize,
        })
    }

    /// The mean share of each cell of a canvas, `[latent height, latent width, 1]`; above 0 where any pixel of the cell is.
    ///
    /// # Errors
    /// No memory or disk for them.
    pub(crate) fn cells(&self, canvas: CanvasSize) -> Result<Arc<Latent>, Error> {
        let mut known = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((size, cells)) = &*known
            && *size == canvas
        {
            return Ok(Arc::clone(cells));
        }
        let cells = Arc::new(self.average(canvas)?);
        *known = Some((canvas, Arc::clone(&cells)));
        Ok(cells)
    }

    fn average(&self, canvas: CanvasSize) -> Result<Latent, Error> {
        let CanvasSize { latent_height, latent_width, padded_width, width, height, .. } = canvas;
        let windows = self.at(width, height)?;
        let factor = padded_width / latent_width;
        let mut cells = match latent_height * latent_width * size_of::<f32>() {
            ..=MEMORY_BYTES => Latent::in_memory(latent_height, latent_width, 1)?,
            _ => Latent::temporary(&private_folder()?, latent_height, latent_width, 1)?,
        };
        // Where the canvas goes on behind the picture, both are mirrored.
        let column: Vec<usize> = (0..padded_width).map(|x| reflect(x, width)).collect();
        let band = (BAND_PIXELS / (factor * width)).max(1);
        for top in (0..latent_height).step_by(band) {
            let rows = top..(top + band).min(latent_height);
            let lines = reflected(&(rows.start * factor..rows.end * factor), height);
            let shares = windows.window(0..width, lines.clone());
            let out = cells.rows_mut(rows.clone());
            out.par_chunks_exact_mut(latent_width).zip(rows).for_each(|(out, row)| {
                for (cell, out) in out.iter_mut().enumerate() {
                    let mut sum = 0.0;
                    for y in row * factor..(row + 1) * factor {
                        let line = &shares[(reflect(y, height) - lines.start) * width..][..width];
                        let columns = &column[cell * factor..(cell + 1) * factor];
                        sum += columns.iter().map(|&x| f64::from(line[x])).sum::<f64>();
                    }
                    *out = (sum / (factor * factor) as f64) as f32;
                }
            });
        }
        Ok(cells)
    }
}

/// A mask at the size of an output, of which windows are made on demand.
pub(crate) struct MaskWindows<'a> {
    resizer: Resizer<'a>,
    channels: usize,
    inverted: bool,
    feather: usize,
}

impl MaskWindows<'_> {
    /// The share of the repaint in the pixels of columns `x` and rows `y`, `[y, x]` in 0…1. It does not depend on the window.
    pub(crate) fn window(&self, x: Range<usize>, y: Range<usize>) -> Vec<f32> {
        let (width, height) = self.resizer.size();
        let wide = |range: &Range<usize>, length: u32| {
            let length = length as usize;
            range.start.saturating_sub(self.feather)..(range.end + self.feather).min(length)
        };
        let (columns, rows) = (wide(&x, width), wide(&y, height));
        let of = |range: &Range<usize>| range.start as u32..range.end as u32;
        let samples = self.resizer.window(of(&columns), of(&rows));
        let share = |sample: &[f32]| {
            let share = match sample {
                [opacity] => *opacity,
                colour => colour.iter().zip(LUMINANCE).map(|(value, share)| value * share).sum(),
            };
            let share = if self.inverted { 1.0 - share } else { share };
            match share {
                ..ROUNDING => 0.0,
                share if share > 1.0 - ROUNDING => 1.0,
                share => share,
            }
        };
        let shares: Vec<f32> = samples.par_chunks_exact(self.channels).map(share).collect();
        if self.feather == 0 {
            return shares;
        }
        let size = (width as usize, height as usize);
        feathered(&shares, (&columns, &rows), (&x, &y), size, self.feather)
    }
}

/// The shares of columns `x` and rows `y`, smoothed by a tent that reaches `radius` pixels to each side; what lies past the
/// picture's edge is the edge. `shares` are those of the ranges `from`.
///
/// The tent's weights are whole numbers, so that what is 0 or 1 all around is that to the bit.
fn feathered(
    shares: &[f32],
    (columns, rows): (&Range<usize>, &Range<usize>),
    (x, y): (&Range<usize>, &Range<usize>),
    (width, height): (usize, usize),
    radius: usize,
) -> Vec<f32> {
    let weight = |distance: usize| (radius + 1 - distance) as f64;
    let sum = ((radius + 1) * (radius + 1)) as f64;
    let near = |at: usize, length: usize| {
        (0..=2 * radius).map(move |step| {
            let place = (at + step).saturating_sub(radius).min(length - 1);
            (place, weight(step.abs_diff(radius)))
        })
    };
    let mut across = vec![0.0f64; rows.len() * x.len()];
    across.par_chunks_exact_mut(x.len()).zip(shares.par_chunks_exact(columns.len())).for_each(
        |(out, line)| {
            let first = line[0];
            if (first == 0.0 || first == 1.0) && line.iter().all(|&share| share == first) {
                return out.fill(f64::from(first));
            }
            for (out, at) in out.iter_mut().zip(x.clone()) {
                let taps = near(at, width);
                let sum_of = taps.map(|(at, w)| w * f64::from(line[at - columns.start]));
                *out = sum_of.sum::<f64>() / sum;
            }
        },
    );
    let mut result = vec![0.0f32; y.len() * x.len()];
    result.par_chunks_exact_mut(x.len()).zip(y.clone()).for_each(|(out, at)| {
        let mut total = vec![0.0f64; x.len()];
        for (row, w) in near(at, height) {
            let line = &across[(row - rows.start) * x.len()..][..x.len()];
            total.iter_mut().zip(line).for_each(|(total, value)| *total += w * value);
        }
        out.iter_mut().zip(total).for_each(|(out, total)| *out = (total / sum) as f32);
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A grey mask of these rows.
    fn mask(rows: &[&[f32]]) -> Mask {
        let rgb = rows.concat().iter().flat_map(|&value| [value; 3]).collect();
        Mask::new(Picture::from_rgb(rows[0].len() as u32, rows.len() as u32, rgb).unwrap())
    }

    #[test]
    fn black_and_white_stay_exact_whatever_the_size_and_grey_lies_between() {
        let mask = mask(&[&[0.0, 1.0], &[0.0, 1.0]]);
        let shares = mask.at(40, 12).unwrap().window(0..40, 0..12);
        for line in shares.chunks_exact(40) {
            assert!(line[..10].iter().all(|&share| share == 0.0), "{line:?}");
            assert!(line[30..].iter().all(|&share| share == 1.0), "{line:?}");
            assert!(line.is_sorted() && line[19] < 0.5 && line[20] > 0.5, "{line:?}");
        }
        let inverted = mask.inverted(true);
        let turned = inverted.at(40, 12).unwrap().window(0..40, 0..12);
        assert!(shares.iter().zip(&turned).all(|(a, b)| (a + b - 1.0).abs() < 1e-6));
        assert!(turned[..10].iter().all(|&share| share == 1.0));
    }

    #[test]
    fn luminance_is_pillows_and_transparency_goes_before_it() {
        let of = |picture: Picture| Mask::new(picture).at(1, 1).unwrap().window(0..1, 0..1)[0];
        let colour = Picture::from_rgb(1, 1, vec![1.0, 0.5, 0.25]).unwrap();
        assert!((of(colour.clone()) - 0.621).abs() < 1e-6);
        let with = |alpha: f32| {
            let mut picture = colour.clone();
            picture.alpha = Some([alpha].into_iter().collect());
            picture
        };
        assert_eq!(of(with(0.75)), 0.75);
        assert!((of(with(1.0)) - 0.621).abs() < 1e-6);
    }

    #[test]
    fn a_feather_reaches_as_far_as_it_says_and_no_window_changes_it() {
        let mut rows = vec![0.0; 60];
        rows[30..].fill(1.0);
        let mask = mask(&[&rows[..]; 20]).feathered(8);
        let windows = mask.at(60, 20).unwrap();
        let whole = windows.window(0..60, 0..20);
        let line = &whole[..60];
        assert!(line[..22].iter().all(|&share| share == 0.0), "{line:?}");
        assert!(line[38..].iter().all(|&share| share == 1.0), "{line:?}");
        assert!(line[21..39].windows(2).all(|pair| pair[0] < pair[1]), "{line:?}");
        assert!((line[29] + line[30] - 1.0).abs() < 1e-6);
        for (x, y) in [(0..60, 3..4), (25..35, 0..20), (37..60, 19..20)] {
            let part = windows.window(x.clone(), y.clone());
            let expected = y.flat_map(|y| &whole[60 * y..][x.clone()]);
            assert!(part.iter().eq(expected));
        }
    }

    #[test]
    fn a_cell_is_the_mean_of_its_pixels_and_padding_is_mirrored() {
        let mut rows = vec![vec![0.0; 9]; 5];
        rows[0][8] = 1.0;
        rows[4][0] = 0.5;
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let canvas = CanvasSize::for_pixels(9, 5, 2).unwrap();
        assert_eq!((canvas.latent_width, canvas.latent_height), (6, 4));
        let mask = mask(&rows);
        let cells = mask.cells(canvas).unwrap();
        let cells: Vec<f32> = cells.as_slice().to_vec();
        // Column 9 is column 7, 10 is 6 and 11 is 5: the last pixel of the picture is in one cell alone.
        assert_eq!(cells[..6], [0.0, 0.0, 0.0, 0.0, 0.25, 0.0]);
        // Row 5 is row 3: the fifth row counts once in the third row of cells.
        assert_eq!(cells[12], 0.125);
        assert_eq!(cells.iter().filter(|&&cell| cell > 0.0).count(), 2);
        assert!(Arc::ptr_eq(&mask.cells(canvas).unwrap(), &mask.cells(canvas).unwrap()));
    }

    #[test]
    fn the_digest_is_that_of_the_samples() {
        let one = mask(&[&[0.0, 1.0]]);
        assert_eq!(one.digest(), mask(&[&[0.0, 1.0]]).digest());
        assert_ne!(one.digest(), mask(&[&[0.0], &[1.0]]).digest());
        assert_ne!(one.digest(), mask(&[&[0.0, 0.9]]).digest());
    }
}
