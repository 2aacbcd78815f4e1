//! AVX2: six rows by two vectors of sums, one half of a panel after the other.

use std::arch::x86_64::{
    _mm256_fmadd_ps, _mm256_load_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_store_ps,
};

use super::{Kernel, PANEL, Place, ROW, Sums, by_rows};
use crate::backend::MatmulPrecision;

pub(super) const F32: Kernel = Kernel {
    name: "AVX2",
    precision: MatmulPrecision::F32,
    rows: 6,
    step: 1,
    micro: rows,
    present: || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
};

/// Numbers of a vector.
const LANES: usize = 8;

#[target_feature(enable = "avx2,fma")]
fn rows(rows: usize, words: usize, a: *const u32, b: *const u32, place: &Place) {
    by_rows!(rows, of_rows, [1 2 3 4 5 6], (words, a.cast(), b.cast(), place));
}

#[target_feature(enable = "avx2,fma")]
fn of_rows<const M: usize>(words: usize, a: *const f32, b: *const f32, place: &Place) {
    let mut sums = Sums([[0.0; PANEL]; M]);
    for column in [0, PANEL / 2] {
        let (mut a, mut b) = (a, b.wrapping_add(column));
        let mut all = [[_mm256_setzero_ps(); 2]; M];
        for _ in 0..words {
            // SAFETY: within the panel, as the caller promises.
            let (left, right) = unsafe { (_mm256_load_ps(b), _mm256_load_ps(b.add(LANES))) };
            for (row, [first, second]) in all.iter_mut().enumerate() {
                // SAFETY: within the rows, as the caller promises.
                let word = _mm256_set1_ps(unsafe { *a.add(row * ROW) });
                *first = _mm256_fmadd_ps(word, left, *first);
                *second = _mm256_fmadd_ps(word, right, *second);
            }
            (a, b) = (a.wrapping_add(1), b.wrapping_add(PANEL));
        }
        for ([first, second], row) in all.into_iter().zip(&mut sums.0) {
            let row = &mut row[column..column + 2 * LANES];
            // SAFETY: two vectors, and aligned, since a row of sums and half of one are.
            unsafe {
                _mm256_store_ps(row.as_mut_ptr(), first);
                _mm256_store_ps(row.as_mut_ptr().add(LANES), second);
            }
        }
    }
    // SAFETY: promised by the caller.
    unsafe { place.finish(&sums) };
}
