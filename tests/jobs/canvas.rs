//! Properties of the canvas that must hold for every size, region, overlap and order: docs/method.md, section 2.

use std::collections::HashMap;

use cupscale::canvas::{
    CanvasError, CanvasSize, Fuser, Fusion, Latent, NoiseField, RegionGrid, SizeSpec, target_size,
};
use proptest::prelude::*;

use crate::common::on_threads;

/// Region side (even) and overlap, odd ones too.
fn region_and_overlap() -> impl Strategy<Value = (usize, usize)> {
    (1usize..=24).prop_flat_map(|half| (Just(2 * half), 0..2 * half))
}

/// A prediction that is a function of place and region, so that any mix-up changes the result.
fn prediction(grid: &RegionGrid, channels: usize, index: usize) -> Vec<f32> {
    let (side, _) = grid.region_size();
    let mut eps = vec![0.0; side * side * channels];
    NoiseField::new(index as u64).fill(1, 0..side, 0..side, channels, &mut eps).unwrap();
    eps
}

/// All predictions of a grid, written in `order` into memory that was used before.
fn predictions(grid: &RegionGrid, channels: usize, order: &[usize]) -> Vec<f32> {
    let size = grid.region_size().0 * grid.region_size().1 * channels;
    let mut all = vec![f32::NAN; grid.len() * size];
    for &index in order {
        all[index * size..][..size].copy_from_slice(&prediction(grid, channels, index));
    }
    all
}

/// The fused canvas, `[height, width, channels]`, in bands of `band` rows.
fn fuse(
    grid: &RegionGrid,
    channels: usize,
    fusion: Fusion,
    predictions: &[f32],
    band: usize,
) -> Vec<f32> {
    let fuser = Fuser::new(fusion, grid, channels);
    let mut fused = vec![f32::NAN; grid.height() * grid.width() * channels];
    for top in (0..grid.height()).step_by(band) {
        let rows = top..(top + band).min(grid.height());
        let out =
            &mut fused[rows.start * grid.width() * channels..rows.end * grid.width() * channels];
        fuser.band(rows, predictions, out).unwrap();
    }
    fused
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn regions_cover_every_latent_pixel_whatever_the_sizes(
        height in 1usize..200, width in 1usize..200, (region, overlap) in region_and_overlap(),
    ) {
        let grid = RegionGrid::new(height, width, region, overlap).unwrap();
        prop_assert_eq!(grid.regions().count(), grid.len());
        let mut covered = vec![false; height * width];
        for (index, r) in grid.regions().enumerate() {
            prop_assert_eq!(r.index, index);
            prop_assert_eq!(index, r.row * grid.xs().len() + r.col);
            prop_assert_eq!((r.height, r.width), (region, region));
            prop_assert!(height < region && r.y == 0 || r.y + region <= height);
            prop_assert!(width < region && r.x == 0 || r.x + region <= width);
            for y in r.y..(r.y + region).min(height) {
                covered[y * width..][r.x..(r.x + region).min(width)].fill(true);
            }
        }
        prop_assert!(covered.iter().all(|&c| c));
    }

    #[test]
    fn starts_are_even_ascending_and_end_at_the_edge(
        half in 1usize..400, (region, overlap) in region_and_overlap(),
    ) {
        let length = 2 * half;
        let grid = RegionGrid::new(length, length, region, overlap).unwrap();
        for starts in [grid.ys(), grid.xs()] {
            prop_assert!(starts.iter().all(|s| s % 2 == 0), "{:?}", starts);
            prop_assert!(starts.is_sorted());
            prop_assert_eq!(starts[0], 0);
            prop_assert_eq!(*starts.last().unwrap(), length.saturating_sub(region));
        }
        for pair in grid.ys().windows(2) {
            prop_assert!(pair[0] < pair[1], "a region twice: {:?}", grid.ys());
            prop_assert!(pair[0] + region >= pair[1] + overlap - overlap % 2, "{:?}", grid.ys());
        }
        if length > region {
            let formula = (length - overlap).div_ceil(region - overlap);
            prop_assert!(grid.ys().len() <= formula);
            // Only a spacing below 2 latent pixels makes regions fall together.
            prop_assert!(grid.ys().len() == formula || region - overlap < 2);
        }
    }

    #[test]
    fn an_odd_canvas_is_still_covered_to_its_end_without_a_hole(
        half in 0usize..400, (region, overlap) in region_and_overlap(),
    ) {
        let length = 2 * half + 1;
        let grid = RegionGrid::new(length, 1, region, overlap).unwrap();
        prop_assert_eq!(*grid.ys().last().unwrap(), length.saturating_sub(region));
        for pair in grid.ys().windows(2) {
            prop_assert!(pair[0] + region >= pair[1], "{:?}", grid.ys());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_constant_stays_that_constant_after_fusion(
        height in 1usize..90, width in 1usize..90, (region, overlap) in region_and_overlap(),
        value in prop_oneof![-4.0f32..4.0, Just(1.0)], feather: bool,
    ) {
        let fusion = if feather { Fusion::Feather } else { Fusion::Average };
        let grid = RegionGrid::new(height, width, region, overlap).unwrap();
        let eps = vec![value; grid.len() * region * region * 2];
        // A sum of n terms in f32 is off by up to n half-units of its last place: an overlap of all
        // but two pixels adds more than a hundred regions, a usual one adds four.
        let most = |starts: &[usize], length: usize| {
            let over = |at: usize| starts.iter().filter(|&&y| (y..y + region).contains(&at)).count();
            (0..length).map(over).max().unwrap_or(0)
        };
        let terms = most(grid.ys(), height) * most(grid.xs(), width);
        let bound = (terms as f32 * f32::EPSILON).max(1e-6) * value.abs().max(1.0);
        for fused in fuse(&grid, 2, fusion, &eps, height) {
            prop_assert!((fused - value).abs() <= bound, "{} became {}", value, fused);
        }
    }

    #[test]
    fn fusion_gives_the_same_bits_in_any_bands_and_on_any_number_of_threads(
        height in 1usize..70, width in 1usize..70, (region, overlap) in region_and_overlap(), feather: bool,
        band in 1usize..80,
    ) {
        let fusion = if feather { Fusion::Feather } else { Fusion::Average };
        // Not so many regions that the test is slow.
        let overlap = overlap.min(region / 2 + 1).min(region - 1);
        let grid = RegionGrid::new(height, width, region, overlap).unwrap();
        let order: Vec<usize> = (0..grid.len()).collect();
        let written = predictions(&grid, 3, &order);
        let bits = |band: usize, threads: usize| -> Vec<u32> {
            on_threads(threads, || fuse(&grid, 3, fusion, &written, band).iter().map(|v| v.to_bits()).collect())
        };
        let expected = bits(height, 1);
        for (band, threads) in [(height, 3), (band, 2), (1, 1)] {
            prop_assert_eq!(&bits(band, threads), &expected);
        }
    }

    #[test]
    fn fusion_is_the_weighted_mean_in_double_precision(
        height in 1usize..60, width in 1usize..60, (region, overlap) in region_and_overlap(), feather: bool,
    ) {
        let fusion = if feather { Fusion::Feather } else { Fusion::Average };
        let overlap = overlap.min(region / 2);
        let grid = RegionGrid::new(height, width, region, overlap).unwrap();
        let weight = |i: usize| {
            let d = i.min(region - 1 - i) as f64 + 0.5;
            if !feather || d > overlap as f64 { 1.0 } else { (0.5 * std::f64::consts::PI * d / overlap as f64).sin().powi(2) }
        };
        let mut sums: HashMap<usize, (f64, f64)> = HashMap::new();
        for r in grid.regions() {
            let eps = prediction(&grid, 1, r.index);
            for (i, &e) in eps.iter().enumerate() {
                let (dy, dx) = (i / region, i % region);
                if r.y + dy < height && r.x + dx < width {
                    let w = weight(dy) * weight(dx);
                    let sum = sums.entry((r.y + dy) * width + r.x + dx).or_default();
                    *sum = (sum.0 + w * f64::from(e), sum.1 + w);
                }
            }
        }
        let order: Vec<usize> = (0..grid.len()).rev().collect();
        for (i, fused) in fuse(&grid, 1, fusion, &predictions(&grid, 1, &order), 7).into_iter().enumerate() {
            let (sum, weights) = sums[&i];
            prop_assert!(weights > 0.0);
            prop_assert!((f64::from(fused) - sum / weights).abs() < 2e-6, "at {}: {} for {}", i, fused, sum / weights);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_input_and_any_scale_give_a_canvas_that_crops_to_exactly_the_target(
        width in 1u32..3000, height in 1u32..3000,
        scale in prop_oneof![Just(1.1), Just(2.0), Just(3.7), Just(4.0), Just(1.0), 0.01f64..8.0],
        factor in prop_oneof![Just(4usize), Just(8), Just(1), Just(3)],
    ) {
        let (w, h) = target_size(width, height, SizeSpec::Scale(scale)).unwrap();
        for (side, target) in [(width, w), (height, h)] {
            let exact = f64::from(side) * scale;
            prop_assert!((f64::from(target) - exact).abs() <= 0.5 + 1e-8 || target == 1 && exact < 1.0);
        }
        let size = CanvasSize::for_pixels(w, h, factor).unwrap();
        prop_assert_eq!((size.width, size.height), (w as usize, h as usize));
        for (side, latent, padded) in
            [(size.width, size.latent_width, size.padded_width), (size.height, size.latent_height, size.padded_height)]
        {
            prop_assert_eq!(latent % 2, 0);
            prop_assert_eq!(padded, latent * factor);
            prop_assert!(padded >= side && padded - side < 2 * factor);
        }
    }

    #[test]
    fn a_long_edge_is_met_exactly_and_the_aspect_ratio_to_half_a_pixel(
        width in 1u32..10_000, height in 1u32..10_000, long in 1u32..40_000,
    ) {
        let (w, h) = target_size(width, height, SizeSpec::LongEdge(long)).unwrap();
        prop_assert_eq!(w.max(h), long);
        let exact = f64::from(width.min(height)) * f64::from(long) / f64::from(width.max(height));
        prop_assert!((f64::from(w.min(h)) - exact).abs() <= 0.5 + 1e-9 || w.min(h) == 1);
        prop_assert_eq!(target_size(width, height, SizeSpec::Exact(w, h)).unwrap(), (w, h));
    }

    #[test]
    fn gather_then_scatter_of_all_regions_copies_the_canvas(
        height in 1usize..60, width in 1usize..60, (region, overlap) in region_and_overlap(),
    ) {
        let grid = RegionGrid::new(height, width, region, overlap.min(region / 2)).unwrap();
        let mut source = Latent::in_memory(height, width, 2).unwrap();
        NoiseField::new(5).fill(0, 0..height, 0..width, 2, source.as_mut_slice()).unwrap();
        let mut copy = Latent::in_memory(height, width, 2).unwrap();
        let mut buffer = vec![0.0; region * region * 2];
        for r in grid.regions() {
            source.gather(&r, &mut buffer).unwrap();
            copy.scatter(&r, &buffer).unwrap();
        }
        prop_assert_eq!(copy.as_slice(), source.as_slice());
    }
}

#[test]
fn slices_of_another_size_are_typed_errors() {
    let grid = RegionGrid::new(12, 12, 8, 4).unwrap();
    let fuser = Fuser::new(Fusion::Average, &grid, 1);
    let mut out = vec![0.0; 24];
    for (predictions, band) in [(4 * 64 - 1, 24), (4 * 64, 23)] {
        assert!(matches!(
            fuser.band(0..2, &vec![1.0; predictions], &mut out[..band]),
            Err(CanvasError::Length { .. })
        ));
    }
    fuser.band(0..2, &vec![1.0; 4 * 64], &mut out).unwrap();
    assert_eq!(out, [1.0; 24]);
}
