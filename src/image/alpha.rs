//! Transparency. Colour under fully transparent pixels is arbitrary (often black), and would bleed
//! into visible edges as soon as anything looks at a neighbourhood: a resize, a VAE, a diffusion
//! model. When a picture is read, it is therefore replaced by the colour of the nearest visible
//! pixels. All later code may treat colour and alpha as independent planes: colour is
//! never premultiplied, and the original colour under transparent pixels is discarded.

/// Replaces the colour of every pixel with alpha 0 by a smooth continuation of its surroundings.
///
/// Push-pull over an image pyramid (Gortler et al., The Lumigraph, 1996): averages of visible pixels
/// go up, gaps are filled from the next coarser level on the way down. `rgb` is `[height, width, 3]`,
/// `alpha` is `[height, width]`. A wholly transparent picture keeps its colours.
pub(crate) fn fill_transparent(rgb: &mut [f32], alpha: &[f32], width: usize, height: usize) {
    if alpha.iter().all(|&a| a > 0.0) || alpha.iter().all(|&a| a <= 0.0) {
        return;
    }
    let mut levels = vec![reduce(width, height, |x, y| {
        let i = y * width + x;
        (alpha[i] > 0.0).then(|| [rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2]])
    })];
    while let Some(last) = levels.last().filter(|l| l.pixels.iter().any(Option::is_none)) {
        let next = reduce(last.width, last.height, |x, y| last.pixels[y * last.width + x]);
        levels.push(next);
    }
    for fine in (1..levels.len()).rev() {
        let (finer, coarser) = levels.split_at_mut(fine);
        let (level, coarse) = (&mut finer[fine - 1], &coarser[0]);
        for y in 0..level.height {
            for x in 0..level.width {
                let pixel = &mut level.pixels[y * level.width + x];
                if pixel.is_none() {
                    *pixel = Some(coarse.sample(x, y));
                }
            }
        }
    }
    for y in 0..height {
        for x in 0..width {
            let i = y * width + x;
            if alpha[i] <= 0.0 {
                rgb[3 * i..3 * i + 3].copy_from_slice(&levels[0].sample(x, y));
            }
        }
    }
}

struct PyramidLevel {
    width: usize,
    height: usize,
    pixels: Vec<Option<[f32; 3]>>,
}

impl PyramidLevel {
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
                if let Some(pixel) = self.pixels[y * self.width + x] {
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

/// Means of the known pixels of each 2 × 2 block.
fn reduce(
    width: usize,
    height: usize,
    at: impl Fn(usize, usize) -> Option<[f32; 3]>,
) -> PyramidLevel {
    let (w, h) = (width.div_ceil(2), height.div_ceil(2));
    let mut pixels = Vec::with_capacity(w * h);
    for by in 0..h {
        for bx in 0..w {
            let (mut sum, mut n) = ([0.0; 3], 0.0);
            for y in 2 * by..(2 * by + 2).min(height) {
                for x in 2 * bx..(2 * bx + 2).min(width) {
                    if let Some(pixel) = at(x, y) {
                        n += 1.0;
                        for (s, p) in sum.iter_mut().zip(pixel) {
                            *s += p;
                        }
                    }
                }
            }
            pixels.push((n > 0.0).then(|| sum.map(|s| s / n)));
        }
    }
    PyramidLevel { width: w, height: h, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        fill_transparent(&mut rgb, &alpha, w, h);
        for pixel in rgb.chunks_exact(3) {
            for (v, want) in pixel.iter().zip([0.9, 0.2, 0.4]) {
                assert!((v - want).abs() < 1e-5, "{pixel:?}");
            }
        }
    }

    #[test]
    fn a_wholly_transparent_picture_keeps_its_colours() {
        let mut rgb = vec![0.3; 12];
        fill_transparent(&mut rgb, &[0.0; 4], 2, 2);
        assert_eq!(rgb, [0.3; 12]);
    }
}
