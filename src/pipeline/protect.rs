//! Protection of what has nothing to add to: where the resized input is flat, as the paper of a page is, the output is the
//! input, and where it is neutral, as a black-and-white photo is, the output is neutral. A model that
//! repaints such places leaves a tone or a tint there, which low frequencies alone do not undo. Pure white and pure black
//! stay what they are close to detail too: they are cut on one side, so that the mean would shift.
//!
//! All is told from the input within [`RADIUS`] of a pixel, and blends in where detail or colour begins. Photos are
//! neither, and stay as they are, to the bit.

use std::ops::Range;

use rayon::prelude::*;

use super::{blend::towards, colour_fix};

/// Distance in image pixels within which the input is looked at: that of the colour fix, whose windows are shared.
pub(super) const RADIUS: usize = colour_fix::RADIUS;

/// Planes of three channels that finding the places takes beyond what a network that has just run has given back.
pub(super) const PLANES: usize = 3;

/// One level of 255 in the range −1…1.
pub(super) const LEVEL: f32 = 2.0 / 255.0;
/// Range of a channel around a pixel up to which it is flat, and from which it is not at all. Less than the noise
/// of a camera.
const FLAT: (f32, f32) = (0.75 * LEVEL, 3.0 * LEVEL);
/// Distance between a pixel's channels up to which it is neutral, and from which it is not at all.
const NEUTRAL: (f32, f32) = (0.25 * LEVEL, 3.0 * LEVEL);

/// How much of the repaint each pixel takes.
pub(super) struct Places {
    /// 0 where the input is flat, 1 where it has detail.
    pub detail: Vec<f32>,
    /// 0 where the input is neutral, 1 where it has colour.
    pub colour: Vec<f32>,
}

impl Places {
    /// The places of `source`, `[height, width, 3]` in −1…1. Invalid within [`RADIUS`] of a border past which the picture
    /// goes on.
    pub fn new(source: &[f32], width: usize) -> Self {
        let (range, cut) = (range(source, width), distance_from_ends(source, width));
        let nearest = range.par_iter().zip(&cut).map(|(range, cut)| f32::min(*range, *cut));
        let detail = nearest.map(|value| ramp(value, FLAT)).collect();
        let colour = chroma(source, width).into_par_iter().map(|value| ramp(value, NEUTRAL));
        Self { detail, colour: colour.collect() }
    }

    /// Those of these rows alone.
    pub fn of_rows(mut self, rows: &Range<usize>, width: usize) -> Self {
        for shares in [&mut self.detail, &mut self.colour] {
            shares.truncate(rows.end * width);
            shares.drain(..rows.start * width);
        }
        self
    }

    /// Brings flat and neutral places of `picture` back to `source`: both are `[height, width, 3]` of one range.
    pub fn apply(&self, picture: &mut [f32], source: &[f32]) {
        let pixels = picture.par_chunks_exact_mut(3).zip(source.par_chunks_exact(3));
        let shares = self.detail.par_iter().zip(&self.colour);
        pixels.zip(shares).for_each(|((ours, source), (&detail, &colour))| {
            if detail < 1.0 {
                towards(ours, source, detail);
            }
            keep_colour(ours, colour);
        });
    }
}

/// Leaves a pixel this share of its colour.
pub(super) fn keep_colour(pixel: &mut [f32], share: f32) {
    if share < 1.0 {
        let grey = pixel.iter().sum::<f32>() / 3.0;
        for value in pixel {
            *value = grey + share * (*value - grey);
        }
    }
}

/// 0 up to the first value of `from`, 1 from the second, smooth between them.
pub(super) fn ramp(value: f32, from: (f32, f32)) -> f32 {
    let share = ((value - from.0) / (from.1 - from.0)).clamp(0.0, 1.0);
    share * share * (3.0 - 2.0 * share)
}

/// For each pixel the widest range of a channel within [`RADIUS`].
fn range(source: &[f32], width: usize) -> Vec<f32> {
    let highest = spread(source.to_vec(), 3 * width, 3, RADIUS, f32::max);
    let lowest = spread(source.to_vec(), 3 * width, 3, RADIUS, f32::min);
    highest
        .par_chunks_exact(3)
        .zip(lowest.par_chunks_exact(3))
        .map(|(high, low)| high.iter().zip(low).map(|(high, low)| high - low).fold(0.0, f32::max))
        .collect()
}

/// For each pixel the largest distance between the channels of a pixel within [`RADIUS`].
fn chroma(source: &[f32], width: usize) -> Vec<f32> {
    let here = source
        .par_chunks_exact(3)
        .map(|rgb| rgb[0].max(rgb[1]).max(rgb[2]) - rgb[0].min(rgb[1]).min(rgb[2]))
        .collect();
    spread(here, width, 1, RADIUS, f32::max)
}

/// For each pixel how far it and its neighbours are from pure white or from pure black, whichever is nearer.
fn distance_from_ends(source: &[f32], width: usize) -> Vec<f32> {
    let lowest = nearest_extreme(source, width, f32::min);
    let highest = nearest_extreme(source, width, f32::max);
    lowest.par_iter().zip(&highest).map(|(low, high)| (1.0 - low).min(high + 1.0)).collect()
}

/// For each pixel the extreme value of its own channels and its neighbours'.
fn nearest_extreme(source: &[f32], width: usize, extreme: impl Extreme) -> Vec<f32> {
    let pixels = source.par_chunks_exact(3);
    let here = pixels.map(|rgb| extreme(extreme(rgb[0], rgb[1]), rgb[2])).collect();
    spread(here, width, 1, 1, extreme)
}

/// `f32::min` or `f32::max`, as a type of its own and no pointer, so that loops are made for it.
trait Extreme: Fn(f32, f32) -> f32 + Copy + Sync {}

impl<F: Fn(f32, f32) -> f32 + Copy + Sync> Extreme for F {}

/// The extreme value within `radius`, one less than a power of two, along both axes, for lines of `row` values of which
/// pixels have `channels`: of three values at distances 1, 2, 4, … in turn, which together reach every place.
fn spread(
    mut plane: Vec<f32>,
    row: usize,
    channels: usize,
    radius: usize,
    extreme: impl Extreme,
) -> Vec<f32> {
    let height = plane.len() / row;
    let mut across = vec![0.0; plane.len()];
    let mut step = 1;
    while step <= radius {
        let beside = step * channels;
        across.par_chunks_mut(row).zip(plane.par_chunks(row)).for_each(|(out, line)| {
            out.copy_from_slice(line);
            if let Some(far) = row.checked_sub(beside) {
                for at in 0..far {
                    out[at] = extreme(out[at], line[at + beside]);
                    out[at + beside] = extreme(out[at + beside], line[at]);
                }
            }
        });
        plane.par_chunks_mut(row).enumerate().for_each(|(y, out)| {
            let line = |y: usize| &across[y * row..][..row];
            let (up, here, down) =
                (line(y.saturating_sub(step)), line(y), line((y + step).min(height - 1)));
            for (at, out) in out.iter_mut().enumerate() {
                *out = extreme(extreme(up[at], down[at]), here[at]);
            }
        });
        step *= 2;
    }
    plane
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 4 * RADIUS;

    fn apply(picture: &mut [f32], source: &[f32], width: usize) {
        Places::new(source, width).apply(picture, source);
    }

    /// A picture of one colour but for a pixel in the middle.
    fn spot(ground: [f32; 3], spot: [f32; 3]) -> Vec<f32> {
        let mut picture = ground.repeat(SIDE * SIDE);
        picture[3 * (SIDE / 2 * SIDE + SIDE / 2)..][..3].copy_from_slice(&spot);
        picture
    }

    /// A pixel so far to the right of the middle.
    fn beside(picture: &[f32], distance: usize) -> [f32; 3] {
        picture[3 * (SIDE / 2 * SIDE + SIDE / 2 + distance)..][..3].try_into().unwrap()
    }

    #[test]
    fn grey_stays_where_no_detail_is_near_and_white_up_to_the_next_pixel() {
        let mut picture = [0.9, 0.8, 0.7].repeat(SIDE * SIDE);
        apply(&mut picture, &spot([0.5; 3], [-1.0; 3]), SIDE);
        assert_eq!(beside(&picture, RADIUS + 1), [0.5; 3]);
        // Detail, but no colour.
        let [r, g, b] = beside(&picture, RADIUS);
        assert!((r - 0.8).abs() < 1e-6 && r == g && g == b, "{r} {g} {b}");

        let mut picture = [0.9, 0.8, 0.7].repeat(SIDE * SIDE);
        apply(&mut picture, &spot([1.0; 3], [0.0; 3]), SIDE);
        assert_eq!(beside(&picture, 2), [1.0; 3]);
        assert!((beside(&picture, 1)[0] - 0.8).abs() < 1e-6);
    }

    #[test]
    fn a_colour_keeps_the_places_around_it_and_flat_colours_stay_what_they_are() {
        let source = spot([0.2, -0.4, 0.6], [0.2, 0.4, 0.6]);
        let repainted = [0.9, 0.8, 0.7].repeat(SIDE * SIDE);
        let mut picture = repainted.clone();
        apply(&mut picture, &source, SIDE);
        assert_eq!(beside(&picture, RADIUS + 1), [0.2, -0.4, 0.6]);
        assert_eq!(beside(&picture, RADIUS), [0.9, 0.8, 0.7]);
    }

    #[test]
    fn a_photo_stays_as_it_is_to_the_bit() {
        let source: Vec<f32> = (0..3 * SIDE * SIDE).map(|at| (at as f32 * 0.7).sin()).collect();
        let repainted: Vec<f32> = source.iter().map(|value| 0.9 * value).collect();
        let mut picture = repainted.clone();
        apply(&mut picture, &source, SIDE);
        assert_eq!(picture, repainted);
    }

    #[test]
    fn a_neutral_photo_stays_neutral_exactly() {
        let source: Vec<f32> =
            (0..SIDE * SIDE).flat_map(|at| [(at as f32 * 0.7).sin(); 3]).collect();
        let mut picture: Vec<f32> = (0..source.len()).map(|at| (at as f32 * 0.3).cos()).collect();
        apply(&mut picture, &source, SIDE);
        assert!(picture.chunks_exact(3).all(|rgb| rgb[0] == rgb[1] && rgb[1] == rgb[2]));
    }
}
