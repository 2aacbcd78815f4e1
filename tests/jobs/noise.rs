//! The noise field: the right numbers, everywhere the same, and normal.

use cupscale::canvas::NoiseField;
use safetensors::SafeTensors;

use crate::common::{on_threads, tensors::stored};

fn fixture(name: &str) -> Vec<f32> {
    let bytes = include_bytes!("../fixtures/noise/field.safetensors");
    let file = SafeTensors::deserialize(bytes).unwrap();
    stored(&file, name)
}

fn field(seed: u64, draw: u32, height: usize, width: usize, channels: usize) -> Vec<f32> {
    let mut out = vec![0.0; height * width * channels];
    NoiseField::new(seed).fill(draw, 0..height, 0..width, channels, &mut out).unwrap();
    out
}

fn correlation(pairs: impl Iterator<Item = (f32, f32)>) -> f64 {
    let (mut n, mut sum) = (0.0, 0.0);
    for (a, b) in pairs {
        n += 1.0;
        sum += f64::from(a) * f64::from(b);
    }
    // In standard deviations of the sum for independent standard normals.
    sum / f64::sqrt(n)
}

#[test]
fn the_field_has_the_bits_of_an_independent_implementation() {
    let cases = [
        ("seed0", 0u64, 0u32, 0usize, 0usize),
        ("seed_large", 0xfedc_ba98_7654_3210, 3, 1000, 70_000),
    ];
    for (name, seed, draw, y, x) in cases {
        let mut ours = vec![0.0; 16 * 16 * 4];
        NoiseField::new(seed).fill(draw, y..y + 16, x..x + 16, 4, &mut ours).unwrap();
        for (i, (a, b)) in ours.iter().zip(fixture(name)).enumerate() {
            assert_eq!(a.to_bits(), b.to_bits(), "{name} at {i}: {a} for {b}");
        }
    }
}

#[test]
fn the_field_does_not_depend_on_how_it_is_cut_into_windows() {
    let whole = field(42, 0, 37, 53, 4);
    let noise = NoiseField::new(42);
    for (rows, cols) in [(1, 53), (5, 7), (37, 1), (16, 16)] {
        for y in (0..37).step_by(rows) {
            for x in (0..53).step_by(cols) {
                let (y1, x1) = ((y + rows).min(37), (x + cols).min(53));
                let mut window = vec![0.0; (y1 - y) * (x1 - x) * 4];
                noise.fill(0, y..y1, x..x1, 4, &mut window).unwrap();
                for (i, value) in window.iter().enumerate() {
                    let (dy, rest) = (i / ((x1 - x) * 4), i % ((x1 - x) * 4));
                    let expected = whole[(y + dy) * 53 * 4 + x * 4 + rest];
                    assert_eq!(value.to_bits(), expected.to_bits());
                }
            }
        }
    }
    assert_eq!(on_threads(3, || field(42, 0, 37, 53, 4)), whole);
}

#[test]
fn a_million_draws_have_the_moments_and_the_distribution_of_a_standard_normal() {
    let mut values: Vec<f64> = field(1, 0, 512, 512, 4).into_iter().map(f64::from).collect();
    let n = values.len() as f64;
    assert!(n > 1e6);
    // Four standard errors of each moment's estimate.
    for (power, expected, variance) in
        [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]
    {
        let moment = values.iter().map(|v| v.powi(power)).sum::<f64>() / n;
        let error = (moment - expected).abs() / f64::sqrt(variance / n);
        assert!(error < 4.0, "moment {power} is {moment}, {error} standard errors off");
    }
    // Kolmogorov-Smirnov: the largest gap, times sqrt(n), stays below 1.95 with probability 0.999.
    values.sort_by(f64::total_cmp);
    let gap = values
        .iter()
        .enumerate()
        .map(|(i, &v)| {
            let cdf = normal_cdf(v);
            (cdf - i as f64 / n).abs().max(((i + 1) as f64 / n - cdf).abs())
        })
        .fold(0.0, f64::max);
    assert!(gap * n.sqrt() < 1.95, "KS statistic {}", gap * n.sqrt());
}

#[test]
fn neighbours_channels_draws_and_seeds_are_uncorrelated() {
    let (size, channels) = (256, 4);
    let base = field(9, 0, size, size, channels);
    let row = size * channels;
    let pairs =
        |offset: usize| correlation(base.iter().copied().zip(base.iter().copied().skip(offset)));
    for (name, score) in [
        ("next channel", pairs(1)),
        ("next column", pairs(channels)),
        ("next row", pairs(row)),
        ("diagonal", pairs(row + channels)),
        ("next draw", correlation(base.iter().copied().zip(field(9, 1, size, size, channels)))),
        ("next seed", correlation(base.iter().copied().zip(field(10, 0, size, size, channels)))),
        (
            "seed, upper word",
            correlation(base.iter().copied().zip(field(9 + (1 << 32), 0, size, size, channels))),
        ),
        (
            "squares of neighbours",
            correlation(
                base.iter()
                    .map(|v| (v * v - 1.0) / 2f32.sqrt())
                    .zip(base.iter().skip(channels).map(|v| (v * v - 1.0) / 2f32.sqrt())),
            ),
        ),
    ] {
        assert!(score.abs() < 4.0, "{name}: {score} standard deviations");
    }
}

/// Φ(x) by the series or the continued fraction of the error function; error below 1e-12.
fn normal_cdf(x: f64) -> f64 {
    let z = x.abs();
    let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let upper = if z < 3.0 {
        let (mut term, mut sum, mut k) = (z, z, 1.0);
        while term > 1e-17 * sum {
            k += 2.0;
            term *= z * z / k;
            sum += term;
        }
        0.5 - density * sum
    } else {
        density / (1..=60).rev().fold(z, |tail, k| z + f64::from(k) / tail)
    };
    if x > 0.0 { 1.0 - upper } else { upper }
}
