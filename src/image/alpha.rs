//! Transparency. Colour under fully transparent pixels is arbitrary (often black), and would bleed
//! into visible edges as soon as anything looks at a neighbourhood: a resize, a VAE, a diffusion
//! model. When a picture is read, it is therefore replaced by the colour of the nearest visible
//! pixels. All later code may treat colour and alpha as independent planes: colour is
//! never premultiplied, and the original colour under transparent pixels is discarded.

use std::{io, ops::Range};

use super::plane::{PlaneBuilder, Scratch};

/// Floats of a pixel of the pyramid: colour, and 1 where it is known.
const PIXEL: usize = 4;

/// Replaces the colour of every pixel with alpha 0 by a smooth continuation of its surroundings.
///
/// Push-pull over an image pyramid (Gortler et al., The Lumigraph, 1996): averages of visible pixels
/// go up, gaps are filled from the next coarser level on the way down. `rgb` is `[height, width, 3]`,
/// `alpha` is `[height, width]`. A wholly transparent picture keeps its colours. All levels are planes like the
/// picture's, so that a large picture costs bands of rows here too.
///
/// # Errors
/// A full disk, among others.
pub(crate) fn fill_transparent(
    rgb: &mut PlaneBuilder,
    alpha: &mut PlaneBuilder,
    width: usize,
    height: usize,
    scratch: &Scratch,
) -> io::Result<()> {
    let (mut some_visible, mut some_hidden) = (false, false);
    let mut transparency = Vec::new();
    for rows in bands(width, height) {
        transparency.resize(rows.len() * width, 0.0);
        alpha.read(rows.start, &mut transparency)?;
        some_visible |= transparency.iter().any(|&a| a > 0.0);
        some_hidden |= transparency.iter().any(|&a| a <= 0.0);
    }
    if !(some_visible && some_hidden) {
        return Ok(());
    }
    let mut colours = Vec::new();
    let mut levels = vec![Level::reduced(width, height, scratch, |rows, known| {
        colours.resize(rows.len() * width * 3, 0.0);
        rgb.read(rows.start, &mut colours)?;
        transparency.resize(rows.len() * width, 0.0);
        alpha.read(rows.start, &mut transparency)?;
        let pixels = colours.chunks_exact(3).zip(&transparency);
        for (pixel, (colour, &a)) in known.chunks_exact_mut(PIXEL).zip(pixels) {
            pixel[..3].copy_from_slice(colour);
            pixel[3] = f32::from(u8::from(a > 0.0));
        }
        Ok(())
    })?];
    while let Some(last) = levels.last_mut().filter(|level| !level.is_complete) {
        let (width, height) = (last.width, last.height);
        let next = Level::reduced(width, height, scratch, |rows, known| {
            last.pixels.read(rows.start, known)
        })?;
        levels.push(next);
    }
    for fine in (1..levels.len()).rev() {
        let (finer, coarser) = levels.split_at_mut(fine);
        finer[fine - 1].fill_from(&mut coarser[0])?;
    }
    for rows in bands(width, height) {
        colours.resize(rows.len() * width * 3, 0.0);
        rgb.read(rows.start, &mut colours)?;
        transparency.resize(rows.len() * width, 0.0);
        alpha.read(rows.start, &mut transparency)?;
        if transparency.iter().all(|&a| a > 0.0) {
            continue;
        }
        let coarse = levels[0].around(&rows)?;
        let pixels = colours.chunks_exact_mut(3).zip(&transparency).enumerate();
        for (i, (colour, _)) in pixels.filter(|(_, (_, a))| **a <= 0.0) {
            colour.copy_from_slice(&coarse.sample(i % width, rows.start + i / width));
        }
        rgb.rewrite(rows.start, &colours)?;
    }
    Ok(())
}

/// Bands of an even number of rows, so that none cuts a block of 2 × 2 pixels.
fn bands(width: usize, height: usize) -> impl Iterator<Item = Range<usize>> {
    let rows = 2 * ((1 << 17) / width).max(1);
    (0..height).step_by(rows).map(move |top| top..(top + rows).min(height))
}

/// A level of the pyramid.
struct Level {
    width: usize,
    height: usize,
    /// `[height, width, 4]`: colour, and 1 where it is known.
    pixels: PlaneBuilder,
    is_complete: bool,
}

impl Level {
    /// Means of the known pixels of each 2 × 2 block of a finer level of `width` × `height` pixels, whose rows
    /// `read` gives.
    fn reduced(
        width: usize,
        height: usize,
        scratch: &Scratch,
        mut read: impl FnMut(Range<usize>, &mut [f32]) -> io::Result<()>,
    ) -> io::Result<Self> {
        let (w, h) = (width.div_ceil(2), height.div_ceil(2));
        let mut pixels = PlaneBuilder::new(h, w * PIXEL, scratch)?;
        let mut is_complete = true;
        let (mut finer, mut means) = (Vec::new(), Vec::new());
        for rows in bands(width, height) {
            let count = rows.len();
            finer.resize(count * width * PIXEL, 0.0);
            read(rows, &mut finer)?;
            means.clear();
            for by in 0..count.div_ceil(2) {
                for bx in 0..w {
                    let (mut sum, mut n) = ([0.0; 3], 0.0);
                    for y in 2 * by..(2 * by + 2).min(count) {
                        for x in 2 * bx..(2 * bx + 2).min(width) {
                            let pixel = &finer[(y * width + x) * PIXEL..][..PIXEL];
                            if pixel[3] > 0.0 {
                                n += 1.0;
                                for (s, p) in sum.iter_mut().zip(pixel) {
                                    *s += p;
                                }
                            }
                        }
                    }
                    if n > 0.0 {
                        means.extend(sum.map(|s| s / n));
                        means.push(1.0);
                    } else {
                        is_complete = false;
                        means.extend([0.0; PIXEL]);
                    }
                }
            }
            pixels.push(&means)?;
        }
        Ok(Self { width: w, height: h, pixels, is_complete })
    }

    /// Fills the unknown pixels from the next coarser level, which is complete.
    fn fill_from(&mut self, coarse: &mut Self) -> io::Result<()> {
        let mut band = Vec::new();
        for rows in bands(self.width, self.height) {
            band.resize(rows.len() * self.width * PIXEL, 0.0);
            self.pixels.read(rows.start, &mut band)?;
            let coarse = coarse.around(&rows)?;
            for (i, pixel) in band.chunks_exact_mut(PIXEL).enumerate() {
                if pixel[3] <= 0.0 {
                    let (x, y) = (i % self.width, rows.start + i / self.width);
                    pixel[..3].copy_from_slice(&coarse.sample(x, y));
                    pixel[3] = 1.0;
                }
            }
            self.pixels.rewrite(rows.start, &band)?;
        }
        self.is_complete = true;
        Ok(())
    }

    /// The rows that samples of these rows of the next finer level need.
    fn around(&mut self, finer: &Range<usize>) -> io::Result<LevelRows> {
        let top = (finer.start / 2).min(self.height - 1).saturating_sub(1);
        let bottom = (finer.end.div_ceil(2) + 1).min(self.height);
        let mut pixels = vec![0.0; (bottom - top) * self.width * PIXEL];
        self.pixels.read(top, &mut pixels)?;
        Ok(LevelRows { width: self.width, height: self.height, top, pixels })
    }
}

/// Some rows of a level.
struct LevelRows {
    width: usize,
    /// Of the whole level.
    height: usize,
    top: usize,
    pixels: Vec<f32>,
}

impl LevelRows {
    /// Colour at pixel (x, y) of the next finer level, bilinear between the known pixels here.
    fn sample(&self, x: usize, y: usize) -> [f32; 3] {
        let near = |v: usize, size: usize| {
            let own = (v / 2).min(size - 1);
            let other =
                if v.is_multiple_of(2) { own.saturating_sub(1) } else { (own + 1).min(size - 1) };
            [(own, 0.75), (other, 0.25)]
        };
        let (mut sum, mut weight) = ([0.0; 3], 0.0);
        for (y, wy) in near(y, self.height) {
            for (x, wx) in near(x, self.width) {
                let pixel = &self.pixels[((y - self.top) * self.width + x) * PIXEL..][..PIXEL];
                if pixel[3] > 0.0 {
                    let w: f32 = wx * wy;
                    weight += w;
                    for (s, p) in sum.iter_mut().zip(pixel) {
                        *s += w * p;
                    }
                }
            }
        }
        sum.map(|s| if weight > 0.0 { s / weight } else { 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills a picture whose planes are in memory, or all in files.
    fn filled(
        rgb: &[f32],
        alpha: &[f32],
        (width, height): (usize, usize),
        files: bool,
    ) -> Vec<f32> {
        let memory_bytes = if files { 0 } else { u64::MAX };
        let scratch = Scratch { memory_bytes, ..Scratch::default() };
        let mut colours = PlaneBuilder::new(height, 3 * width, &scratch).unwrap();
        colours.push(rgb).unwrap();
        let mut transparency = PlaneBuilder::new(height, width, &scratch).unwrap();
        transparency.push(alpha).unwrap();
        fill_transparent(&mut colours, &mut transparency, width, height, &scratch).unwrap();
        colours.finish().unwrap().to_vec()
    }

    #[test]
    fn hidden_colour_becomes_the_visible_one_and_visible_pixels_stay() {
        let (w, h) = (37, 21);
        let mut rgb = vec![0.0; w * h * 3];
        let mut alpha = vec![0.0; w * h];
        for y in 5..9 {
            for x in 5..12 {
                alpha[y * w + x] = 0.5;
                rgb[3 * (y * w + x)..][..3].copy_from_slice(&[0.9, 0.2, 0.4]);
            }
        }
        for files in [false, true] {
            for pixel in filled(&rgb, &alpha, (w, h), files).chunks_exact(3) {
                for (v, want) in pixel.iter().zip([0.9, 0.2, 0.4]) {
                    assert!((v - want).abs() < 1e-5, "{pixel:?}");
                }
            }
        }
    }

    #[test]
    fn a_wholly_transparent_picture_keeps_its_colours() {
        assert_eq!(filled(&[0.3; 12], &[0.0; 4], (2, 2), false), [0.3; 12]);
    }
}
