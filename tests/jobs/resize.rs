//! Resizing against Pillow, and bands against the whole.

use std::fs::read;

use cupscale::image::{Filter, ImageError, Resizer};
use proptest::prelude::*;
use safetensors::SafeTensors;

use crate::common::{
    fixture,
    tensors::{largest_difference, stored},
};

/// Values, width, height.
fn plane(tensors: &SafeTensors, name: &str) -> (Vec<f32>, u32, u32) {
    let view = tensors.tensor(name).unwrap();
    (stored(tensors, name), view.shape()[1] as u32, view.shape()[0] as u32)
}

#[test]
fn lanczos_equals_pillow_enlarging_reducing_and_at_extreme_aspect_ratios() {
    let bytes = read(fixture("image/resize.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (source, w, h) = plane(&tensors, "source");
    let mut compared = 0;
    for name in tensors.names() {
        if name.starts_with("lanczos_") {
            let (want, width, height) = plane(&tensors, name);
            let resizer =
                Resizer::new(&source, 1, (w, h), (width, height), Filter::Lanczos3).unwrap();
            let difference = largest_difference(&resizer.rows(0..height), &want);
            assert!(difference < 1e-5, "{name}: {difference}");
            compared += 1;
        }
    }
    assert_eq!(compared, 9);
    let (want, width, height) = plane(&tensors, "one_lanczos_5x3");
    let one = Resizer::new(&[0.375], 1, (1, 1), (width, height), Filter::Lanczos3).unwrap();
    assert!(largest_difference(&one.rows(0..height), &want) < 1e-6);
}

#[test]
fn area_equals_pillows_reduce_and_the_integral_at_fractions() {
    let bytes = read(fixture("image/resize.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (source, name) in [("even", "reduce_2"), ("even", "reduce_4"), ("source", "area_11x8")] {
        let (source, w, h) = plane(&tensors, source);
        let (want, width, height) = plane(&tensors, name);
        let resizer = Resizer::new(&source, 1, (w, h), (width, height), Filter::Area).unwrap();
        let difference = largest_difference(&resizer.rows(0..height), &want);
        assert!(difference < 1e-6, "{name}: {difference}");
    }
}

#[test]
fn channels_are_resized_independently() {
    let bytes = read(fixture("image/resize.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (grey, w, h) = plane(&tensors, "source");
    let (want, width, height) = plane(&tensors, "lanczos_137x107");
    for channels in [2usize, 3, 5] {
        // Channel c holds the plane times (c + 1).
        let source: Vec<f32> =
            grey.iter().flat_map(|v| (1..=channels).map(move |c| v * c as f32)).collect();
        let resizer =
            Resizer::new(&source, channels, (w, h), (width, height), Filter::Lanczos3).unwrap();
        let got = resizer.rows(0..height);
        for (pixel, want) in got.chunks_exact(channels).zip(&want) {
            for (c, v) in pixel.iter().enumerate() {
                assert!((v / (c + 1) as f32 - want).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn clamping_cuts_the_overshoot_and_nothing_else() {
    let edge: Vec<f32> = (0..16).map(|i| f32::from(u8::from(i % 4 >= 2))).collect();
    let free = Resizer::new(&edge, 1, (4, 4), (16, 16), Filter::Lanczos3).unwrap();
    let values = free.rows(0..16);
    assert!(values.iter().any(|v| *v > 1.0) && values.iter().any(|v| *v < 0.0));
    let cut: Vec<f32> = values.iter().map(|v| v.clamp(0.0, 1.0)).collect();
    assert_eq!(free.clamped().rows(0..16), cut);
}

#[test]
fn an_empty_side_or_a_wrong_length_is_an_error() {
    let zero = Resizer::new(&[], 3, (0, 4), (8, 8), Filter::Lanczos3);
    assert!(matches!(zero, Err(ImageError::ZeroSize { .. })));
    let zero = Resizer::new(&[0.0; 3], 3, (1, 1), (8, 0), Filter::Area);
    assert!(matches!(zero, Err(ImageError::ZeroSize { .. })));
    let short = Resizer::new(&[0.0; 11], 3, (2, 2), (8, 8), Filter::Lanczos3);
    assert!(matches!(short, Err(ImageError::Shape { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bands_and_windows_equal_the_whole_bit_for_bit(
        (w, h) in (1u32..24, 1u32..24),
        (width, height) in (1u32..70, 1u32..70),
        band in 1u32..20,
        area in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let source: Vec<f32> = (0..w * h * 3)
            .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / (1 << 24) as f32)
            .collect();
        let filter = if area { Filter::Area } else { Filter::Lanczos3 };
        let resizer = Resizer::new(&source, 3, (w, h), (width, height), filter).unwrap();
        let whole = resizer.rows(0..height);
        prop_assert_eq!(whole.len(), (width * height * 3) as usize);
        let mut bands = Vec::new();
        for y in (0..height).step_by(band as usize) {
            bands.extend(resizer.rows(y..y + band));
        }
        prop_assert_eq!(&bands, &whole);
        let (x0, y0) = (width / 3, height / 2);
        let window = resizer.window(x0..width, y0..height);
        let row_len = ((width - x0) * 3) as usize;
        for (y, row) in window.chunks_exact(row_len).enumerate() {
            let at = (((y0 as usize + y) * width as usize) + x0 as usize) * 3;
            prop_assert_eq!(row, &whole[at..at + row_len]);
        }
    }

    #[test]
    fn a_constant_stays_constant_at_any_size(
        (w, h) in (1u32..24, 1u32..24),
        (width, height) in (1u32..70, 1u32..70),
        area in any::<bool>(),
    ) {
        let source = vec![0.7f32; (w * h) as usize];
        let filter = if area { Filter::Area } else { Filter::Lanczos3 };
        let resizer = Resizer::new(&source, 1, (w, h), (width, height), filter).unwrap();
        for v in resizer.rows(0..height) {
            prop_assert!((v - 0.7).abs() < 1e-6);
        }
    }
}
