//! AVX-512: twelve rows by two vectors of sums, enough to keep both multipliers busy, with a
//! register for the word of a row and two for the panel.

use std::arch::x86_64::{
    __m512, __m512bh, __mmask16, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_dpbf16_ps,
    _mm512_fmadd_ps, _mm512_load_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::mem::transmute;

use super::{Kernel, LINE, PANEL, Place, ROW, by_rows};
use crate::backend::MatmulPrecision;

pub(super) const F32: Kernel = Kernel {
    name: "AVX-512",
    precision: MatmulPrecision::F32,
    rows: 12,
    step: 1,
    micro: f32_rows,
    present: || is_x86_feature_detected!("avx512f"),
};

/// Two neighbours of the inner dimension in one instruction (`vdpbf16ps`).
pub(super) const BF16: Kernel = Kernel {
    name: "AVX-512-BF16",
    precision: MatmulPrecision::Bf16,
    rows: 12,
    step: 1,
    micro: bf16_rows,
    present: || is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16"),
};

/// Numbers of a vector.
const LANES: usize = PANEL / 2;

/// [`Place::finish`] on sums that are still in registers: the body of a function, since one of its own
/// would get them through memory.
macro_rules! finish {
    ($place:expr, $sums:expr) => {{
        let mut sums = $sums;
        let Place { y, width, stride, bias, other, .. } = *$place;
        if width == PANEL {
            if !bias.is_null() {
                // SAFETY: promised by the caller.
                let bias = unsafe { [_mm512_loadu_ps(bias), _mm512_loadu_ps(bias.add(LANES))] };
                for [first, second] in &mut sums {
                    (*first, *second) =
                        (_mm512_add_ps(*first, bias[0]), _mm512_add_ps(*second, bias[1]));
                }
            }
            for (row, [mut first, mut second]) in sums.into_iter().enumerate() {
                // SAFETY: promised by the caller.
                unsafe {
                    if !other.is_null() {
                        let other = other.add(row * stride);
                        first = _mm512_add_ps(first, _mm512_loadu_ps(other));
                        second = _mm512_add_ps(second, _mm512_loadu_ps(other.add(LANES)));
                    }
                    let y = y.add(row * stride);
                    _mm512_storeu_ps(y, first);
                    _mm512_storeu_ps(y.add(LANES), second);
                }
            }
            return;
        }
        // Masked lanes are not touched.
        for (half, skip) in [0, LANES].into_iter().enumerate() {
            let count = width.saturating_sub(skip).min(LANES);
            let mask = ((1u32 << count) - 1) as __mmask16;
            let load = |from: *const f32| {
                // SAFETY: promised by the caller.
                unsafe { _mm512_maskz_loadu_ps(mask, from.wrapping_add(skip)) }
            };
            let bias = if bias.is_null() { _mm512_setzero_ps() } else { load(bias) };
            for (row, sums) in sums.iter().enumerate() {
                let mut sum = _mm512_add_ps(sums[half], bias);
                if !other.is_null() {
                    sum = _mm512_add_ps(sum, load(other.wrapping_add(row * stride)));
                }
                // SAFETY: promised by the caller.
                unsafe { _mm512_mask_storeu_ps(y.wrapping_add(row * stride + skip), mask, sum) };
            }
        }
    }};
}

/// Defines a micro-kernel by what it does with a vector of sums and two of words.
macro_rules! micro {
    ($name:ident, $features:literal, |$sum:ident, $a:ident, $b:ident| $multiply:expr) => {
        #[target_feature(enable = $features)]
        fn $name(rows: usize, words: usize, a: *const u32, b: *const u32, place: &Place) {
            #[target_feature(enable = $features)]
            fn of_rows<const M: usize>(
                words: usize,
                a: *const f32,
                b: *const f32,
                place: &Place,
            ) {
                let (mut a, mut b) = (a, b);
                let mut next =
                    if place.next.is_null() { b.cast() } else { place.next };
                let mut all = [[_mm512_setzero_ps(); 2]; M];
                for _ in 0..words {
                    let (left, right) =
                        // SAFETY: within the panel, as the caller promises.
                        unsafe { (_mm512_load_ps(b), _mm512_load_ps(b.add(PANEL / 2))) };
                    for (row, [first, second]) in all.iter_mut().enumerate() {
                        // SAFETY: within the rows, as the caller promises.
                        let $a = _mm512_set1_ps(unsafe { *a.add(row * ROW) });
                        let ($sum, $b) = (*first, left);
                        *first = $multiply;
                        let ($sum, $b) = (*second, right);
                        *second = $multiply;
                    }
                    _mm_prefetch::<_MM_HINT_T1>(next.cast());
                    next = next.wrapping_add(LINE);
                    (a, b) = (a.wrapping_add(1), b.wrapping_add(PANEL));
                }
                finish!(place, all);
            }
            let (a, b) = (a.cast(), b.cast());
            by_rows!(rows, of_rows, [1 2 3 4 5 6 7 8 9 10 11 12], (words, a, b, place));
        }
    };
}

micro!(f32_rows, "avx512f", |sum, a, b| _mm512_fmadd_ps(a, b, sum));
micro!(bf16_rows, "avx512f,avx512bf16", |sum, a, b| dot(sum, a, b));

/// `sum + a₀·b₀ + a₁·b₁` of every word.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot(sum: __m512, a: __m512, b: __m512) -> __m512 {
    // SAFETY: vectors of one size, all of whose bit patterns are numbers.
    let [a, b] = [a, b].map(|words| unsafe { transmute::<__m512, __m512bh>(words) });
    _mm512_dpbf16_ps(sum, a, b)
}
