//! The inner functions of [attention](super) on AVX-512, in f32, and in bf16 with sums in f32.

use std::{arch::x86_64::*, f32::consts::LN_2};

use super::{GROUP, LANES, PANEL, STRIDE, State, Tier};

pub(super) fn tier() -> Option<&'static Tier> {
    is_x86_feature_detected!("avx512f").then_some(&SINGLE)
}

static SINGLE: Tier = Tier {
    pair: 1,
    scores: [single::tile::<1, 1, GROUP, false>, single::tile::<2, 1, GROUP, false>],
    mix: [single::tile::<1, STRIDE, 1, true>, single::tile::<2, STRIDE, 1, true>],
    lay_columns: single::lay_columns,
    lay_values: single::lay_values,
    weigh: single::weigh,
};

/// The functions of a [`Tier`], for instructions `$features` and units that `$multiply_add`
/// multiplies, `$load` loads, `$join` makes of two rows and `$store` stores.
macro_rules! functions {
    ($features:literal, $pair:literal, $multiply_add:ident, $load:ident, $join:ident, $store:ident) => {
        /// [`Tile`](super::super::Tile) with `V` vectors a row; `a` has unit `u` of row `r` at
        /// `r·ROW + u·UNIT`.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn tile<
            const V: usize,
            const ROW: usize,
            const UNIT: usize,
            const ADD: bool,
        >(
            a: *const f32,
            b: *const f32,
            units: usize,
            c: *mut f32,
            stride: usize,
        ) {
            let mut sums = [[_mm512_setzero_ps(); V]; GROUP];
            // SAFETY: the caller's promise, here and below.
            unsafe {
                if ADD {
                    for (r, row) in sums.iter_mut().enumerate() {
                        for (v, sum) in row.iter_mut().enumerate() {
                            *sum = _mm512_loadu_ps(c.add(r * stride + v * LANES));
                        }
                    }
                }
                for unit in 0..units {
                    let mut columns = [_mm512_setzero_ps(); V];
                    for (v, column) in columns.iter_mut().enumerate() {
                        *column = _mm512_loadu_ps(b.add(unit * PANEL + v * LANES));
                    }
                    for (r, row) in sums.iter_mut().enumerate() {
                        let value = _mm512_set1_ps(*a.add(r * ROW + unit * UNIT));
                        for (sum, &column) in row.iter_mut().zip(&columns) {
                            *sum = $multiply_add(value, column, *sum);
                        }
                    }
                }
                for (r, row) in sums.iter().enumerate() {
                    for (v, &sum) in row.iter().enumerate() {
                        _mm512_storeu_ps(c.add(r * stride + v * LANES), sum);
                    }
                }
            }
        }

        /// [`LayColumns`](super::super::LayColumns)
        #[target_feature(enable = $features)]
        #[expect(clippy::too_many_arguments, reason = "a kernel's pointers and strides")]
        pub(super) unsafe fn lay_columns(
            rows: *const f32,
            count: usize,
            width: usize,
            stride: usize,
            scale: f32,
            target: *mut f32,
            lanes: usize,
            target_stride: usize,
        ) {
            let scale = _mm512_set1_ps(scale);
            let stored = first(lanes);
            for column in (0..width).step_by($pair * LANES) {
                let mut square = [_mm512_setzero_ps(); LANES];
                for (r, vector) in square[..count].iter_mut().enumerate() {
                    // SAFETY: lanes beyond the row's end are not read.
                    *vector =
                        unsafe { $load(rows.add(r * stride + column), width - column, scale) };
                }
                transpose(&mut square);
                let units = (width - column).div_ceil($pair).min(LANES);
                for (u, &vector) in square[..units].iter().enumerate() {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let line = target.add((column / $pair + u) * target_stride);
                        _mm512_mask_storeu_ps(line, stored, vector);
                    }
                }
            }
        }

        /// [`LayValues`](super::super::LayValues)
        #[target_feature(enable = $features)]
        pub(super) unsafe fn lay_values(
            row: *const f32,
            next: *const f32,
            width: usize,
            target: *mut f32,
            target_stride: usize,
        ) {
            for column in (0..width.next_multiple_of(PANEL)).step_by(LANES) {
                let lanes = first(width.saturating_sub(column));
                // SAFETY: lanes beyond the rows' ends are not read; the rest is the caller's promise.
                unsafe {
                    let below = if next.is_null() { 0 } else { lanes };
                    let values = _mm512_maskz_loadu_ps(lanes, row.wrapping_add(column));
                    let next = _mm512_maskz_loadu_ps(below, next.wrapping_add(column));
                    let line = target.add(column / PANEL * target_stride + column % PANEL);
                    _mm512_storeu_ps(line, $join(values, next));
                }
            }
        }

        /// [`Weigh`](super::super::Weigh)
        #[target_feature(enable = $features)]
        pub(super) unsafe fn weigh(
            scores: *mut f32,
            (from, to): (usize, usize),
            count: usize,
            state: &mut State,
            mixed: *mut f32,
            width: usize,
        ) {
            let seen = |at: usize| first(to.saturating_sub(at)) & !first(from.saturating_sub(at));
            let none = _mm512_set1_ps(f32::NEG_INFINITY);
            let mut largest = none;
            for at in (0..count).step_by(LANES) {
                // SAFETY: the scores are whole vectors, here and below.
                let scores = unsafe { _mm512_mask_loadu_ps(none, seen(at), scores.add(at)) };
                // A NaN is passed over here, and shows in its weight.
                largest = _mm512_max_ps(scores, largest);
            }
            let largest = _mm512_reduce_max_ps(largest);
            // SAFETY: as many numbers as a vector.
            let mut sums = unsafe { _mm512_loadu_ps(state.sums.as_ptr()) };
            if largest > state.largest {
                if state.largest > f32::NEG_INFINITY {
                    let shrink = exp2(_mm512_set1_ps(state.largest - largest));
                    sums = _mm512_mul_ps(sums, shrink);
                    for at in (0..width).step_by(LANES) {
                        // SAFETY: what is mixed are whole vectors.
                        unsafe {
                            let mixed = mixed.add(at);
                            let values = _mm512_mul_ps(_mm512_loadu_ps(mixed), shrink);
                            _mm512_storeu_ps(mixed, values);
                        }
                    }
                }
                state.largest = largest;
            }
            let largest = _mm512_set1_ps(state.largest);
            for at in (0..count).step_by(LANES) {
                // SAFETY: a unit takes no more than its scores, so none is overwritten before it is read.
                unsafe {
                    let weights = exp2(_mm512_sub_ps(_mm512_loadu_ps(scores.add(at)), largest));
                    let weights = _mm512_maskz_mov_ps(seen(at), weights);
                    sums = _mm512_add_ps(sums, weights);
                    $store(scores, at, weights);
                }
            }
            // SAFETY: as many numbers as a vector.
            unsafe { _mm512_storeu_ps(state.sums.as_mut_ptr(), sums) };
        }
    };
}

/// Units of one number.
mod single {
    use super::*;

    functions!("avx512f", 1, multiply_add, load, join, store);

    #[target_feature(enable = "avx512f")]
    fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn load(row: *const f32, count: usize, scale: __m512) -> __m512 {
        // SAFETY: lanes beyond `count` are not read.
        _mm512_mul_ps(unsafe { _mm512_maskz_loadu_ps(first(count), row) }, scale)
    }

    #[target_feature(enable = "avx512f")]
    fn join(row: __m512, _: __m512) -> __m512 {
        row
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn store(line: *mut f32, at: usize, values: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(line.add(at), values) };
    }
}

/// The first `count` lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    if count >= LANES { u16::MAX } else { (1 << count) - 1 }
}

/// 2ˣ within 2 units in the last place (Cephes' `exp2f`), 0 far below.
#[target_feature(enable = "avx512f")]
fn exp2(x: __m512) -> __m512 {
    let n = _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(x);
    let r = _mm512_sub_ps(x, n);
    let mut p = _mm512_set1_ps(1.535_336_2e-4);
    for c in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 0.240_226_48, LN_2, 1.0] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, n)
}

/// Lane `i` of vector `j` becomes lane `j` of vector `i`.
#[target_feature(enable = "avx512f")]
fn transpose(rows: &mut [__m512; LANES]) {
    // Within every quarter of the vectors, 4 × 4 at a time …
    for four in rows.chunks_exact_mut(4) {
        let (a, b) = (_mm512_unpacklo_ps(four[0], four[1]), _mm512_unpackhi_ps(four[0], four[1]));
        let (c, d) = (_mm512_unpacklo_ps(four[2], four[3]), _mm512_unpackhi_ps(four[2], four[3]));
        four[0] = _mm512_shuffle_ps::<0b01_00_01_00>(a, c);
        four[1] = _mm512_shuffle_ps::<0b11_10_11_10>(a, c);
        four[2] = _mm512_shuffle_ps::<0b01_00_01_00>(b, d);
        four[3] = _mm512_shuffle_ps::<0b11_10_11_10>(b, d);
    }
    // … and then the quarters among themselves.
    let lower = *rows;
    for i in 0..4 {
        let of = |j: usize| lower[4 * j + i];
        let a = _mm512_shuffle_f32x4::<0b10_00_10_00>(of(0), of(1));
        let b = _mm512_shuffle_f32x4::<0b11_01_11_01>(of(0), of(1));
        let c = _mm512_shuffle_f32x4::<0b10_00_10_00>(of(2), of(3));
        let d = _mm512_shuffle_f32x4::<0b11_01_11_01>(of(2), of(3));
        rows[i] = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, c);
        rows[4 + i] = _mm512_shuffle_f32x4::<0b10_00_10_00>(b, d);
        rows[8 + i] = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, c);
        rows[12 + i] = _mm512_shuffle_f32x4::<0b11_01_11_01>(b, d);
    }
}
