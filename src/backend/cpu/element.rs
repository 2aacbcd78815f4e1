//! The number types that micro-kernels multiply, and memory for them that begins at whole cache
//! lines.

use std::cell::Cell;

use half::{bf16, f16, slice::HalfFloatSliceExt as _};

use super::kernel::LINE;
use crate::backend::MatmulPrecision;

/// A cache line of words.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(in crate::backend) struct Line([u32; Line::WORDS]);

impl Line {
    pub const WORDS: usize = LINE;
    pub const ZERO: Self = Self([0; Self::WORDS]);
}

/// A number of which lines may consist.
///
/// # Safety
/// Every bit pattern is a value, and a line is a whole number of them.
pub(in crate::backend) unsafe trait Number: Copy {
    fn of_lines(lines: &[Line]) -> &[Self] {
        let len = size_of_val(lines) / size_of::<Self>();
        // SAFETY: the same memory, whose bit patterns are all values, and aligned for them.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), len) }
    }

    fn of_lines_mut(lines: &mut [Line]) -> &mut [Self] {
        let len = size_of_val(lines) / size_of::<Self>();
        // SAFETY: the same memory, whose bit patterns are all values, and aligned for them.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) }
    }
}

// SAFETY: every pattern of 32 bits is one, and a line is sixteen.
unsafe impl Number for u32 {}
// SAFETY: as `u32`.
unsafe impl Number for f32 {}
// SAFETY: every pattern of 16 bits is one, and a line is 32.
unsafe impl Number for f16 {}
// SAFETY: as `f16`.
unsafe impl Number for bf16 {}

/// A number that micro-kernels multiply, one or two of them a word.
pub(in crate::backend) trait Element: Number + Default {
    /// Numbers in a word.
    const PER_WORD: usize = size_of::<u32>() / size_of::<Self>();

    /// `to[i] = from[i]`, rounded, for as many on either side.
    fn round(from: &[f32], to: &mut [Self]);
}

impl Element for f32 {
    fn round(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }
}

impl Element for bf16 {
    fn round(from: &[f32], to: &mut [Self]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the processor has the instructions, as just checked.
            return unsafe { round_to_bf16(from, to) };
        }
        to.convert_from_f32_slice(from);
    }
}

/// Rounds to nearest, ties to even; what is too small to be a normal number becomes 0.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16,avx512vl")]
fn round_to_bf16(from: &[f32], to: &mut [bf16]) {
    use std::arch::x86_64::{
        __m256bh, __m256i, _mm256_storeu_si256, _mm512_cvtneps_pbh, _mm512_loadu_ps,
    };
    use std::mem::transmute;

    assert_eq!(from.len(), to.len(), "as many numbers");
    let (mut vectors, mut rounded) = (from.chunks_exact(16), to.chunks_exact_mut(16));
    for (vector, rounded) in (&mut vectors).zip(&mut rounded) {
        // SAFETY: sixteen numbers on either side.
        unsafe {
            let vector = _mm512_cvtneps_pbh(_mm512_loadu_ps(vector.as_ptr()));
            _mm256_storeu_si256(
                rounded.as_mut_ptr().cast(),
                transmute::<__m256bh, __m256i>(vector),
            );
        }
    }
    let (mut rest, tail) = ([0f32; 16], vectors.remainder());
    rest[..tail.len()].copy_from_slice(tail);
    // SAFETY: sixteen numbers.
    let vector = unsafe { _mm512_cvtneps_pbh(_mm512_loadu_ps(rest.as_ptr())) };
    // SAFETY: vectors of one size, all of whose bit patterns are numbers.
    let rest = unsafe { transmute::<__m256bh, [bf16; 16]>(vector) };
    let tail = rounded.into_remainder();
    tail.copy_from_slice(&rest[..tail.len()]);
}

/// Calls `f` with so many lines that belong to this thread and are used again by the next call.
/// Their initial contents are arbitrary.
pub(in crate::backend) fn with_lines<T>(count: usize, f: impl FnOnce(&mut [Line]) -> T) -> T {
    thread_local! {
        static LINES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    }
    // Taken out while in use: a nested call would get fresh ones instead of these.
    let mut lines = LINES.take();
    if lines.len() < count {
        lines.resize(count, Line::ZERO);
    }
    let result = f(&mut lines[..count]);
    LINES.set(lines);
    result
}

impl MatmulPrecision {
    /// Numbers in a word.
    pub(in crate::backend) fn per_word(self) -> usize {
        match self {
            Self::F32 => f32::PER_WORD,
            Self::Bf16 => bf16::PER_WORD,
        }
    }
}
