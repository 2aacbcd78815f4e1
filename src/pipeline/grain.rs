//! Grain: fine noise of light, as a photograph has it and an enlarged one has lost. It depends on the place and the seed alone, so
//! that tiles join without a seam and a job that goes on has the same bytes.

use rayon::prelude::*;

use crate::canvas::NoiseField;

/// A draw that no canvas and no grid has.
const DRAW: u32 = u32::MAX - 1;

/// The grain of a picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grain {
    /// Standard deviation in levels of 255; 0 is none.
    amount: f32,
    seed: u64,
}

impl Grain {
    /// Grain of this standard deviation, in levels of 255.
    pub fn new(amount: f64, seed: u64) -> Self {
        Self { amount: amount as f32, seed }
    }

    /// `true` if there is none.
    pub fn is_none(self) -> bool {
        self.amount == 0.0
    }

    /// Adds it to `picture`, `[height, width, 3]` in −1…1, whose first pixel is at this row and column of the output; each
    /// pixel takes its share, `[height, width]`. Near white and black it is no stronger than there is room on either side: cut on
    /// one side alone it would move the mean.
    pub fn add(
        self,
        picture: &mut [f32],
        shares: &[f32],
        (top, left): (usize, usize),
        width: usize,
    ) {
        if self.is_none() {
            return;
        }
        let field = NoiseField::new(self.seed);
        let deviation = self.amount * 2.0 / 255.0;
        picture.par_chunks_mut(3 * width).enumerate().for_each(|(y, line)| {
            for (x, pixel) in line.chunks_exact_mut(3).enumerate() {
                let share = shares[y * width + x];
                if share > 0.0 {
                    let (y, x) = ((top + y) as u32, (left + x) as u32);
                    add_within_room(pixel, share * deviation * field.at(DRAW, 0, y, x));
                }
            }
        });
    }
}

/// Adds noise to the channels of a pixel, but no more than there is room on either side.
pub(super) fn add_within_room(pixel: &mut [f32], noise: f32) {
    let room = pixel.iter().fold(1.0, |room, value| f32::min(room, 1.0 - value.abs())).max(0.0);
    let noise = noise.clamp(-room, room);
    pixel.iter_mut().for_each(|value| *value += noise);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grained(amount: f64, seed: u64, place: (usize, usize), size: (usize, usize)) -> Vec<f32> {
        let mut picture = vec![0.0; 3 * size.0 * size.1];
        Grain::new(amount, seed).add(&mut picture, &vec![1.0; size.0 * size.1], place, size.1);
        picture
    }

    #[test]
    fn grain_has_its_strength_no_mean_and_no_colour() {
        let picture = grained(2.0, 7, (0, 0), (256, 256));
        let levels: Vec<f64> =
            picture.chunks(3).map(|rgb| f64::from(rgb[0]) * 255.0 / 2.0).collect();
        let count = levels.len() as f64;
        let mean = levels.iter().sum::<f64>() / count;
        let deviation = (levels.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / count).sqrt();
        assert!(mean.abs() < 0.03 && (deviation - 2.0).abs() < 0.03, "{mean} {deviation}");
        assert!(picture.chunks(3).all(|rgb| rgb[0] == rgb[1] && rgb[1] == rgb[2]));
    }

    #[test]
    fn grain_depends_on_place_and_seed_and_not_on_the_window() {
        let whole = grained(1.0, 3, (0, 0), (8, 8));
        let window = grained(1.0, 3, (2, 5), (4, 3));
        for y in 0..4 {
            assert_eq!(window[9 * y..][..9], whole[3 * (8 * (y + 2) + 5)..][..9]);
        }
        assert_ne!(whole, grained(1.0, 4, (0, 0), (8, 8)));
    }

    #[test]
    fn a_pixel_takes_its_share() {
        let mut picture = vec![0.0; 3 * 4];
        Grain::new(1.0, 3).add(&mut picture, &[0.0, 1.0, 0.5, 0.0], (0, 0), 4);
        let whole = grained(1.0, 3, (0, 0), (1, 4));
        assert_eq!(picture[..3], [0.0; 3]);
        assert_eq!(picture[3..6], whole[3..6]);
        assert!((picture[6] - 0.5 * whole[6]).abs() < 1e-7);
    }

    #[test]
    fn nothing_leaves_the_range_and_the_mean_stays_near_its_ends() {
        let side = 128;
        for end in [0.99f32, -0.99, 1.0, -1.0, 1.2] {
            let mut picture = vec![end; 3 * side * side];
            Grain::new(4.0, 3).add(&mut picture, &vec![1.0; side * side], (0, 0), side);
            if end.abs() >= 1.0 {
                assert!(picture.iter().all(|value| *value == end));
                continue;
            }
            assert!(picture.iter().all(|value| value.abs() <= 1.0));
            let mean = picture.iter().sum::<f32>() / picture.len() as f32;
            assert!((mean - end).abs() < 3e-4 && picture[0] != end, "{end}: {mean}");
        }
    }
}
