//! Any processor: arrays that the compiler keeps in vector registers (NEON: four rows by four
//! vectors of sums).

use super::{Kernel, PANEL, Place, ROW, Sums, by_rows};
use crate::backend::MatmulPrecision;

pub(super) const F32: Kernel = Kernel {
    name: "portable",
    precision: MatmulPrecision::F32,
    rows: 4,
    step: 1,
    micro: rows,
    present: || true,
};

/// Columns at a time.
const COLUMNS: usize = 16;

/// `a·b + c`: in one instruction where that is sure to exist, never by a function.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// # Safety
/// As [`Micro`](super::Micro) says.
unsafe fn rows(rows: usize, words: usize, a: *const u32, b: *const u32, place: &Place) {
    // SAFETY: promised by the caller.
    unsafe { by_rows!(rows, of_rows, [1 2 3 4], (words, a.cast(), b.cast(), place)) };
}

/// # Safety
/// As [`Micro`](super::Micro) says.
unsafe fn of_rows<const M: usize>(words: usize, a: *const f32, b: *const f32, place: &Place) {
    let mut sums = Sums([[0.0; PANEL]; M]);
    for column in (0..PANEL).step_by(COLUMNS) {
        let mut all = [[0f32; COLUMNS]; M];
        for word in 0..words {
            // SAFETY: within the panel, as the caller promises.
            let panel = unsafe { *b.add(word * PANEL + column).cast::<[f32; COLUMNS]>() };
            for (row, sums) in all.iter_mut().enumerate() {
                // SAFETY: within the rows, as the caller promises.
                let value = unsafe { *a.add(row * ROW + word) };
                for (sum, panel) in sums.iter_mut().zip(panel) {
                    *sum = multiply_add(value, panel, *sum);
                }
            }
        }
        for (of_row, row) in all.iter().zip(&mut sums.0) {
            row[column..column + COLUMNS].copy_from_slice(of_row);
        }
    }
    // SAFETY: promised by the caller.
    unsafe { place.finish(&sums) };
}
