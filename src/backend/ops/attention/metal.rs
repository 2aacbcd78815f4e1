//! Attention on Apple GPUs: by candle's kernels where they have the width and every query sees the same keys, else by
//! ours.

use std::ops::Range;

use candle_core::{DType, Result};

use super::{
    AttentionSizes, Mask,
    launch_metal::{self as launch, AttentionForm, AttentionMask, AttentionShape},
};
use crate::backend::{
    Activation,
    gpu::KernelValue,
    metal::{are_aligned, compute, element, has_matrices},
};

// SAFETY: `repr(C)`, as `AttentionSizes` of `kernels/attention.metal`: numbers of 32 bits.
unsafe impl KernelValue for launch::AttentionSizes {}

/// `None` if no kernel serves heads of this width.
pub(super) fn attention(
    inputs: [&Activation; 3],
    sizes: AttentionSizes,
    mask: Mask,
) -> Result<Option<Activation>> {
    let has_matrices = has_matrices(inputs[0]);
    if has_matrices && let Some(seen) = seen_by_all(sizes, mask, inputs[0].dtype()) {
        return by_candle(inputs, sizes, seen).map(Some);
    }
    // The plain kernel would take a GPU with matrices longer than products of candle's.
    let form = if has_matrices { AttentionForm::Matrices } else { AttentionForm::Plain };
    own(inputs, sizes, mask, form)
}

/// The keys that candle's kernels attend to, if they have one that fits. Masks are none of them: its causal form reads
/// keys behind the last. For widths above 128 a threadgroup has no room for tiles of f32.
fn seen_by_all(sizes: AttentionSizes, mask: Mask, dtype: DType) -> Option<Range<usize>> {
    let AttentionSizes { queries, keys, width, .. } = sizes;
    match (width, queries) {
        (32 | 64 | 96 | 128, _) | (72 | 80, 2..) | (256, 1) => {}
        (256 | 512, 2..) if dtype == DType::F16 => {}
        _ => return None,
    }
    match mask {
        Mask::None => Some(0..keys),
        mask => (queries == 1).then(|| mask.seen(0, keys)),
    }
}

/// Keys from which on candle's kernel for one query takes them in parts, and how many parts those are.
const PARTS_FROM: usize = 1024;
const PARTS: usize = 32;

/// Attention to the keys `seen`, all of them by every query.
fn by_candle(
    [q, k, v]: [&Activation; 3],
    sizes: AttentionSizes,
    seen: Range<usize>,
) -> Result<Activation> {
    let AttentionSizes { batch, queries, keys, heads, key_heads, width } = sizes;
    let split = |x: &Activation, tokens: usize, heads: usize| {
        x.reshape((batch, tokens, heads, width))?.transpose(1, 2)
    };
    let q = split(q, queries, heads)?;
    let [k, v] = [k, v].map(|x| {
        let heads = split(x, keys, key_heads)?.narrow(2, seen.start, seen.len())?;
        // The kernel for one query takes keys that lie one after the other.
        if queries == 1 { heads.contiguous() } else { Ok(heads) }
    });
    let (k, v) = (k?, v?);
    let scale = (width as f32).sqrt().recip();
    let y = q.apply((batch, heads, queries, width), |q| {
        candle_nn::ops::sdpa(q, k.tensor()?, v.tensor()?, None, false, scale, 1.0)
    })?;
    if let Some(trace) = q.trace()
        && queries == 1
        && seen.len() >= PARTS_FROM
    {
        // Sums of each part, and its largest score and sum of weights.
        trace.pass(batch * heads * PARTS * (width + 2) * size_of::<f32>());
    }
    drop((q, k, v));
    y.transpose(1, 2)?.contiguous()?.reshape((batch, queries, heads * width))
}

fn own(
    [q, k, v]: [&Activation; 3],
    sizes: AttentionSizes,
    mask: Mask,
    form: AttentionForm,
) -> Result<Option<Activation>> {
    let AttentionSizes { batch, queries, keys, heads, key_heads, width } = sizes;
    let mask = match mask {
        Mask::None => AttentionMask::None,
        Mask::Causal => AttentionMask::UpToOwn { past: 0, window: None },
        Mask::Cached { past, window } => {
            // A wider one than there are keys hides nothing.
            let window = window.filter(|&window| window < keys).map(|window| window as u32);
            AttentionMask::UpToOwn { past: past as u32, window }
        }
    };
    let shape = AttentionShape {
        batch: batch as u32,
        queries: queries as u32,
        keys: keys as u32,
        heads: heads as u32,
        key_heads: key_heads as u32,
        width: width as u32,
        mask,
    };
    let aligned = are_aligned(&[q, k, v]);
    let Some((launch, sizes)) = launch::attention(element(q)?, form, &shape, aligned) else {
        return Ok(None);
    };
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let output = ((batch, queries, heads * width), q.dtype());
    // SAFETY: the shape is that of the tensors.
    unsafe { compute(&launch, &q, &[&k, &v], output, &sizes) }.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Placement, Trace};

    fn sizes(queries: usize, keys: usize, width: usize) -> AttentionSizes {
        AttentionSizes { batch: 2, queries, keys, heads: 4, key_heads: 2, width }
    }

    /// The most that a trace counts beside inputs, in multiples of the output's buffer; `None` if it is composed.
    fn taken(sizes: AttentionSizes, mask: Mask, dtype: DType) -> Option<f64> {
        let AttentionSizes { queries, keys, width, .. } = sizes;
        let trace = Trace::new(Placement::Metal);
        let q = trace.activation((2, queries, 4 * width), dtype);
        let k = trace.activation((2, keys, 2 * width), dtype);
        let before = trace.live();
        let y = attention([&q, &k, &k], sizes, mask).unwrap()?;
        assert_eq!((y.dims(), y.dtype()), (q.dims(), dtype));
        let output = Placement::Metal.buffer(y.bytes());
        assert_eq!(trace.live() - before, output, "an output counts, and nothing else is left");
        Some((trace.peak() - before) as f64 / output as f64)
    }

    #[test]
    fn candle_serves_its_widths_without_a_mask_and_ours_are_for_the_rest() {
        let of = |width, mask, dtype| taken(sizes(60, 60, width), mask, dtype);
        let window = Mask::Cached { past: 0, window: Some(7) };
        for width in [64, 72, 80, 128] {
            // Heads side by side, and the same in the order of tokens.
            assert_eq!(of(width, Mask::None, DType::F16), Some(2.0));
            for mask in [Mask::Causal, window] {
                assert_eq!(of(width, mask, DType::F16), Some(1.0));
            }
        }
        for width in [40, 160] {
            assert_eq!(of(width, Mask::None, DType::F32), Some(1.0));
        }
        assert_eq!(of(512, Mask::None, DType::F16), Some(2.0));
        for (width, mask) in [(512, Mask::None), (256, Mask::None), (96, Mask::Causal)] {
            assert_eq!(of(width, mask, DType::F32), None, "{width}");
        }
        assert_eq!(of(48, Mask::None, DType::F16), None);
    }

    #[test]
    fn a_query_alone_sees_keys_that_lie_together() {
        let mask = Mask::Cached { past: 1499, window: None };
        // Bytes of a sample: keys and values by heads, the output, and in f32 sums of each of 32 parts.
        let (keys, output, parts) = (1500 * 2 * 128 * 2, 4 * 128 * 2, 32 * 4 * (128 + 2) * 4);
        let [keys, output, parts] =
            [keys, output, parts].map(|bytes| Placement::Metal.buffer(2 * bytes));
        let expected = (2 * keys + output + parts) as f64 / output as f64;
        assert_eq!(taken(sizes(1, 1600, 128), mask, DType::F16), Some(expected));
        assert_eq!(seen_by_all(sizes(1, 1600, 128), mask, DType::F16), Some(0..1500));
        let window = Mask::Cached { past: 1499, window: Some(100) };
        assert_eq!(seen_by_all(sizes(1, 1600, 128), window, DType::F16), Some(1400..1500));
        assert_eq!(taken(sizes(1, 1600, 80), mask, DType::F16), Some(1.0));
    }
}
