//! Functions of single values, sums and the doubling of a picture against f64.

use backend::launch::{ElementType, Launch, RowSizes};
use kernel_check::{Arg, Buffer, Element, Mode, assert_close, backend, bf16, f16, launch, uniform};

#[path = "../../../src/backend/ops/combine/launch.rs"]
mod combine_launch;
#[path = "../../../src/backend/ops/nonlinear/launch.rs"]
mod nonlinear_launch;
#[path = "../../../src/backend/ops/upsample/launch.rs"]
mod upsample_launch;

/// Lengths of a vector and less, tails of every kind, and several blocks.
const LENGTHS: [usize; 6] = [1, 7, 8, 16, 1003, 4100];

fn bar<T: Element>() -> f64 {
    if T::TYPE == ElementType::F32 { 1e-5 } else { 2e-3 }
}

/// Numbers between −`most` and `most`.
fn numbers<T: Element>(seed: u64, len: usize, most: f32) -> Vec<T> {
    uniform::<f32>(seed, len).into_iter().map(|x| T::round(x * most)).collect()
}

fn widened<T: Element>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| x.widen()).collect()
}

fn swish(x: f64, slope: f64) -> f64 {
    x / (1.0 + (-slope * x).exp())
}

/// The error function in f64: its series near zero, the continued fraction of its complement beyond.
fn erf(x: f64) -> f64 {
    if x.abs() < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..60 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let z = x.abs();
    let tail = (1..80).rev().fold(z, |tail, n| z + f64::from(n) / 2.0 / tail);
    (1.0 - (-z * z).exp() / (std::f64::consts::PI.sqrt() * tail)).copysign(x)
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// Runs a launch in every mode, with the same bytes in each.
fn run<T: Element, P: Copy>(geometry: &Launch, inputs: &[&[T]], length: usize, sizes: P) -> Vec<T> {
    let mut first: Option<Buffer<T>> = None;
    for mode in Mode::ALL {
        let mut buffers: Vec<Buffer<T>> = inputs.iter().map(|x| Buffer::new(x)).collect();
        let mut y = Buffer::<T>::unwritten(length);
        let mut arguments: Vec<Arg> = buffers.iter_mut().map(Arg::input).collect();
        arguments.extend([Arg::output(&mut y), Arg::value(sizes)]);
        launch(geometry, &mut arguments, mode);
        drop(arguments);
        match &first {
            None => first = Some(y),
            Some(first) => assert_eq!(first.bytes(), y.bytes(), "{} {mode:?}", geometry.kernel),
        }
    }
    first.unwrap().to_vec()
}

fn functions_of_one_value<T: Element>() {
    type Of = fn(ElementType, u64) -> Launch;
    type Function = fn(f64) -> f64;
    let functions: [(Of, Function); 3] = [
        (nonlinear_launch::silu, |x| swish(x, 1.0)),
        (nonlinear_launch::gelu, gelu),
        (nonlinear_launch::quick_gelu, |x| swish(x, 1.702)),
    ];
    for (of, function) in functions {
        for (seed, length) in LENGTHS.into_iter().enumerate() {
            let x = numbers::<T>(seed as u64, length, 9.0);
            let geometry = of(T::TYPE, length as u64);
            let y = run(&geometry, &[&x], length, length as u64);
            let reference: Vec<f64> = x.iter().map(|x| function(x.widen())).collect();
            assert_close(&format!("{} {length}", geometry.kernel), &y, &reference, bar::<T>());
        }
        // Far out they are 0 or the value itself, and what is not a number stays so.
        let far = [-60000.0, -200.0, -90.0, 200.0, 60000.0, f32::NAN].map(T::round);
        let y = run(&of(T::TYPE, 6), &[&far], 6, 6u64);
        for (y, x) in y.iter().zip(&far[..5]) {
            assert!((y.widen() - x.widen().max(0.0)).abs() < 1e-30, "{y:?} for {x:?}");
        }
        assert!(y[5].widen().is_nan());
    }
}

#[test]
fn functions_of_one_value_in_bf16() {
    functions_of_one_value::<bf16>();
}

#[test]
fn functions_of_one_value_in_f16() {
    functions_of_one_value::<f16>();
}

#[test]
fn functions_of_one_value_in_f32() {
    functions_of_one_value::<f32>();
}

fn functions_of_two_values<T: Element>() {
    type Of = fn(ElementType, u64) -> Launch;
    type Function = fn(f64, f64) -> f64;
    let functions: [(Of, Function); 2] = [
        (combine_launch::add, |a, b| a + b),
        (nonlinear_launch::swiglu, |gate, value| swish(gate, 1.0) * value),
    ];
    for (of, function) in functions {
        for (seed, length) in LENGTHS.into_iter().enumerate() {
            let (a, b) = (numbers::<T>(seed as u64, length, 3.0), numbers::<T>(77, length, 2.0));
            let geometry = of(T::TYPE, length as u64);
            let y = run(&geometry, &[&a, &b], length, length as u64);
            let pairs = a.iter().zip(&b);
            let reference: Vec<f64> = pairs.map(|(a, b)| function(a.widen(), b.widen())).collect();
            assert_close(&format!("{} {length}", geometry.kernel), &y, &reference, bar::<T>());
        }
    }
}

#[test]
fn functions_of_two_values_in_every_type() {
    functions_of_two_values::<bf16>();
    functions_of_two_values::<f16>();
    functions_of_two_values::<f32>();
}

/// Rows, and widths with and without whole vectors.
const ROWS: [(usize, usize); 6] = [(1, 1), (5, 3), (3, 8), (7, 36), (4, 640), (2, 2051)];

fn gated_rows<T: Element>() {
    for (rows, width) in ROWS {
        let x = numbers::<T>(width as u64, rows * 2 * width, 4.0);
        let (geometry, sizes) = nonlinear_launch::geglu(T::TYPE, rows as u64, width as u64);
        let y = run(&geometry, &[&x], rows * width, sizes);
        let row = |x: &[T]| -> Vec<f64> {
            let (value, gate) = x.split_at(width);
            value.iter().zip(gate).map(|(value, gate)| value.widen() * gelu(gate.widen())).collect()
        };
        let reference: Vec<f64> = x.chunks_exact(2 * width).flat_map(row).collect();
        let what = format!("{} {rows} × {width}", geometry.kernel);
        assert_close(&what, &y, &reference, bar::<T>());
        // A row alone gives the same bytes.
        let (geometry, sizes) = nonlinear_launch::geglu(T::TYPE, 1, width as u64);
        let alone = run(&geometry, &[&x[..2 * width]], width, sizes);
        assert_eq!(widened(&alone), widened(&y[..width]), "{what}");
    }
}

#[test]
fn gated_rows_in_every_type() {
    gated_rows::<bf16>();
    gated_rows::<f16>();
    gated_rows::<f32>();
}

fn biased_rows<T: Element>() {
    for (rows, width) in ROWS {
        let x = numbers::<T>(31, rows * width, 4.0);
        let bias = numbers::<T>(32, width, 2.0);
        let other = numbers::<T>(33, rows * width, 1.0);
        let (geometry, sizes): (Launch, RowSizes) =
            combine_launch::add_bias(T::TYPE, rows as u64, width as u64);
        let what = format!("{} {rows} × {width}", geometry.kernel);
        let sum = |index: usize| x[index].widen() + bias[index % width].widen();
        let reference: Vec<f64> =
            (0..rows * width).map(|index| sum(index) + other[index].widen()).collect();
        let y = run(&geometry, &[&x, &bias, &other], rows * width, sizes);
        assert_close(&what, &y, &reference, bar::<T>());
        let reference: Vec<f64> = (0..rows * width).map(sum).collect();

        let (mut x, mut bias) = (Buffer::new(&x), Buffer::new(&bias));
        let mut y = Buffer::<T>::unwritten(rows * width);
        let arguments = &mut [
            Arg::input(&mut x),
            Arg::input(&mut bias),
            Arg::Null,
            Arg::output(&mut y),
            Arg::value(sizes),
        ];
        launch(&geometry, arguments, Mode::ALL[0]);
        assert_close(&what, &y.to_vec(), &reference, bar::<T>());
    }
}

#[test]
fn rows_with_a_bias_and_with_or_without_another_tensor() {
    biased_rows::<bf16>();
    biased_rows::<f16>();
    biased_rows::<f32>();
}

fn doubled_pictures<T: Element>() {
    // Pixels of whole vectors and others, one pixel, more values than one block takes.
    for (batch, height, width, channels) in
        [(1, 1, 1, 1), (2, 3, 5, 4), (1, 2, 3, 37), (2, 4, 7, 64), (1, 2, 33, 320), (1, 1, 700, 5)]
    {
        let x = numbers::<T>(41, batch * height * width * channels, 1.0);
        let rows = (batch * height) as u64;
        let (geometry, sizes) =
            upsample_launch::upsample_nearest_2x(T::TYPE, rows, width as u32, channels as u32);
        let y = run(&geometry, &[&x], 4 * x.len(), sizes);
        for (index, y) in y.iter().enumerate() {
            let (pixel, channel) = (index / channels, index % channels);
            let (row, column) = (pixel / (2 * width), pixel % (2 * width));
            // Rows of all pictures: those of a picture are an even number.
            let from = (row / 2 * width + column / 2) * channels + channel;
            assert_eq!(*y, x[from], "{} {width} × {channels} at {index}", geometry.kernel);
        }
    }
}

#[test]
fn a_doubled_picture_has_every_pixel_four_times() {
    doubled_pictures::<bf16>();
    doubled_pictures::<f16>();
    doubled_pictures::<f32>();
}

/// A view into a larger tensor may begin on any of its elements.
fn tensors_on_odd_addresses<T: Element>() {
    let length = 1001;
    let place = |values: &mut [T]| Arg::value(values[1..].as_mut_ptr().expose_provenance());
    for (of_input, of_output) in [(true, false), (false, true), (true, true)] {
        let x = numbers::<T>(51, length, 3.0);
        let padded = [&[T::round(0.0)], &*x].concat();
        let (mut input, mut inside) = (Buffer::new(&x), padded.clone());
        let (mut output, mut outside) =
            (Buffer::<T>::unwritten(length), vec![T::round(5.0); length + 2]);
        let geometry = nonlinear_launch::silu(T::TYPE, length as u64);
        let arguments = &mut [
            if of_input { place(&mut inside) } else { Arg::input(&mut input) },
            if of_output { place(&mut outside) } else { Arg::output(&mut output) },
            Arg::value(length as u64),
        ];
        launch(&geometry, arguments, Mode::ALL[1]);
        let y = if of_output { outside[1..=length].to_vec() } else { output.to_vec() };
        assert_eq!(widened(&y), widened(&run(&geometry, &[&x], length, length as u64)));
        let around = [outside[0], outside[length + 1]];
        assert_eq!(around, [T::round(5.0); 2], "written beside the output");
    }
}

#[test]
fn tensors_on_odd_addresses_give_the_same_bytes() {
    tensors_on_odd_addresses::<bf16>();
    tensors_on_odd_addresses::<f16>();
    tensors_on_odd_addresses::<f32>();
}

#[test]
fn the_references_error_function_is_that_of_the_tables() {
    let table =
        [(0.5, 0.520_499_877_813_05), (2.0, 0.995_322_265_018_95), (3.0, 0.999_977_909_503_00)];
    for (x, expected) in table {
        assert!((erf(x) - expected).abs() < 1e-13 && (erf(-x) + expected).abs() < 1e-13, "{x}");
    }
}
