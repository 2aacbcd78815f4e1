//! Launches of the attention kernels (`kernels/attention*.cu`).

use crate::backend::launch::{ElementType, Launch};

/// A kernel whose blocks have a tile of queries of one head each.
struct Tile {
    /// Width of a head.
    width: usize,
    /// Queries of a block.
    rows: usize,
    /// Threads of a block.
    block: u32,
    /// Bytes of dynamic shared memory of a block.
    shared: usize,
    /// For bf16 and f16.
    names: [&'static str; 2],
}

impl Tile {
    /// A kernel of `kernels/attention.cu`, with so many keys in a tile.
    const fn new(
        width: usize,
        rows: usize,
        block: u32,
        keys: usize,
        names: [&'static str; 2],
    ) -> Self {
        Self { width, rows, block, shared: stages(keys, width), names }
    }
}

/// As `ATTENTIONS` in `kernels/attention.cu`, and that of `kernels/attention_wide.cu` with its `SHARED`.
const TILES: [Tile; 7] = [
    Tile::new(40, 128, 128, 48, ["attention_40_bf16", "attention_40_f16"]),
    Tile::new(64, 128, 128, 64, ["attention_64_bf16", "attention_64_f16"]),
    Tile::new(72, 128, 128, 32, ["attention_72_bf16", "attention_72_f16"]),
    Tile::new(80, 128, 128, 32, ["attention_80_bf16", "attention_80_f16"]),
    Tile::new(128, 128, 256, 64, ["attention_128_bf16", "attention_128_f16"]),
    Tile::new(160, 64, 128, 32, ["attention_160_bf16", "attention_160_f16"]),
    Tile {
        width: 512,
        rows: 64,
        block: 256,
        shared: 98_560,
        names: ["attention_512_bf16", "attention_512_f16"],
    },
];
/// Widths with a kernel for few queries, and its names. As `ATTENTION_SPLITS` in
/// `kernels/attention_split.cu`.
const SPLITS: [(usize, [&str; 2]); 3] = [
    (64, ["attention_split_64_bf16", "attention_split_64_f16"]),
    (80, ["attention_split_80_bf16", "attention_split_80_f16"]),
    (128, ["attention_split_128_bf16", "attention_split_128_f16"]),
];
const COMBINE: [&str; 2] = ["attention_combine_bf16", "attention_combine_f16"];
/// Stages of keys and values in shared memory.
const STAGES: usize = 2;
/// Most queries of what is few.
const FEW_QUERIES: usize = 16;
/// Rows of a tile, keys of one, and threads, where queries are few.
const SPLIT_ROWS: usize = 16;
const SPLIT_KEYS: usize = 64;
const SPLIT_THREADS: u32 = 128;
/// Rows that a block of the combining kernel puts together.
const COMBINE_ROWS: usize = 4;
/// Blocks of one sample that keys are split for: twice the processors of a large GPU. A constant, because
/// results depend on how they are split.
const SPLIT_BLOCKS: usize = 264;
/// Least number of keys in a part, but for the last one.
const SPLIT_KEYS_MIN: usize = 128;
/// Most blocks along y and z.
const GRID_MAX: usize = 65_535;

/// The keys that a query sees; `Mask` of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All of them.
    All,
    /// Those up to its own position, `past` plus its index.
    UpToOwn {
        /// Position of the first query.
        past: usize,
        /// At most so many, the nearest.
        window: Option<usize>,
    },
}

/// `q` is `[batch, queries, heads · width]`, `k` and `v` are `[batch, keys, key_heads · width]`, the output is as `q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Samples.
    pub batch: usize,
    /// Queries of a sample.
    pub queries: usize,
    /// Keys of a sample, those behind the last visible one included.
    pub keys: usize,
    /// Heads of the queries, a multiple of `key_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub key_heads: usize,
    /// Width of a head.
    pub width: usize,
    /// The mask.
    pub seen: Seen,
}

/// Distances in a tensor whose heads lie side by side, in elements: multiples of 8. Its first element lies
/// on a multiple of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// From a sample to the next one.
    pub sample: usize,
    /// From a token to the next one.
    pub row: usize,
}

/// The strides of queries, keys, values and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllStrides {
    /// Queries.
    pub q: Strides,
    /// Keys.
    pub k: Strides,
    /// Values.
    pub v: Strides,
    /// Output.
    pub out: Strides,
}

/// What the kernels take by value: `AttentionSizes` of `kernels/attention.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelSizes {
    q: [u64; 2],
    k: [u64; 2],
    v: [u64; 2],
    out: [u64; 2],
    queries: u32,
    keys: u32,
    heads: u32,
    group: u32,
    past: u32,
    window: u32,
    splits: u32,
    split_keys: u32,
    width: u32,
    scale: f32,
}

/// The launches of one attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AttentionLaunch {
    /// `(q, k, v, out, sizes)`
    Whole {
        /// The only launch.
        attend: Launch,
        /// The last argument.
        sizes: KernelSizes,
    },
    /// `(q, k, v, out, workspace, sizes)`, then, if there are several parts, `(workspace, out, sizes)`.
    Split {
        /// Attention over each part of the keys.
        attend: Launch,
        /// Puts the parts together. Without it `workspace` may be null.
        combine: Option<Launch>,
        /// Bytes of the workspace, which begins on a multiple of 16 bytes. Nothing has to be in it before.
        workspace: usize,
        /// The last argument of both.
        sizes: KernelSizes,
    },
}

/// `true` if there is a kernel for heads of this width.
#[must_use]
pub fn supported(width: usize) -> bool {
    TILES.iter().any(|tile| tile.width == width)
}

impl AttentionLaunch {
    /// The launches for such an attention. `None` if no kernel serves it, because of its width, of strides that
    /// are no multiples of 8, or because it is empty or larger than the kernels can count.
    #[must_use]
    pub fn new(element: ElementType, shape: Shape, strides: AllStrides) -> Option<Self> {
        let index = match element {
            ElementType::Bf16 => 0,
            ElementType::F16 => 1,
            ElementType::F32 => return None,
        };
        let Shape { batch, queries, heads, width, .. } = shape;
        let sizes = KernelSizes::new(shape, strides)?;
        let is_few = queries <= FEW_QUERIES;
        if let Some((_, names)) = SPLITS.iter().find(|split| is_few && split.0 == width) {
            return Self::split(shape, sizes, names[index], COMBINE[index]);
        }
        let tile = TILES.iter().find(|tile| tile.width == width)?;
        let attend = Launch {
            kernel: tile.names[index],
            grid: grid(queries.div_ceil(tile.rows), heads, batch)?,
            block: tile.block,
            shared: tile.shared as u32,
        };
        Some(Self::Whole { attend, sizes })
    }

    /// Attention of few queries.
    fn split(
        shape: Shape,
        sizes: KernelSizes,
        attend: &'static str,
        combine: &'static str,
    ) -> Option<Self> {
        let Shape { batch, queries, heads, key_heads, width, .. } = shape;
        let row_tiles = (queries * (heads / key_heads)).div_ceil(SPLIT_ROWS);
        let (splits, split_keys) = parts(sizes.visible(), key_heads * row_tiles);
        let sizes = KernelSizes { splits: splits as u32, split_keys: split_keys as u32, ..sizes };
        let attend = Launch {
            kernel: attend,
            grid: grid(splits, key_heads * row_tiles, batch)?,
            block: SPLIT_THREADS,
            shared: stages(SPLIT_KEYS, width) as u32,
        };
        if splits == 1 {
            return Some(Self::Split { attend, combine: None, workspace: 0, sizes });
        }
        let combine = Launch {
            kernel: combine,
            grid: grid((heads * queries).div_ceil(COMBINE_ROWS), batch, 1)?,
            block: SPLIT_THREADS,
            shared: 0,
        };
        // Sums of values, the largest score and the sum of weights.
        let workspace = batch * heads * queries * splits * (width + 2) * size_of::<f32>();
        Some(Self::Split { attend, combine: Some(combine), workspace, sizes })
    }
}

/// Into how many parts so many keys are cut, and the keys of one, where without parts there would be so many
/// blocks for a sample.
fn parts(visible: usize, blocks: usize) -> (usize, usize) {
    let wanted = SPLIT_BLOCKS.div_ceil(blocks).min(visible / SPLIT_KEYS_MIN);
    if wanted <= 1 {
        return (1, visible);
    }
    // Whole tiles, rather a few parts more than fewer.
    let keys = visible.div_ceil(wanted) / SPLIT_KEYS * SPLIT_KEYS;
    (visible.div_ceil(keys), keys)
}

/// Bytes of all stages of keys and values: rows of an odd number of chunks of 16 bytes.
const fn stages(keys: usize, width: usize) -> usize {
    STAGES * 2 * keys * ((width / 8) | 1) * 16
}

fn grid(x: usize, y: usize, z: usize) -> Option<[u32; 3]> {
    (y <= GRID_MAX && z <= GRID_MAX).then_some([u32::try_from(x).ok()?, y as u32, z as u32])
}

impl KernelSizes {
    /// Without parts.
    fn new(shape: Shape, strides: AllStrides) -> Option<Self> {
        let Shape { batch, queries, keys, heads, key_heads, width, seen } = shape;
        let AllStrides { q, k, v, out } = strides;
        let all = [q, k, v, out];
        if batch == 0 || queries == 0 || key_heads == 0 || !heads.is_multiple_of(key_heads) {
            return None;
        }
        if all.iter().any(|x| !x.row.is_multiple_of(8) || !x.sample.is_multiple_of(8)) {
            return None;
        }
        let (past, window) = match seen {
            // Each query's own position is behind all keys.
            Seen::All => (keys, None),
            Seen::UpToOwn { past, window } => (past, window),
        };
        let window = window.map_or(past + queries, |window| window.min(past + queries));
        // Positions of the last tile's rows are computed as 32-bit integers.
        let counted = |count: usize| u32::try_from(count).ok().filter(|&count| count < 1 << 30);
        counted(past + queries)?;
        let of = |x: Strides| [x.sample as u64, x.row as u64];
        Some(Self {
            q: of(q),
            k: of(k),
            v: of(v),
            out: of(out),
            queries: counted(queries)?,
            keys: counted(keys)?,
            heads: counted(heads)?,
            group: counted(heads / key_heads)?,
            past: counted(past)?,
            window: counted(window)?,
            splits: 1,
            split_keys: 0,
            width: counted(width)?,
            scale: ((width as f64).powf(-0.5) * std::f64::consts::LOG2_E) as f32,
        })
    }

    /// Keys from the first that the first query sees to the last that the last one does.
    fn visible(&self) -> usize {
        let first = (self.past + 1).saturating_sub(self.window);
        (self.past + self.queries).min(self.keys).saturating_sub(first) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn shape(queries: usize, keys: usize, heads: (usize, usize), width: usize) -> Shape {
        Shape {
            batch: 1,
            queries,
            keys,
            heads: heads.0,
            key_heads: heads.1,
            width,
            seen: Seen::All,
        }
    }

    fn plan(shape: Shape) -> AttentionLaunch {
        let of = |tokens, heads| Strides {
            sample: tokens * heads * shape.width,
            row: heads * shape.width,
        };
        let q = of(shape.queries, shape.heads);
        let k = of(shape.keys, shape.key_heads);
        AttentionLaunch::new(ElementType::Bf16, shape, AllStrides { q, k, v: k, out: q }).unwrap()
    }

    #[test]
    fn every_block_fits_into_the_shared_memory_of_every_device() {
        for width in [40, 64, 72, 80, 128, 160, 512] {
            assert!(supported(width));
            for queries in [1, 100] {
                let (AttentionLaunch::Whole { attend, .. } | AttentionLaunch::Split { attend, .. }) =
                    plan(shape(queries, 300, (2, 1), width));
                assert!(attend.shared <= 99 << 10, "{attend:?}");
            }
        }
        assert!(!supported(96));
    }

    #[test]
    fn parts_cover_the_keys_and_are_not_many_where_heads_are() {
        for visible in [1, 63, 64, 127, 128, 255, 256, 2880, 40_000] {
            for blocks in [1, 8, 32, 300] {
                let (parts, keys) = parts(visible, blocks);
                assert!((parts - 1) * keys < visible && parts * keys >= visible);
                assert!(parts == 1 || keys >= SPLIT_KEYS_MIN);
                assert!(parts == 1 || parts * blocks < 2 * SPLIT_BLOCKS);
            }
        }
        // A token of Mistral: 32 heads share 8 of keys.
        assert_eq!(parts(2880, 8), (23, 128));
    }

    #[test]
    fn the_batch_does_not_change_the_parts() {
        let of = |batch| match plan(Shape { batch, ..shape(1, 2880, (32, 8), 128) }) {
            AttentionLaunch::Split { attend, sizes, workspace, .. } => {
                (attend.grid[0], attend.grid[1], sizes, workspace / batch)
            }
            AttentionLaunch::Whole { .. } => panic!("one query is few"),
        };
        assert_eq!(of(1), of(7));
    }

    #[test]
    fn what_no_kernel_serves_has_no_launch() {
        let good = shape(64, 64, (8, 8), 40);
        let of = |shape: Shape, row: usize, element| {
            let x = Strides { sample: row * 64, row };
            AttentionLaunch::new(element, shape, AllStrides { q: x, k: x, v: x, out: x }).is_some()
        };
        assert!(of(good, 320, ElementType::F16));
        assert!(!of(good, 320, ElementType::F32));
        assert!(!of(good, 324, ElementType::F16));
        assert!(!of(Shape { width: 48, ..good }, 384, ElementType::F16));
        assert!(!of(Shape { queries: 0, ..good }, 320, ElementType::F16));
        assert!(!of(Shape { batch: 70_000, ..good }, 320, ElementType::F16));
    }
}
