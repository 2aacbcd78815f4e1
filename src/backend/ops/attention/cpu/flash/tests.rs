//! Every kernel against attention by its definition, in f64.

use super::*;

/// Numbers that look random, in `-2..2`.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((state >> 40) as f32 / (1 << 22) as f32) - 2.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// One row of one head in f64.
fn by_definition(
    query: &[f32],
    seen: Range<usize>,
    key: impl Fn(usize, usize) -> f32,
    value: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let width = query.len();
    let score = |row: usize| {
        let dot = |i: usize| f64::from(query[i]) * f64::from(key(row, i));
        (0..width).map(dot).sum::<f64>() / (width as f64).sqrt()
    };
    let weights: Vec<f64> = seen.clone().map(|row| score(row).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mixed = |i: usize| {
        let parts = weights.iter().zip(seen.clone());
        parts.map(|(weight, row)| weight * f64::from(value(row, i))).sum::<f64>() / total
    };
    (0..width).map(mixed).collect()
}

#[test]
fn every_kernel_gives_what_attention_is_by_definition() {
    let cached = |past, window| Mask::Cached { past, window };
    let cases = [
        (Mask::None, 8, 1, 1, 1, 1),
        (Mask::None, 97, 77, 3, 3, 64),
        (Mask::None, 200, 531, 1, 1, 64),
        (Mask::None, 19, 300, 2, 1, 40),
        (Mask::None, 13, 150, 1, 1, 520),
        (Mask::Causal, 77, 77, 2, 2, 17),
        (Mask::Causal, 300, 300, 1, 1, 31),
        (cached(100, None), 300, 420, 4, 1, 8),
        (cached(600, Some(37)), 30, 700, 2, 2, 33),
    ];
    for kernel in kernels() {
        for (mask, queries, keys, heads, key_heads, width) in cases {
            let sizes = AttentionSizes { batch: 1, queries, keys, heads, key_heads, width };
            let (stride, key_stride) = (heads * width, key_heads * width);
            let q = numbers(1, queries * stride);
            let (k, v) = (numbers(2, keys * key_stride), numbers(3, keys * key_stride));
            let mut y = vec![MaybeUninit::new(f32::NAN); q.len()];
            attention(kernel, sizes, [&q, &k, &v], mask, &mut y, None);
            // SAFETY: all of it has been written, if only by the line before.
            let y: Vec<f32> = y.iter().map(|y| unsafe { y.assume_init() }).collect();
            let (mut largest, mut error) = (0f64, 0f64);
            for row in 0..queries {
                for head in 0..heads {
                    let first = row * stride + head * width;
                    let at = |row: usize, i: usize| {
                        row * key_stride + head / (heads / key_heads) * width + i
                    };
                    let seen = mask.seen(row, keys);
                    let (key, value) = (|row, i| k[at(row, i)], |row, i| v[at(row, i)]);
                    let expected = by_definition(&q[first..first + width], seen, key, value);
                    for (y, expected) in y[first..].iter().zip(expected) {
                        largest = largest.max(expected.abs());
                        error = error.max((f64::from(*y) - expected).abs());
                    }
                    assert!(error.is_finite(), "{}: {sizes:?}, {mask:?}", kernel.name);
                }
            }
            let bound = match kernel.precision {
                MatmulPrecision::F32 => 3e-6,
                MatmulPrecision::Bf16 => 3e-2,
            };
            let error = error / largest;
            assert!(error < bound, "{}: {sizes:?}, {mask:?}: {error:.1e}", kernel.name);
        }
    }
}

#[test]
fn samples_whose_panels_do_not_fit_together_are_computed_in_turn() {
    let one =
        AttentionSizes { batch: 1, queries: 8, keys: 4200, heads: 1, key_heads: 1, width: 520 };
    let (queries, keys) = (one.queries * one.width, one.keys * one.width);
    for kernel in kernels().filter(|kernel| kernel.precision == MatmulPrecision::F32) {
        let panels = HeadPanels { kernel, width: one.width, count: one.keys };
        assert_eq!(together(2, panels.lines()), 1);
        let (q, k, v) = (numbers(1, 2 * queries), numbers(2, 2 * keys), numbers(3, 2 * keys));
        let mut both = vec![MaybeUninit::new(f32::NAN); 2 * queries];
        attention(
            kernel,
            AttentionSizes { batch: 2, ..one },
            [&q, &k, &v],
            Mask::None,
            &mut both,
            None,
        );
        let mut second = vec![MaybeUninit::new(f32::NAN); queries];
        let rows = [&q[queries..], &k[keys..], &v[keys..]];
        attention(kernel, one, rows, Mask::None, &mut second, None);
        // SAFETY: all of it has been written.
        let bits = |y: &MaybeUninit<f32>| unsafe { y.assume_init() }.to_bits();
        assert!(second.iter().map(bits).eq(both[queries..].iter().map(bits)), "{}", kernel.name);
    }
}
