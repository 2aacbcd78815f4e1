//! What the shim computes for Metal kernels, and that it finds mistakes.

use kernel_check::{Arg, Buffer, Mode, backend::launch::Launch, try_launch, uniform};

/// A launch of one SIMD group.
fn one(kernel: &'static str) -> Launch {
    Launch { kernel, grid: [1, 1, 1], block: 32, shared: 0 }
}

#[test]
fn matrices_are_loaded_turned_multiplied_and_stored() {
    let (a, b) = (uniform::<f32>(1, 64), uniform::<f32>(2, 64));
    for mode in Mode::ALL {
        let mut y = Buffer::<f32>::unwritten(64);
        let (a_buffer, b_buffer) = (&mut Buffer::new(&a), &mut Buffer::new(&b));
        let arguments = &mut [Arg::input(a_buffer), Arg::input(b_buffer), Arg::output(&mut y)];
        try_launch(&one("metal/probe_product"), arguments, mode).unwrap();
        for (place, y) in y.to_vec().into_iter().enumerate() {
            let (row, column) = (place / 8, place % 8);
            let expected: f32 = (0..8).map(|k| a[row * 8 + k] * b[column * 8 + k]).sum();
            assert!((y - expected).abs() < 1e-6, "{row}, {column}: {y}, not {expected}");
        }
    }
}

#[test]
fn a_barrier_that_is_missing_shows_in_one_of_the_modes() {
    let expected: Vec<f32> = (0..64u8).map(f32::from).collect();
    let is_right = |missing: u32| {
        Mode::ALL.into_iter().all(|mode| {
            let mut y = Buffer::<f32>::unwritten(64);
            let arguments = &mut [Arg::output(&mut y), Arg::value(missing)];
            try_launch(&one("metal/probe_missing_barrier"), arguments, mode).unwrap();
            y.to_vec() == expected
        })
    };
    assert!(is_right(0) && !is_right(1) && !is_right(2));
}

#[test]
fn what_a_gpu_would_do_wrong_without_a_word_is_a_message() {
    for mode in Mode::ALL {
        let fails = |kernel, values: &[u32], message: &str| {
            let mut y = Buffer::<f32>::unwritten(32);
            let mut arguments = vec![Arg::output(&mut y)];
            arguments.extend(values.iter().map(|&value| Arg::value(value)));
            let error = try_launch(&one(kernel), &mut arguments, mode).unwrap_err();
            assert!(error.contains(message), "{error}");
        };
        fails("metal/probe_divergence", &[], "has ended");
        fails("metal/probe_memory", &[], "bytes of threadgroup memory");
        fails("metal/probe_overrun", &[32], "outside of a shared array");
        fails("metal/probe_overrun", &[], "1 arguments for 2 parameters");
    }
}
