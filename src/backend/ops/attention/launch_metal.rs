//! Launches of the Metal kernels of attention (`kernels/attention.metal`).

use crate::backend::{
    launch::Launch,
    launch_metal::{MetalElement, has_runs},
};

/// Widths of a head with a kernel, the queries of its threadgroups, and its names.
const TILES: [(u32, u32, [&str; 2]); 6] = [
    (40, 64, ["attention_40_f16", "attention_40_f32"]),
    (64, 64, ["attention_64_f16", "attention_64_f32"]),
    (72, 32, ["attention_72_f16", "attention_72_f32"]),
    (80, 32, ["attention_80_f16", "attention_80_f32"]),
    (128, 32, ["attention_128_f16", "attention_128_f32"]),
    (160, 32, ["attention_160_f16", "attention_160_f32"]),
];
const TILE_THREADS: u32 = 128;
const PLAIN_THREADS: u32 = 64;
/// Widest head of the plain kernel.
const PLAIN_WIDTH: u32 = 512;

/// What the kernels take by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSizes {
    /// Queries of a sample.
    pub queries: u32,
    /// Keys of a sample.
    pub keys: u32,
    /// Heads of the queries.
    pub heads: u32,
    /// Heads of keys and values.
    pub key_heads: u32,
    /// Width of a head.
    pub width: u32,
    /// 1 if a query sees keys up to its own position only.
    pub masked: u32,
    /// Position of the first query.
    pub past: u32,
    /// Keys that a query sees at most.
    pub window: u32,
    /// log₂e/√width.
    pub scale: f32,
    /// 1 if all buffers begin at whole runs.
    pub aligned: u32,
}

/// The keys that a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// All.
    None,
    /// Those up to its own position, which is `past` more than its index.
    UpToOwn {
        /// Position of the first query.
        past: u32,
        /// Sliding window: at most so many keys, the nearest; at least 1.
        window: Option<u32>,
    },
}

/// Attention of `q` `[batch, queries, heads·width]` to `k` and `v` `[batch, keys, key_heads·width]`; nothing of it is
/// 0, and key heads divide heads.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Samples.
    pub batch: u32,
    /// Queries of a sample.
    pub queries: u32,
    /// Keys of a sample.
    pub keys: u32,
    /// Heads of the queries.
    pub heads: u32,
    /// Heads of keys and values.
    pub key_heads: u32,
    /// Width of a head.
    pub width: u32,
    /// The keys that a query sees.
    pub mask: AttentionMask,
}

/// How attention is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionForm {
    /// With matrices of SIMD groups, for GPUs of Apple's family 7 on: widths 40, 64, 72, 80, 128 and 160.
    Matrices,
    /// Without SIMD groups: widths up to 512.
    Plain,
}

/// The launch of `attention(q, k, v, y, sizes)`, buffers 0 to 4, or `None` where the form has no kernel for the width.
/// `aligned` says that all buffers begin at whole runs of four values; bytes of the result do not depend on it.
#[must_use]
pub fn attention(
    element: MetalElement,
    form: AttentionForm,
    shape: &AttentionShape,
    aligned: bool,
) -> Option<(Launch, AttentionSizes)> {
    let &AttentionShape { batch, queries, keys, heads, key_heads, width, mask } = shape;
    let launch = match form {
        AttentionForm::Matrices => {
            let (_, tile, names) = TILES.into_iter().find(|(of_tile, ..)| *of_tile == width)?;
            let grid = [queries.div_ceil(tile), heads, batch];
            Launch { kernel: element.kernel(names), grid, block: TILE_THREADS, shared: 0 }
        }
        AttentionForm::Plain if width <= PLAIN_WIDTH => Launch {
            kernel: element.kernel(["attention_plain_f16", "attention_plain_f32"]),
            grid: [queries, heads, batch],
            block: PLAIN_THREADS,
            shared: 0,
        },
        AttentionForm::Plain => return None,
    };
    let (masked, past, window) = match mask {
        AttentionMask::None => (0, 0, u32::MAX),
        AttentionMask::UpToOwn { past, window } => (1, past, window.unwrap_or(u32::MAX)),
    };
    let scale = (std::f64::consts::LOG2_E / f64::from(width).sqrt()) as f32;
    let aligned = has_runs(aligned, width).into();
    let sizes = AttentionSizes {
        queries,
        keys,
        heads,
        key_heads,
        width,
        masked,
        past,
        window,
        scale,
        aligned,
    };
    Some((launch, sizes))
}
