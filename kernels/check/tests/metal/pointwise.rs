//! Operations on single values.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use kernel_check::{
    Arg, Buffer, Element, Mode, assert_close,
    backend::{
        launch::Launch,
        launch_metal::{LengthSizes, MetalElement},
    },
    f16, uniform,
};

use crate::{
    bar, bits,
    combine_launch::{add, add_bias},
    element, in_every_mode, launch,
    nonlinear_launch::{geglu, gelu, quick_gelu, silu, swiglu},
    upsample_launch::upsample_nearest_2x,
};

/// 1 − erf(z) for z ≥ 0: a power series, or from 3 on a continued fraction.
fn erfc(z: f64) -> f64 {
    if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for n in 1..100 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - 2.0 / PI.sqrt() * sum;
    }
    let fraction = (1..=60).rev().fold(z, |fraction, n| z + f64::from(n) / 2.0 / fraction);
    (-z * z).exp() / PI.sqrt() / fraction
}

/// Φ(x)
fn normal(x: f64) -> f64 {
    let tail = 0.5 * erfc(x.abs() * FRAC_1_SQRT_2);
    if x < 0.0 { tail } else { 1.0 - tail }
}

fn swish(x: f64, slope: f64) -> f64 {
    x / (1.0 + (-slope * x).exp())
}

type LaunchOf = fn(MetalElement, u64, bool) -> (Launch, LengthSizes);
type OfOne = fn(f64) -> f64;
type OfTwo = fn(f64, f64) -> f64;

/// A function of one value, and what it is.
const MAPS: [(LaunchOf, OfOne); 3] =
    [(silu, |x| swish(x, 1.0)), (gelu, |x| x * normal(x)), (quick_gelu, |x| swish(x, 1.702))];

/// A function of two values, and what it is.
const COMBINATIONS: [(LaunchOf, OfTwo); 2] =
    [(swiglu, |gate, value| swish(gate, 1.0) * value), (add, |a, b| a + b)];

fn mapped<T: Element>(of: LaunchOf, x: &[T], aligned: bool, mode: Mode) -> Vec<T> {
    let (geometry, sizes) = of(element::<T>(), x.len() as u64, aligned);
    let mut y = Buffer::unwritten(x.len());
    let x = &mut Buffer::new(x);
    launch(&geometry, &mut [Arg::input(x), Arg::output(&mut y), Arg::value(sizes)], mode);
    y.to_vec()
}

fn combined<T: Element>(of: LaunchOf, a: &[T], b: &[T], aligned: bool, mode: Mode) -> Vec<T> {
    let (geometry, sizes) = of(element::<T>(), a.len() as u64, aligned);
    let mut y = Buffer::unwritten(a.len());
    let (a, b) = (&mut Buffer::new(a), &mut Buffer::new(b));
    let arguments = &mut [Arg::input(a), Arg::input(b), Arg::output(&mut y), Arg::value(sizes)];
    launch(&geometry, arguments, mode);
    y.to_vec()
}

/// Numbers of up to `most`.
fn numbers<T: Element>(seed: u64, len: usize, most: f32) -> Vec<T> {
    uniform::<f32>(seed, len).into_iter().map(|x| T::round(most * x)).collect()
}

fn check_lengths<T: Element>() {
    for len in [1, 3, 4, 1023, 1024, 1030] {
        for aligned in [true, false] {
            let what = format!("{:?} {len} aligned {aligned}", element::<T>());
            let (a, b) = (numbers::<T>(1, len, 6.0), numbers::<T>(2, len, 3.0));
            for (of, expected) in MAPS {
                let y = in_every_mode(&what, |mode| mapped(of, &a, aligned, mode));
                let reference: Vec<f64> = a.iter().map(|a| expected(a.widen())).collect();
                assert_close(&what, &y, &reference, bar::<T>());
            }
            for (of, expected) in COMBINATIONS {
                let y = in_every_mode(&what, |mode| combined(of, &a, &b, aligned, mode));
                let pairs = a.iter().zip(&b);
                let reference: Vec<f64> =
                    pairs.map(|(a, b)| expected(a.widen(), b.widen())).collect();
                assert_close(&what, &y, &reference, bar::<T>());
            }
        }
    }
}

#[test]
fn functions_of_any_number_of_values() {
    check_lengths::<f16>();
    check_lengths::<f32>();
}

#[test]
fn the_normal_distribution_is_right_to_a_millionth() {
    let x: Vec<f32> = (-40_000..=40_000).map(|i| i as f32 / 4000.0).collect();
    let y = mapped(gelu, &x, true, Mode::ALL[0]);
    for (x, y) in x.into_iter().zip(y) {
        let expected = f64::from(x) * normal(f64::from(x));
        let error = (f64::from(y) - expected).abs();
        assert!(error <= 1e-6 * f64::from(x.abs()), "gelu({x}) is {expected}, not {y}");
    }
    // The tail is small in itself and no difference of large numbers.
    let far = mapped(gelu, &[-6.0f32, -8.0, -12.0], true, Mode::ALL[0]);
    for (x, y) in [-6.0f64, -8.0, -12.0].into_iter().zip(far) {
        let expected = x * normal(x);
        assert!((f64::from(y) / expected - 1.0).abs() < 1e-5, "gelu({x}) is {expected}, not {y}");
    }
    assert!((normal(1.96) - 0.975_002_104_851_779_5).abs() < 1e-14);
    assert!((normal(-5.0) / 2.866_515_718_791_94e-7 - 1.0).abs() < 1e-10);
}

#[test]
fn huge_and_undefined_values_are_what_they_must_be() {
    for (of, _) in MAPS {
        let y = mapped(of, &[60_000.0f32, -60_000.0, f32::NAN, 1e30, -1e30], true, Mode::ALL[0]);
        assert_eq!((y[0], y[3]), (60_000.0, 1e30));
        assert!(y[1].abs() < 1e-20 && y[4].abs() < 1e-4 && y[2].is_nan(), "{y:?}");
    }
}

fn check_geglu<T: Element>(rows: usize, width: usize, aligned: bool) {
    let what = format!("{:?} {rows}x{width} aligned {aligned}", element::<T>());
    let x = numbers::<T>(3, rows * 2 * width, 4.0);
    let run = |x: &[T], mode| {
        let rows = (x.len() / width / 2) as u32;
        let (geometry, sizes) = geglu(element::<T>(), rows, width as u32, aligned);
        let mut y = Buffer::<T>::unwritten(x.len() / 2);
        let x = &mut Buffer::new(x);
        launch(&geometry, &mut [Arg::input(x), Arg::output(&mut y), Arg::value(sizes)], mode);
        y.to_vec()
    };
    let y = in_every_mode(&what, |mode| run(&x, mode));
    let of_row = |row: &[T]| -> Vec<f64> {
        let (values, gates) = row.split_at(width);
        values.iter().zip(gates).map(|(v, g)| v.widen() * g.widen() * normal(g.widen())).collect()
    };
    let reference: Vec<f64> = x.chunks_exact(2 * width).flat_map(of_row).collect();
    assert_close(&what, &y, &reference, bar::<T>());
    let last = run(&x[(rows - 1) * 2 * width..], Mode::ALL[0]);
    assert_eq!(bits(&last), bits(&y[(rows - 1) * width..]), "{what}: the last row alone");
}

#[test]
fn gates_of_any_width() {
    for (rows, width) in [(1, 1), (3, 4), (2, 7), (5, 320), (2, 261)] {
        for aligned in [true, false] {
            check_geglu::<f16>(rows, width, aligned);
            check_geglu::<f32>(rows, width, aligned);
        }
    }
}

fn check_add_bias<T: Element>(
    (rows, width): (usize, usize),
    bias_rows: usize,
    has_other: bool,
    aligned: bool,
) {
    let what = format!("{:?} {rows}x{width}, {bias_rows} {has_other} {aligned}", element::<T>());
    let x = numbers::<T>(4, rows * width, 1.0);
    let bias = numbers::<T>(5, rows / bias_rows * width, 1.0);
    let other = numbers::<T>(6, if has_other { rows * width } else { 0 }, 1.0);
    let y = in_every_mode(&what, |mode| {
        let shape = (rows as u32, width as u32);
        let (geometry, sizes) =
            add_bias(element::<T>(), shape, bias_rows as u32, has_other, aligned);
        let mut y = Buffer::<T>::unwritten(x.len());
        launch(
            &geometry,
            &mut [
                Arg::input(&mut Buffer::new(&x)),
                Arg::input(&mut Buffer::new(&bias)),
                Arg::input(&mut Buffer::new(&other)),
                Arg::output(&mut y),
                Arg::value(sizes),
            ],
            mode,
        );
        y.to_vec()
    });
    let value = |(index, x): (usize, &T)| {
        let bias = bias[index / width / bias_rows * width + index % width].widen();
        x.widen() + bias + other.get(index).map_or(0.0, |other| other.widen())
    };
    let reference: Vec<f64> = x.iter().enumerate().map(value).collect();
    assert_close(&what, &y, &reference, bar::<T>());
}

#[test]
fn biases_of_layers_and_of_samples() {
    for (shape, bias_rows) in [((4, 12), 4), ((6, 5), 3), ((2, 300), 1), ((1, 1), 1)] {
        for (has_other, aligned) in [(true, true), (false, true), (true, false)] {
            check_add_bias::<f16>(shape, bias_rows, has_other, aligned);
            check_add_bias::<f32>(shape, bias_rows, has_other, aligned);
        }
    }
}

fn check_upsample<T: Element>(
    (batch, height, width, channels): (usize, usize, usize, usize),
    aligned: bool,
) {
    let x = numbers::<T>(7, batch * height * width * channels, 1.0);
    let y = in_every_mode("doubling", |mode| {
        let (rows, width, channels) = ((batch * height) as u32, width as u32, channels as u32);
        let (geometry, sizes) = upsample_nearest_2x(element::<T>(), rows, width, channels, aligned);
        let mut y = Buffer::<T>::unwritten(4 * x.len());
        let x = &mut Buffer::new(&x);
        launch(&geometry, &mut [Arg::input(x), Arg::output(&mut y), Arg::value(sizes)], mode);
        y.to_vec()
    });
    let expected = |index: usize| {
        let (pixel, channel) = (index / channels, index % channels);
        let (row, column) = (pixel / (2 * width), pixel % (2 * width));
        x[(row / 2 * width + column / 2) * channels + channel]
    };
    let expected: Vec<T> = (0..4 * x.len()).map(expected).collect();
    assert_eq!(bits(&y), bits(&expected), "{batch}x{height}x{width}x{channels}");
}

#[test]
fn doubled_pictures() {
    for shape in [(1, 1, 1, 1), (2, 3, 5, 8), (1, 2, 3, 7), (3, 1, 40, 20)] {
        for aligned in [true, false] {
            check_upsample::<f16>(shape, aligned);
            check_upsample::<f32>(shape, aligned);
        }
    }
}
