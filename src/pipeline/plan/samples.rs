//! Samples of a canvas, on which the global state that its VAE tiles share is measured. As many are taken as go
//! through the autoencoder in the memory of a tile; where that is enough for the whole canvas, they are the whole.

use std::ops::Range;

use crate::model::vae::MeasuredPart;

/// Side of a sample in latent pixels.
const SIDE: usize = 48;
/// Latent pixels at each end of a sample, unless the canvas ends there, that are not measured: they have seen the
/// zeros past the sample.
const MARGIN: usize = 8;
/// Area in latent pixels that is sampled at least.
const LEAST_AREA: usize = 4 * SIDE * SIDE;

/// One sample of a canvas, in latent pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its columns.
    pub x: Range<usize>,
    /// Its rows.
    pub y: Range<usize>,
    /// What is measured in it.
    pub part: MeasuredPart,
}

/// Samples of a canvas, all of one size, of about `area` latent pixels together: evenly on a grid, or the whole
/// canvas where it is no larger. A `divisor` above 1 takes fewer.
#[must_use]
pub fn samples((height, width): (usize, usize), area: usize, divisor: usize) -> Vec<Sample> {
    let area = area.max(LEAST_AREA) / divisor;
    let (rows, columns) = if height * width <= area {
        (axis(height, 1, height), axis(width, 1, width))
    } else {
        let (high, wide) = (SIDE.min(height), SIDE.min(width));
        let (rows, columns) = grid(height, width, (area / (high * wide)).max(1));
        (axis(height, rows, high), axis(width, columns, wide))
    };
    let pairs = rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column)));
    pairs
        .map(|((y, rows), (x, columns))| Sample {
            x: x.clone(),
            y: y.clone(),
            part: MeasuredPart { rows: rows.clone(), columns: columns.clone() },
        })
        .collect()
}

/// Rows and columns of a grid of at most `most` samples, no more than cover the canvas.
fn grid(height: usize, width: usize, most: usize) -> (usize, usize) {
    let covering = |length: usize| length.div_ceil(SIDE - 2 * MARGIN);
    let rows = (most as f64 * height as f64 / width as f64).sqrt().round() as usize;
    let rows = rows.clamp(1, covering(height).min(most));
    let columns = (most / rows).clamp(1, covering(width));
    ((most / columns).clamp(1, covering(height)), columns)
}

/// `count` samples of `side` along an axis, and the measured part of each: around the middle of its share of the
/// axis, or towards the axis's end.
fn axis(length: usize, count: usize, side: usize) -> Vec<(Range<usize>, Range<usize>)> {
    (0..count)
        .map(|index| {
            let share = index * length / count..(index + 1) * length / count;
            let middle = (share.start + share.end) / 2;
            let start = middle.saturating_sub(side / 2).min(length - side);
            let sample = start..start + side;
            let first = if start == 0 { 0 } else { start + MARGIN };
            let end = if sample.end == length { length } else { sample.end - MARGIN };
            let part = first.max(share.start)..end.min(share.end);
            (sample, part.start - start..part.end - start)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each place of the canvas is measured.
    fn measured((height, width): (usize, usize), samples: &[Sample]) -> Vec<usize> {
        let mut times = vec![0; height * width];
        for Sample { x, y, part } in samples {
            assert!(x.end <= width && y.end <= height);
            assert_eq!((x.len(), y.len()), (samples[0].x.len(), samples[0].y.len()));
            assert!(!part.rows.is_empty() && !part.columns.is_empty());
            for row in part.rows.clone() {
                for column in part.columns.clone() {
                    times[(y.start + row) * width + x.start + column] += 1;
                }
            }
        }
        times
    }

    #[test]
    fn a_canvas_no_larger_than_the_area_is_one_sample() {
        let samples = samples((48, 64), 0, 1);
        assert_eq!(samples.len(), 1);
        assert!(measured((48, 64), &samples).iter().all(|&times| times == 1));
    }

    #[test]
    fn samples_lie_all_over_the_canvas_within_the_area_and_nothing_is_measured_twice() {
        for (size, area, divisor, expected) in [
            ((256, 256), 164 * 164, 1, 9),
            ((512, 512), 164 * 164, 1, 9),
            ((128, 192), 0, 1, 4),
            ((128, 192), 0, 4, 1),
            ((16, 900), 0, 1, 12),
            ((900, 16), 0, 8, 1),
        ] {
            let samples = samples(size, area, divisor);
            assert_eq!(samples.len(), expected, "{size:?}");
            let times = measured(size, &samples);
            assert!(times.iter().all(|&times| times <= 1), "{size:?}");
            // Every quarter of the canvas has its share.
            let total: usize = times.iter().sum();
            let upper: usize = times[..times.len() / 2].iter().sum();
            assert!((2 * upper).abs_diff(total) <= total / 2, "{size:?}: {upper} of {total}");
        }
    }
}
