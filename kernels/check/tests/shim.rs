//! The shim itself: what it computes, and that it finds mistakes.

use kernel_check::{
    Arg, Buffer, Element, Mode, Order, backend::launch::Launch, bf16, f16, launch, take_conflicts,
    try_launch, uniform,
};

fn geometry(kernel: &'static str, blocks: u32, block: u32, shared: u32) -> Launch {
    Launch { kernel, grid: [blocks, 1, 1], block, shared }
}

#[test]
fn a_barrier_is_kept_and_a_missing_one_shows() {
    let mut x = Buffer::new(&uniform::<f32>(1, 384));
    let values = x.to_vec();
    let expected: Vec<f32> = values.chunks(128).flat_map(|b| b.iter().rev().copied()).collect();
    let mut reverse = |mode, skips: i32| {
        let mut y = Buffer::<f32>::unwritten(384);
        let mut arguments = [Arg::input(&mut x), Arg::output(&mut y), Arg::value(skips)];
        launch(&geometry("probe_reverse", 3, 128, 0), &mut arguments, mode);
        y.to_vec()
    };
    for mode in Mode::ALL {
        assert_eq!(reverse(mode, 0), expected);
        assert_ne!(reverse(mode, 1), expected, "{mode:?}");
    }
}

#[test]
fn warps_sum_and_compare() {
    let values = uniform::<f32>(2, 64);
    let mut x = Buffer::new(&values);
    for mode in Mode::ALL {
        let (mut sums, mut maxima) = (Buffer::<f32>::unwritten(64), Buffer::<f32>::unwritten(64));
        let mut arguments = [Arg::input(&mut x), Arg::output(&mut sums), Arg::output(&mut maxima)];
        launch(&geometry("probe_warp", 1, 64, 0), &mut arguments, mode);
        for (index, (sum, max)) in sums.to_vec().into_iter().zip(maxima.to_vec()).enumerate() {
            let warp = &values[index / 32 * 32..][..32];
            assert!((sum - warp.iter().sum::<f32>()).abs() < 1e-5);
            assert_eq!(max, warp.iter().copied().fold(f32::MIN, f32::max));
        }
    }
}

fn product<T: Element>(kernel: &'static str) {
    let (left, right) = (uniform::<T>(3, 256), uniform::<T>(4, 128));
    let (mut a, mut b) = (Buffer::new(&left), Buffer::new(&right));
    let launched = geometry(kernel, 1, 32, 768);
    let mut run = |mode, waits: i32| {
        let mut d = Buffer::<f32>::unwritten(128);
        let mut arguments =
            [Arg::input(&mut a), Arg::input(&mut b), Arg::output(&mut d), Arg::value(waits)];
        launch(&launched, &mut arguments, mode);
        d.to_vec()
    };
    for mode in Mode::ALL {
        let d = run(mode, 1);
        for row in 0..16 {
            for column in 0..8 {
                let sum: f64 = (0..16)
                    .map(|k| left[row * 16 + k].widen() * right[k * 8 + column].widen())
                    .sum();
                assert!((f64::from(d[row * 8 + column]) - sum).abs() < 1e-5, "{row}, {column}");
            }
        }
        assert_eq!(run(mode, 0)[0].is_nan(), mode.delayed, "a copy that is not waited for");
        // Of the left matrix' rows of 32 bytes every fourth lies under the first.
        take_conflicts();
        run(mode, 1);
        assert_eq!(take_conflicts(), 4 * 4);
    }
}

#[test]
fn matrices_multiply() {
    product::<bf16>("probe_product_bf16");
    product::<f16>("probe_product_f16");
}

#[test]
fn numbers_round_as_in_rust() {
    let mut values: Vec<f32> = uniform::<f32>(5, 4096);
    // Every exponent, ties, subnormal numbers, and what is too large.
    for exponent in 0..256u32 {
        for mantissa in
            [0, 0x1000, 0x2000, 0x3000, 0x7f_f000, 0x7f_ffff, 0x8000, 0x1_8000, 1, 0xfff]
        {
            let bits = exponent << 23 | mantissa;
            values.extend([f32::from_bits(bits), -f32::from_bits(bits)]);
        }
    }
    values.resize(values.len().next_multiple_of(64), 0.0);
    let len = values.len();
    let (mut x, mut as_bf16, mut as_f16) =
        (Buffer::new(&values), Buffer::<f32>::unwritten(len), Buffer::<f32>::unwritten(len));
    let mut arguments = [Arg::input(&mut x), Arg::output(&mut as_bf16), Arg::output(&mut as_f16)];
    launch(&geometry("probe_rounding", len as u32 / 64, 64, 0), &mut arguments, Mode::ALL[0]);
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    for ((x, b), h) in values.iter().zip(as_bf16.to_vec()).zip(as_f16.to_vec()) {
        assert!(same(b, bf16::from_f32(*x).to_f32()), "{x:e} in bf16: {b:e}");
        assert!(same(h, f16::from_f32(*x).to_f32()), "{x:e} in f16: {h:e}");
    }
}

#[test]
fn mistakes_are_found() {
    let found = [
        "thread 0 waits at __syncthreads, thread 40 has ended",
        "thread 0 waits at __syncwarp, thread 5 has ended",
        "another lane of its warp",
        "written before its first or after its last value",
        "a thread wrote outside of dynamic shared memory",
        "cp.async of an address that is not aligned to 16 bytes",
        "cp.async from outside of every buffer",
        "a collective of some lanes",
    ];
    for (mistake, expected) in found.into_iter().enumerate() {
        for mode in Mode::ALL {
            let mut y = Buffer::<f32>::unwritten(64);
            let mut arguments = [Arg::output(&mut y), Arg::value(mistake as i32)];
            let result = try_launch(&geometry("probe_mistake", 1, 64, 256), &mut arguments, mode);
            let message = result.expect_err(expected);
            let other_thread = mode.order != Order::Forward && mistake < 2;
            assert!(message.contains(expected) || other_thread, "{mistake} in {mode:?}: {message}");
        }
    }
}

#[test]
fn a_launch_has_the_kernels_parameters() {
    let fails = |kernel, block, value: Arg<'static>| {
        let mut y = Buffer::<f32>::unwritten(64);
        let mut arguments = [Arg::output(&mut y), value];
        try_launch(&geometry(kernel, 1, block, 256), &mut arguments, Mode::ALL[0]).unwrap_err()
    };
    assert_eq!(fails("probe_nothing", 64, Arg::value(9)), "there is no such kernel");
    let message = fails("probe_mistake", 64, Arg::value(9i64));
    assert_eq!(message, "argument 1 has 8 bytes, its parameter 4");
    assert!(fails("probe_mistake", 48, Arg::value(9)).contains("whole warps"));
    assert!(fails("probe_warp", 64, Arg::value(9)).contains("2 arguments for 3 parameters"));
}
