//! Samples of a canvas for the shared norm statistics of its VAE tiles. Their places depend on the canvas alone, so
//! that the tiling, which depends on the memory budget, does not show.

use std::ops::Range;

use crate::model::vae::MARGIN_SHARE;

/// Side of a sample in latent pixels; its inner half is measured.
pub const SAMPLE: usize = 32;
/// Largest number of samples. They form one batch, because the input of a norm depends on the norms
/// before it; the batch takes about as much memory as a tile.
pub const SAMPLES: usize = 8;

/// Columns and rows of at most `most` samples, in latent pixels and possibly past the borders. Their inner
/// halves are spread evenly over the canvas; there are no more than cover it.
pub fn samples(height: usize, width: usize, most: usize) -> Vec<(Range<isize>, Range<isize>)> {
    let margin = SAMPLE / MARGIN_SHARE;
    let core = SAMPLE - 2 * margin;
    let covering = |length: usize| length.div_ceil(core);
    let rows = (most as f64 * height as f64 / width as f64).sqrt().round() as usize;
    let rows = rows.clamp(1, covering(height).min(most));
    let columns = (most / rows).clamp(1, covering(width));
    let rows = (most / columns).clamp(1, covering(height));
    let starts = |length: usize, count: usize| {
        (0..count).map(move |index| {
            let middle = (2 * index + 1) * length / (2 * count);
            let start = middle as isize - (SAMPLE / 2) as isize;
            start..start + SAMPLE as isize
        })
    };
    starts(height, rows).flat_map(|y| starts(width, columns).map(move |x| (x, y.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_lie_evenly_all_over_the_canvas_and_are_no_more_than_they_should_be() {
        for (height, width, most, expected) in [
            (128, 128, 16, 16),
            (512, 512, 6, 6),
            (48, 64, 16, 12),
            (64, 512, 16, 16),
            (8, 8, 16, 1),
            (16, 900, 16, 16),
            (900, 16, 5, 5),
        ] {
            let samples = samples(height, width, most);
            assert_eq!(samples.len(), expected, "{height} × {width}");
            let middle = |range: &Range<isize>| (range.start + range.end) / 2;
            for (x, y) in &samples {
                assert_eq!((x.len(), y.len()), (SAMPLE, SAMPLE));
                assert!((0..width as isize).contains(&middle(x)));
                assert!((0..height as isize).contains(&middle(y)));
            }
            let mean = |sum: isize| sum / samples.len() as isize;
            let x = mean(samples.iter().map(|(x, _)| middle(x)).sum());
            let y = mean(samples.iter().map(|(_, y)| middle(y)).sum());
            assert!((x - width as isize / 2).abs() <= 1, "{x} of {width}");
            assert!((y - height as isize / 2).abs() <= 1, "{y} of {height}");
        }
    }
}
