//! Attention on NVIDIA GPUs.

use candle_core::{DType, Result};

use super::{
    AttentionSizes, Mask,
    launch::{self, AllStrides, AttentionLaunch, KernelSizes, Seen, Shape, Strides},
};
use crate::backend::{
    Activation,
    cuda::{Arg, element, is_aligned, ready, run},
    gpu::{KernelValue, room},
};

// SAFETY: `repr(C)`, as `AttentionSizes` of `kernels/attention.cuh`, without gaps.
unsafe impl KernelValue for KernelSizes {}

/// Values of a chunk of 16 bytes, of which rows and samples are whole numbers.
const CHUNK: usize = 8;

/// `[B, N, C]` as the kernels read it: its values, and the distances between samples and rows. Views are read in
/// place where they lie as the kernels load them.
fn laid(x: &Activation) -> Result<(Activation, Strides)> {
    let (batch, rows, width) = x.dims3()?;
    let x = match x.layout().stride() {
        [sample, row, 1]
            if is_aligned(x) && row.is_multiple_of(CHUNK) && sample.is_multiple_of(CHUNK) =>
        {
            x.clone()
        }
        _ => ready(x)?,
    };
    // Of a single one the distance to the next may be any.
    let (sample, row) = match x.layout().stride() {
        &[sample, row, _] => (sample, row),
        _ => (rows * width, width),
    };
    let row = if rows == 1 { width } else { row };
    let sample = if batch == 1 { rows * row } else { sample };
    Ok((x, Strides { sample, row }))
}

/// `None` if no kernel serves heads of this width, or so many of them.
pub(super) fn attention(
    [q, k, v]: [&Activation; 3],
    sizes: AttentionSizes,
    mask: Mask,
) -> Result<Option<Activation>> {
    let AttentionSizes { batch, queries, keys, heads, key_heads, width } = sizes;
    if !launch::supported(width) {
        return Ok(None);
    }
    let seen = match mask {
        Mask::None => Seen::All,
        Mask::Causal => Seen::UpToOwn { past: 0, window: None },
        Mask::Cached { past, window } => Seen::UpToOwn { past, window },
    };
    let shape = Shape { batch, queries, keys, heads, key_heads, width, seen };
    let ((q, of_q), (k, of_k), (v, of_v)) = (laid(q)?, laid(k)?, laid(v)?);
    let of_out = Strides { sample: queries * heads * width, row: heads * width };
    let strides = AllStrides { q: of_q, k: of_k, v: of_v, out: of_out };
    let Some(launch) = AttentionLaunch::new(element(&q)?, shape, strides) else {
        return Ok(None);
    };
    let out = room(&q, (batch, queries, heads * width), q.dtype())?;
    let [q, k, v] = [&q, &k, &v].map(Arg::from);
    match &launch {
        AttentionLaunch::Whole { attend, sizes } => {
            // SAFETY: shapes and strides are those of the tensors.
            unsafe { run(attend, &[q, k, v, (&out).into(), Arg::Value(sizes)])? };
        }
        AttentionLaunch::Split { attend, combine, workspace, sizes } => {
            let parts = match combine {
                Some(_) => Some(room(&out, workspace / size_of::<f32>(), DType::F32)?),
                None => None,
            };
            let parts = parts.as_ref();
            let args = [q, k, v, (&out).into(), parts.into(), Arg::Value(sizes)];
            // SAFETY: as above, and the workspace is as large as the launch says.
            unsafe { run(attend, &args)? };
            if let Some(combine) = combine {
                // SAFETY: the kernel before has filled the workspace.
                unsafe { run(combine, &[parts.into(), (&out).into(), Arg::Value(sizes)])? };
            }
        }
    }
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Placement, Trace};

    fn sizes(queries: usize, keys: usize, width: usize) -> AttentionSizes {
        AttentionSizes { batch: 2, queries, keys, heads: 4, key_heads: 4, width }
    }

    #[test]
    fn a_trace_counts_the_workspace_of_split_keys() {
        let trace = Trace::new(Placement::Cuda);
        let q = trace.activation((2, 3, 4 * 64), DType::BF16);
        let k = trace.activation((2, 1000, 4 * 64), DType::BF16);
        let before = trace.live();
        let y = attention([&q, &k, &k], sizes(3, 1000, 64), Mask::None).unwrap().unwrap();
        // 7 parts of 128 keys and what is left: of each query and head the values, a largest score and a sum.
        let workspace = 2 * 4 * 3 * 8 * (64 + 2) * 4;
        assert_eq!(trace.peak() - before, y.bytes() + workspace);
    }

    #[test]
    fn views_are_read_in_place_where_their_rows_are_whole_chunks() {
        let trace = Trace::new(Placement::Cuda);
        let taken = |all: &Activation, width: usize| {
            let [q, k, v] = [0, 1, 2].map(|part| all.narrow(2, part * width, width).unwrap());
            let before = trace.live();
            let y = attention([&q, &k, &v], sizes(50, 50, width / 4), Mask::Causal).unwrap();
            trace.live() - before - y.unwrap().bytes()
        };
        let all = trace.activation((2, 50, 3 * 256), DType::F16);
        let before = trace.peak();
        assert_eq!(taken(&all, 256), 0);
        assert_eq!(trace.peak() - before, 2 * 50 * 256 * 2, "the output alone");
        // Tokens innermost: copies, which end with the call.
        let turned = trace.activation((2, 3 * 160, 50), DType::F16).transpose(1, 2).unwrap();
        let (live, output) = (trace.live(), 2 * 50 * 160 * 2);
        assert_eq!(taken(&turned, 160), 0);
        assert_eq!(trace.peak() - live, 4 * output);
    }

    #[test]
    fn no_kernel_is_for_other_widths() {
        let trace = Trace::new(Placement::Cuda);
        let x = trace.activation((2, 50, 4 * 48), DType::F16);
        assert!(attention([&x, &x, &x], sizes(50, 50, 48), Mask::None).unwrap().is_none());
    }
}
