//! Sharpening of the decoded picture: its finest detail is made stronger. A network that is trained to come near its targets
//! makes the finest texture weaker than a photograph has it; what it is made stronger by is the model's to say.

use rayon::prelude::*;

use super::{blend::light, colour_fix::low_band};

/// Distance in image pixels within which a pixel is looked at.
pub(super) const RADIUS: usize = 1;

/// Adds `amount` times the detail of `picture`, `[height, width, 3]` in −1…1: its light less the same through `[1, 2, 1]/4`
/// along both axes (a deviation of 0.7 px), mirrored at a border. Colours are moved along grey and keep their differences. The
/// result is invalid within [`RADIUS`] of a border past which the picture goes on.
pub(super) fn apply(picture: &mut [f32], amount: f32, width: usize) {
    let low = low_band(picture.to_vec(), width, 1);
    picture.par_chunks_exact_mut(3).zip(low.par_chunks_exact(3)).for_each(|(pixel, low)| {
        let light = |rgb: &[f32]| light([rgb[0], rgb[1], rgb[2]]);
        let detail = light(pixel) - light(low);
        pixel.iter_mut().for_each(|value| *value += amount * detail);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detail_gets_stronger_and_what_is_even_stays() {
        let mut even = vec![0.25; 3 * 5 * 4];
        apply(&mut even, 1.0, 5);
        assert!(even.iter().all(|value| (value - 0.25).abs() < 1e-6));
        // The finest checkerboard is detail alone.
        let side = 6;
        let sign = |i: usize| if (i % side + i / side).is_multiple_of(2) { 0.1 } else { -0.1 };
        let mut board: Vec<f32> = (0..side * side).flat_map(|i| [sign(i); 3]).collect();
        apply(&mut board, 0.5, side);
        let at = |x: usize, y: usize| board[3 * (y * side + x)];
        assert!((at(2, 2) - 0.15).abs() < 1e-6 && (at(3, 2) + 0.15).abs() < 1e-6);
    }

    #[test]
    fn the_mean_and_the_differences_of_channels_stay() {
        for (width, height) in [(1, 1), (1, 7), (7, 1), (2, 2), (9, 5)] {
            let before: Vec<f32> =
                (0..3 * width * height).map(|i| (i as f32 * 0.7).sin()).collect();
            let mut after = before.clone();
            apply(&mut after, 0.8, width);
            let sum = |values: &[f32]| values.iter().sum::<f32>();
            assert!((sum(&before) - sum(&after)).abs() < 1e-3, "{width} × {height}");
            for (before, after) in before.chunks(3).zip(after.chunks(3)) {
                assert!(((before[0] - before[2]) - (after[0] - after[2])).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_window_with_its_rim_has_the_values_of_the_whole() {
        let (width, height) = (8, 6);
        let whole: Vec<f32> = (0..3 * width * height).map(|i| (i as f32 * 1.3).sin()).collect();
        let mut sharp = whole.clone();
        apply(&mut sharp, 0.6, width);
        let mut window: Vec<f32> =
            (1..5).flat_map(|y| &whole[3 * (y * width + 2)..][..12]).copied().collect();
        apply(&mut window, 0.6, 4);
        assert_eq!(window[3 * (4 + 1)..][..6], sharp[3 * (2 * width + 3)..][..6]);
    }
}
