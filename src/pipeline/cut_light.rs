//! Light that is cut: where the corrected repaint is beyond white or black, the output is not, and the mean of what is
//! around would shift; on a page of text, whose paper is white, by more than one can see. What is cut there is made up for
//! by the pixels nearby that have room, in the share of their room, so that the sum over the picture stays.
//!
//! A pixel gives its light `l` to those within the filter `k` as `l·k·r / (k∗r)`, where `r` is their room: whatever the rooms are,
//! all of `l` arrives, and none gets more than it has room for. What finds no room is lost. Pixels with nothing cut around
//! them stay as they are, to the bit.

use rayon::prelude::*;

use super::{
    colour_fix::low_band,
    protect::{Places, keep_colour},
};

/// Levels of the filter, which is that of the colour fix with fewer.
const LEVELS: u32 = 2;

/// Distance in image pixels that light goes, and that is looked at: one filter after the other.
pub(super) const RADIUS: usize = 2 * ((1 << LEVELS) - 1);

/// Cuts `picture`, `[height, width, 3]`, to −1…1, and gives what is cut to pixels around. What is flat or neutral in the
/// input stays so.
///
/// The result is invalid within [`RADIUS`] of a border past which the picture goes on.
pub(super) fn give_back(picture: &mut [f32], places: &Places, width: usize) {
    let mut given: Option<Vec<f32>> = None;
    // Light beyond white, then darkness beyond black.
    for sign in [1.0, -1.0] {
        let lost = |value: f32| (sign * value - 1.0).max(0.0);
        if !picture.par_iter().any(|&value| lost(value) > 0.0) {
            continue;
        }
        let room =
            |at: usize, value: f32| places.detail[at / 3] * (1.0 - sign * value.clamp(-1.0, 1.0));
        let rooms = picture.par_iter().enumerate().map(|(at, &value)| room(at, value)).collect();
        let mut shares = low_band(rooms, width, LEVELS);
        shares.par_iter_mut().zip(&*picture).for_each(|(share, &value)| {
            let lost = lost(value);
            // No room at all, or less than is lost.
            *share = if lost < *share { lost / *share } else { f32::from(u8::from(lost > 0.0)) };
        });
        let shares = low_band(shares, width, LEVELS);
        let given = given.get_or_insert_with(|| vec![0.0; picture.len()]);
        given.par_iter_mut().enumerate().for_each(|(at, given)| {
            *given += sign * room(at, picture[at]) * shares[at];
        });
    }
    let Some(mut given) = given else { return };
    let pixels = picture.par_chunks_exact_mut(3).zip(given.par_chunks_exact_mut(3));
    pixels.zip(&places.colour).for_each(|((picture, given), &colour)| {
        keep_colour(given, colour);
        for (value, given) in picture.iter_mut().zip(given) {
            *value = (value.clamp(-1.0, 1.0) + *given).clamp(-1.0, 1.0);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 40;

    fn open() -> Places {
        Places { detail: vec![1.0; SIDE * SIDE], colour: vec![1.0; SIDE * SIDE] }
    }

    fn at(x: usize, y: usize) -> usize {
        3 * (y * SIDE + x)
    }

    fn sum(picture: &[f32], channel: usize) -> f64 {
        picture.iter().skip(channel).step_by(3).map(|&value| f64::from(value)).sum()
    }

    #[test]
    fn what_is_cut_is_given_to_what_has_room_and_the_sum_stays() {
        // Black strokes on white, with what sharpening leaves at their edges; up to the border.
        let mut picture: Vec<f32> = (0..SIDE * SIDE)
            .flat_map(|at| match (at % SIDE) % 8 {
                0 | 1 => [-1.02; 3],
                2 | 7 => [0.1, -0.1, 0.2],
                3 | 6 => [1.08, 1.05, 0.9],
                _ => [0.99; 3],
            })
            .collect();
        let wanted = picture.clone();
        give_back(&mut picture, &open(), SIDE);
        assert!(picture.iter().all(|value| (-1.0..=1.0).contains(value)));
        for channel in 0..3 {
            let (cut, ours, wanted) = (
                wanted.iter().map(|value| value.clamp(-1.0, 1.0)).collect::<Vec<_>>(),
                sum(&picture, channel),
                sum(&wanted, channel),
            );
            let far = (ours - wanted).abs() / (SIDE * SIDE) as f64;
            let before = (sum(&cut, channel) - wanted).abs() / (SIDE * SIDE) as f64;
            assert!(far < 1e-4 && before > 2e-3, "{channel}: {far} {before}");
        }
    }

    #[test]
    fn nothing_reaches_farther_than_the_radius_and_nothing_changes_where_nothing_is_cut() {
        let mut picture: Vec<f32> =
            (0..3 * SIDE * SIDE).map(|at| (at as f32).sin() * 0.9).collect();
        let before = picture.clone();
        give_back(&mut picture, &open(), SIDE);
        assert_eq!(picture, before);
        picture[at(20, 20)] = 1.5;
        give_back(&mut picture, &open(), SIDE);
        let near = |index: usize| {
            let (x, y) = (index / 3 % SIDE, index / 3 / SIDE);
            x.abs_diff(20) <= RADIUS && y.abs_diff(20) <= RADIUS
        };
        let changed: Vec<usize> = (0..picture.len()).filter(|&i| picture[i] != before[i]).collect();
        assert!(changed.len() > 9 && changed.iter().all(|&index| near(index) && index % 3 == 0));
    }

    #[test]
    fn flat_places_get_nothing_and_neutral_ones_no_colour() {
        let mut places = open();
        places.detail[20 * SIDE + 21] = 0.0;
        places.colour[20 * SIDE + 19] = 0.0;
        let mut picture = vec![0.2f32; 3 * SIDE * SIDE];
        picture[at(20, 20)] = 1.5;
        give_back(&mut picture, &places, SIDE);
        assert_eq!(picture[at(21, 20)..][..3], [0.2; 3]);
        let [r, g, b] = picture[at(19, 20)..][..3] else { unreachable!() };
        assert!(r > 0.2 && r == g && g == b);
        // Nobody has room: white stays white.
        let mut white = vec![1.3f32; 3 * SIDE * SIDE];
        give_back(&mut white, &open(), SIDE);
        assert!(white.iter().all(|&value| value == 1.0));
    }
}
