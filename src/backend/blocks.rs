//! The number formats in which weights are stored: f16 and bf16, and the blocks of ggml, in which
//! 32 or 256 neighbours of a row share their scales (candle's `k_quants`, which follows ggml's
//! `ggml-quants.c`).

use candle_core::quantized::{GgmlDType, k_quants};
use half::{bf16, f16, slice::HalfFloatSliceExt as _};
use rayon::prelude::*;

use k_quants::GgmlType as _;

/// Runs `$body` with `$Block` standing for the block type of a quantized format.
macro_rules! with_block {
    ($dtype:expr, $Block:ident => $body:expr, else $other:expr) => {{
        macro_rules! of {
            ($type:ty) => {{
                type $Block = $type;
                $body
            }};
        }
        match $dtype {
            GgmlDType::Q4_0 => of!(k_quants::BlockQ4_0),
            GgmlDType::Q4_1 => of!(k_quants::BlockQ4_1),
            GgmlDType::Q5_0 => of!(k_quants::BlockQ5_0),
            GgmlDType::Q5_1 => of!(k_quants::BlockQ5_1),
            GgmlDType::Q8_0 => of!(k_quants::BlockQ8_0),
            GgmlDType::Q2K => of!(k_quants::BlockQ2K),
            GgmlDType::Q3K => of!(k_quants::BlockQ3K),
            GgmlDType::Q4K => of!(k_quants::BlockQ4K),
            GgmlDType::Q5K => of!(k_quants::BlockQ5K),
            GgmlDType::Q6K => of!(k_quants::BlockQ6K),
            // ggml uses these two for activations only.
            GgmlDType::Q8_1 | GgmlDType::Q8K => $other,
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => $other,
        }
    }};
}

/// All formats start their blocks with, or consist of, 16-bit numbers or bytes.
pub(crate) const ALIGNMENT: usize = align_of::<f16>();

/// `true` for a format of blocks that share scales, `false` for one of plain numbers.
#[must_use]
pub fn is_quantized(dtype: GgmlDType) -> bool {
    !matches!(dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16)
}

/// `true` if weights can be in this format.
#[must_use]
pub fn holds_weights(dtype: GgmlDType) -> bool {
    !matches!(dtype, GgmlDType::Q8_1 | GgmlDType::Q8K)
}

/// Bytes of `count` numbers; `None` if they are no whole number of blocks.
#[must_use]
pub fn stored_bytes(dtype: GgmlDType, count: usize) -> Option<usize> {
    let block = dtype.block_size();
    if !count.is_multiple_of(block) {
        return None;
    }
    (count / block).checked_mul(dtype.type_size())
}

/// Bytes as values of a type without invalid bit patterns.
///
/// # Safety
/// Every bit pattern must be a `T`.
unsafe fn cast<T>(bytes: &[u8]) -> &[T] {
    // SAFETY: promised by the caller.
    let (before, values, after) = unsafe { bytes.align_to::<T>() };
    assert!(before.is_empty() && after.is_empty(), "stored numbers that are not aligned");
    values
}

/// As [`cast`], to be written to.
///
/// # Safety
/// Every bit pattern must be a `T`, and every `T` without padding.
unsafe fn cast_mut<T>(bytes: &mut [u8]) -> &mut [T] {
    // SAFETY: promised by the caller.
    let (before, values, after) = unsafe { bytes.align_to_mut::<T>() };
    assert!(before.is_empty() && after.is_empty(), "stored numbers that are not aligned");
    values
}

/// Stored numbers → f32. `bytes` holds exactly `values.len()` of them, at an address that is a
/// multiple of [`ALIGNMENT`].
pub(crate) fn unpack(dtype: GgmlDType, bytes: &[u8], values: &mut [f32]) {
    assert_eq!(stored_bytes(dtype, values.len()), Some(bytes.len()), "unpack: lengths");
    match dtype {
        GgmlDType::F16 => {
            // SAFETY: every bit pattern is a number.
            unsafe { cast::<f16>(bytes) }.convert_to_f32_slice(values);
        }
        GgmlDType::BF16 => {
            // SAFETY: every bit pattern is a number.
            unsafe { cast::<bf16>(bytes) }.convert_to_f32_slice(values);
        }
        GgmlDType::F32 => {
            for (value, stored) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*stored);
            }
        }
        quantized => with_block!(
            quantized,
            Block => {
                // SAFETY: blocks are `repr(C)` structures of `u8`, `i8` and `f16` without padding
                // (candle asserts their sizes), and so without invalid bit patterns.
                let blocks = unsafe { cast::<Block>(bytes) };
                Block::to_float(blocks, values);
            },
            else unreachable!("{quantized:?} holds no weights")
        ),
    }
}

/// f32 → stored numbers, on all threads; the result is the same on any number of them, since every
/// block is computed from its own numbers alone.
pub(crate) fn pack(dtype: GgmlDType, values: &[f32]) -> Vec<u8> {
    let length = stored_bytes(dtype, values.len()).expect("whole blocks");
    let mut bytes = vec![0u8; length];
    // Whole blocks of every format.
    const STEP: usize = 1 << 14;
    let step_bytes = stored_bytes(dtype, STEP).expect("whole blocks");
    bytes.par_chunks_mut(step_bytes).zip(values.par_chunks(STEP)).for_each(|(bytes, values)| {
        // A `Vec<u8>` of this size is aligned for a pointer by every allocator, and the casts check it.
        match dtype {
            GgmlDType::F16 => {
                // SAFETY: every bit pattern is a number.
                unsafe { cast_mut::<f16>(bytes) }.convert_from_f32_slice(values);
            }
            GgmlDType::BF16 => {
                // SAFETY: every bit pattern is a number.
                unsafe { cast_mut::<bf16>(bytes) }.convert_from_f32_slice(values);
            }
            GgmlDType::F32 => {
                for (stored, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *stored = value.to_le_bytes();
                }
            }
            quantized => with_block!(
                quantized,
                Block => {
                    // SAFETY: blocks have no invalid bit patterns and no padding, as in `unpack`.
                    let blocks = unsafe { cast_mut::<Block>(bytes) };
                    Block::from_float(values, blocks);
                },
                else unreachable!("{quantized:?} holds no weights")
            ),
        }
    });
    bytes
}

/// Stored numbers → f32, on all threads.
///
/// # Panics
/// Bytes that are no whole number of blocks of a format of weights.
#[must_use]
pub fn unpack_rows(dtype: GgmlDType, bytes: &[u8]) -> Vec<f32> {
    let blocks = bytes.len() / dtype.type_size();
    let mut values = vec![0f32; blocks * dtype.block_size()];
    const STEP: usize = 1 << 14;
    let step_bytes = stored_bytes(dtype, STEP).expect("whole blocks");
    let unpack_all = |bytes: &[u8], values: &mut [f32]| {
        values
            .par_chunks_mut(STEP)
            .zip(bytes.par_chunks(step_bytes))
            .for_each(|(values, bytes)| unpack(dtype, bytes, values));
    };
    if bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
        unpack_all(bytes, &mut values);
    } else {
        let aligned: Vec<u8> = bytes.into();
        unpack_all(&aligned, &mut values);
    }
    values
}
