//! The innermost loops of matrix products, one per instruction set, and which of them this
//! processor runs.
//!
//! A micro-kernel multiplies a few rows of activations with one panel, [`PANEL`] columns of a
//! weight, over at most [`DEPTH`] words of the inner dimension; sums are f32. A word is what one
//! lane multiplies at a time: one f32, or two neighbouring bf16 numbers. Rows lie [`ROW`] words
//! apart; a panel is a `[words, PANEL]` matrix without gaps.
//!
//! Every sum is taken over the inner dimension in order, by itself. So it does not depend on which
//! rows and columns are computed together, and tiles may be cut by what is fastest.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use candle_core::Result;

use crate::backend::MatmulPrecision;

/// Columns of a panel.
pub(in crate::backend) const PANEL: usize = 32;
/// Words of the inner dimension in one call: a panel's block then takes 32 KiB.
pub(in crate::backend) const DEPTH: usize = 256;
/// From one row of activations to the next, in words: a cache line more, so that rows do not fall
/// upon each other in the cache.
pub(in crate::backend) const ROW: usize = DEPTH + LINE;
/// Words of a cache line.
pub(in crate::backend) const LINE: usize = 16;

/// Sums, row by row.
#[repr(C, align(64))]
struct Sums<const M: usize>([[f32; PANEL]; M]);

/// Destination of a micro-kernel's sums, the epilogue's addends, and the addresses to prefetch.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct Place {
    pub y: *mut f32,
    /// columns of the panel that exist
    pub width: usize,
    /// from one row to the next
    pub stride: usize,
    /// `width` numbers for all rows, or null
    pub bias: *const f32,
    /// rows as those of `y`, perhaps `y` itself, or null
    pub other: *const f32,
    /// Words that a later call reads, or null: they are prefetched, a cache line for each word of this
    /// call, where there is an instruction for it.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    pub next: *const u32,
}

impl Place {
    /// The same without the first `rows` rows.
    #[cfg(target_arch = "x86_64")]
    fn below(&self, rows: usize) -> Self {
        let skip = rows * self.stride;
        let other = if self.other.is_null() { self.other } else { self.other.wrapping_add(skip) };
        Self { y: self.y.wrapping_add(skip), other, ..*self }
    }

    /// `y = sums + bias + other`.
    ///
    /// # Safety
    /// As many rows of memory as sums there must be, of which nobody else uses `y`'s.
    #[inline(always)]
    unsafe fn finish<const M: usize>(&self, sums: &Sums<M>) {
        for (row, sums) in sums.0.iter().enumerate() {
            let skip = row * self.stride;
            let y = self.y.wrapping_add(skip);
            let other =
                if self.other.is_null() { self.other } else { self.other.wrapping_add(skip) };
            if self.width == PANEL {
                // Loops of one length, for which the compiler has vectors. A closure would not be
                // compiled for the instructions of the kernel that this is a part of.
                let mut sums = *sums;
                for values in [self.bias, other] {
                    if !values.is_null() {
                        // SAFETY: promised by the caller.
                        let values = unsafe { &*values.cast::<[f32; PANEL]>() };
                        for column in 0..PANEL {
                            sums[column] += values[column];
                        }
                    }
                }
                // SAFETY: promised by the caller.
                unsafe { y.cast::<[f32; PANEL]>().write_unaligned(sums) };
            } else {
                for (column, &(mut sum)) in sums.iter().enumerate().take(self.width) {
                    // SAFETY: promised by the caller.
                    unsafe {
                        if !self.bias.is_null() {
                            sum += *self.bias.add(column);
                        }
                        if !other.is_null() {
                            sum += *other.add(column);
                        }
                        *y.add(column) = sum;
                    }
                }
            }
        }
    }
}

/// `y[r][c] = Σ a[r][w]·b[w][c] + …` for `rows` rows and `words` words, as [`Place`] says.
///
/// The processor must have the kernel's instructions; `a` must hold `rows` rows of `words` words,
/// [`ROW`] apart, and `b` `words` rows of [`PANEL`] words, at a multiple of 64 bytes; the place must
/// have as many rows, of which nobody else uses `y`'s.
type Micro = unsafe fn(rows: usize, words: usize, a: *const u32, b: *const u32, place: &Place);

/// A micro-kernel.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct Kernel {
    pub(in crate::backend) name: &'static str,
    pub(in crate::backend) precision: MatmulPrecision,
    /// most rows of one call
    pub(in crate::backend) rows: usize,
    /// Number that the count of words must be a multiple of.
    pub(in crate::backend) step: usize,
    micro: Micro,
    present: fn() -> bool,
}

/// All kernels, those before that are faster.
static KERNELS: &[Kernel] = &[
    #[cfg(target_arch = "x86_64")]
    amx::BF16,
    #[cfg(target_arch = "x86_64")]
    avx512::BF16,
    #[cfg(target_arch = "x86_64")]
    avx512::F32,
    #[cfg(target_arch = "x86_64")]
    avx2::F32,
    portable::F32,
];

impl MatmulPrecision {
    /// `true` if this processor has instructions for it.
    #[must_use]
    pub fn is_available(self) -> bool {
        self.instructions().is_some()
    }

    /// The instructions that this processor multiplies with, `AVX-512` for example; `None` if it has
    /// none for this precision.
    #[must_use]
    pub fn instructions(self) -> Option<&'static str> {
        Kernel::best(self).map(|kernel| kernel.name)
    }
}

impl Kernel {
    /// The fastest of this processor; `None` if it has no such instructions.
    fn best(precision: MatmulPrecision) -> Option<&'static Self> {
        Self::all().find(|kernel| kernel.precision == precision)
    }

    /// The fastest of this processor.
    ///
    /// # Errors
    /// A precision that it has no instructions for.
    pub(in crate::backend) fn get(precision: MatmulPrecision) -> Result<&'static Self> {
        match Self::best(precision) {
            Some(kernel) => Ok(kernel),
            None => {
                candle_core::bail!("this processor has no instructions for {precision} products")
            }
        }
    }

    /// All that this processor can run.
    pub(in crate::backend) fn all() -> impl Iterator<Item = &'static Self> {
        KERNELS.iter().filter(|kernel| (kernel.present)())
    }

    /// Calls the micro-kernel.
    ///
    /// # Safety
    /// As [`Micro`] says, whose kernel's instructions the processor has.
    pub(in crate::backend) unsafe fn run(
        &self,
        rows: usize,
        words: usize,
        a: *const u32,
        b: *const u32,
        place: &Place,
    ) {
        debug_assert!(rows <= self.rows && words <= DEPTH && words.is_multiple_of(self.step));
        // SAFETY: promised by the caller.
        unsafe { (self.micro)(rows, words, a, b, place) }
    }

    /// Words of `values` numbers of the inner dimension, padded with zeros at the end.
    pub(in crate::backend) fn words(&self, values: usize) -> usize {
        values.div_ceil(self.precision.per_word()).next_multiple_of(self.step)
    }
}

/// Calls the micro-kernel `$name::<M>` for the `M` that equals `$rows`.
macro_rules! by_rows {
    ($rows:expr, $name:ident, [$($m:literal)*], $arguments:tt) => {
        match $rows {
            $($m => $name::<$m> $arguments,)*
            rows => unreachable!("a micro-kernel for {rows} rows"),
        }
    };
}
use by_rows;
