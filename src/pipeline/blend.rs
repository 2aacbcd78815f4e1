//! Blend of the repainted picture with the input: the repaint's light alone over the colours of the input, and a mix of
//! the two, everywhere or by a mask (docs/method.md §6b and §6c). Both work on the gamma-encoded values that the model sees and that the colour fix
//! keeps the tone of: half of a blend is then half of the visible difference, light and dark alike, and the tone stays the
//! input's. In linear light what is brighter would outweigh what is darker.
//!
//! Source: W3C, Compositing and Blending Level 1, 10.2 (the blend mode "luminosity" and its functions).

use rayon::prelude::*;

/// Share of each channel in the light of a colour, as the blend mode states it.
const LIGHT: [f32; 3] = [0.3, 0.59, 0.11];

/// Gives `source` the light of `picture`, in place of `picture`: both are `[height, width, 3]` in −1…1. Hue and saturation
/// stay the source's; where a colour cannot be as light or dark as that, it moves towards grey.
pub(super) fn luminosity(picture: &mut [f32], source: &[f32]) {
    picture.par_chunks_exact_mut(3).zip(source.par_chunks_exact(3)).for_each(|(ours, source)| {
        let unit = |value: f32| (value * 0.5 + 0.5).clamp(0.0, 1.0);
        let wanted = light([ours[0], ours[1], ours[2]].map(unit));
        let colour = [source[0], source[1], source[2]].map(unit);
        for (ours, value) in ours.iter_mut().zip(with_light(colour, wanted)) {
            *ours = 2.0 * value - 1.0;
        }
    });
}

/// Mixes `source` into `picture`, of which this share stays: both are `[…, 3]` in −1…1, the picture cut to that.
pub(super) fn mix(picture: &mut [f32], source: &[f32], share: f32) {
    picture.par_iter_mut().zip(source).for_each(|(ours, source)| {
        *ours = source + share * (ours.clamp(-1.0, 1.0) - source);
    });
}

/// Mixes `source` into `picture`, of which each pixel keeps its share: both are `[…, 3]` in −1…1, the picture cut to that
/// where anything is mixed in. A share of 0 is the source and one of 1 the picture, to the bit.
pub(super) fn mix_by(picture: &mut [f32], source: &[f32], shares: &[f32]) {
    let pixels = picture.par_chunks_exact_mut(3).zip(source.par_chunks_exact(3));
    pixels.zip(shares).for_each(|((ours, source), &share)| {
        if share < 1.0 {
            ours.iter_mut().for_each(|ours| *ours = ours.clamp(-1.0, 1.0));
            towards(ours, source, share);
        }
    });
}

/// Brings a pixel towards one of the source, of its own `share`.
pub(super) fn towards(ours: &mut [f32], source: &[f32], share: f32) {
    for (ours, source) in ours.iter_mut().zip(source) {
        *ours = source + share * (*ours - source);
    }
}

/// Light of a colour, 0…1.
pub(super) fn light(colour: [f32; 3]) -> f32 {
    colour.iter().zip(LIGHT).map(|(value, share)| value * share).sum()
}

/// The colour (0…1), moved to this light and brought back into 0…1 without changing it.
fn with_light(colour: [f32; 3], wanted: f32) -> [f32; 3] {
    let distance = wanted - light(colour);
    let mut moved = colour.map(|value| value + distance);
    let (lowest, highest) =
        (moved[0].min(moved[1]).min(moved[2]), moved[0].max(moved[1]).max(moved[2]));
    if lowest < 0.0 {
        moved = moved.map(|value| wanted + (value - wanted) * wanted / (wanted - lowest));
    }
    if highest > 1.0 {
        moved = moved.map(|value| wanted + (value - wanted) * (1.0 - wanted) / (highest - wanted));
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::reference::{close, tensor};

    #[test]
    fn the_blend_mode_is_that_of_the_reference() {
        let mut picture = tensor("picture");
        luminosity(&mut picture, &tensor("source"));
        close(&picture, &tensor("luminosity"), 1e-5);
    }

    #[test]
    fn no_share_is_the_source_to_the_bit_and_all_of_it_the_picture() {
        let (picture, source) = (tensor("picture"), tensor("source"));
        let mut none = picture.clone();
        mix(&mut none, &source, 0.0);
        assert_eq!(none, source);
        let mut half = picture.clone();
        mix(&mut half, &source, 0.5);
        close(&half, &tensor("half"), 1e-6);
    }

    #[test]
    fn shares_of_pixels_mix_as_one_share_does_and_both_ends_are_exact() {
        let (picture, source) = (tensor("picture"), tensor("source"));
        let shares: Vec<f32> = (0..picture.len() / 3).map(|at| [0.0, 0.5, 1.0][at % 3]).collect();
        let mut mixed = picture.clone();
        mix_by(&mut mixed, &source, &shares);
        let mut half = picture.clone();
        mix(&mut half, &source, 0.5);
        for (at, mixed) in mixed.iter().enumerate() {
            let expected = [source[at], half[at], picture[at]][at / 3 % 3];
            assert_eq!(*mixed, expected, "{at}");
        }
    }

    #[test]
    fn grey_gets_the_light_alone_and_a_full_colour_turns_grey_only_as_far_as_it_must() {
        let mut picture = vec![0.5, -0.5, 0.1, 1.0, 1.0, 1.0, -0.6, -0.6, -0.6];
        luminosity(&mut picture, &[0.0, 0.0, 0.0, 1.0, -1.0, -1.0, 1.0, -1.0, -1.0]);
        assert!(picture[0] == picture[1] && picture[1] == picture[2], "{picture:?}");
        // White has no colour.
        assert!(picture[3..6].iter().all(|value| (value - 1.0).abs() < 1e-6), "{picture:?}");
        // Red has the light 0.3, and a darker red is a red still.
        assert!(picture[6] > -0.4 && picture[7] < -0.99 && picture[8] < -0.99, "{picture:?}");
    }
}
