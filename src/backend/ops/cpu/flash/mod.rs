//! Attention without a matrix of scores (FlashAttention, Dao et al. 2022): a block of queries meets
//! a block of keys at a time, with a running maximum and sum for each query. Keys and values of a
//! sample are laid out once, in the panels that the products read, for all blocks of queries.
//!
//! How large the blocks are and in which order they come follows from the shape of one sample.

#[cfg(target_arch = "x86_64")]
mod avx512;

use std::{mem::MaybeUninit, ops::Range, ptr};

use rayon::prelude::*;

use super::with_scratch;
use crate::backend::ops::Mask;

/// Queries that are multiplied with a panel at once, and those of a block.
const GROUP: usize = 12;
const QUERIES: usize = 8 * GROUP;
/// Numbers in a vector, and keys (or columns of the values) in a panel.
const LANES: usize = 16;
const PANEL: usize = 2 * LANES;
/// Most keys in a block, and how far apart the rows of its scores are: not a power of two, so that
/// they do not compete for the same places in the cache.
const KEYS: usize = 256;
const STRIDE: usize = KEYS + LANES;
/// What the keys of a block should take at most, in numbers (64 KiB).
const BLOCK: usize = 1 << 14;
/// With fewer queries than this, laying out keys and values would take longer than the rest.
const QUERIES_MIN: usize = 8;

/// The functions of one kind of processor and precision. A *unit* is as many neighbouring numbers as
/// an instruction multiplies and adds at a time, kept in 32 bits. All are unsafe: the processor must
/// have the instructions, and the pointers must hold what each says.
struct Tier {
    /// numbers in a unit
    pair: usize,
    /// Sets `GROUP` rows of scores from queries, laid out `[units][GROUP]`, and a panel of keys of
    /// one vector or of two.
    scores: [Tile; 2],
    /// Adds the products of `GROUP` rows of weights, `STRIDE` apart, and a panel of values.
    mix: [Tile; 2],
    /// Lays out rows as columns.
    lay_columns: LayColumns,
    /// Lays out rows of values.
    lay_values: LayValues,
    /// Scores of one query become weights.
    weigh: Weigh,
}

/// `(a, b, units, c, stride)`: `c`, `GROUP` rows `stride` apart, from `a` and a panel `b`,
/// `[units][PANEL]`.
type Tile = unsafe fn(*const f32, *const f32, usize, *mut f32, usize);

/// `(rows, count, width, stride, scale, target, lanes, target_stride)`: `count` rows of `width`
/// numbers, `stride` apart, times `scale`, so that unit `u` of row `r` lies at
/// `target[u·target_stride + r]`; zeros in the rows from `count` to `lanes`, which is at most `LANES`.
type LayColumns = unsafe fn(*const f32, usize, usize, usize, f32, *mut f32, usize, usize);

/// `(row, next, width, target, target_stride)`: `width` numbers of a row, each with its neighbour
/// in the next row if a unit is two (null for zeros), as pieces of `PANEL`, `target_stride` apart.
type LayValues = unsafe fn(*const f32, *const f32, usize, *mut f32, usize);

/// `(scores, seen, count, state, mixed, width)`: of `count` scores those from `seen.0` to `seen.1`
/// become `2^(score − largest)`, in the tier's units, the others 0. The running maximum and sums in
/// `state`, and `width` numbers `mixed` so far, follow the maximum.
type Weigh = unsafe fn(*mut f32, (usize, usize), usize, &mut State, *mut f32, usize);

/// What is known of a query's scores so far.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct State {
    /// of the weights, in parts
    sums: [f32; LANES],
    largest: f32,
}

/// The sizes of one sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub queries: usize,
    pub keys: usize,
    /// of the queries and of the output
    pub heads: usize,
    pub key_heads: usize,
    /// of one head
    pub width: usize,
}

/// The tier for this processor; none for so few queries that another way is shorter.
fn tier(sizes: Sizes) -> Option<&'static Tier> {
    if sizes.queries < QUERIES_MIN {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    return avx512::tier();
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// How the keys and values of one head are laid out.
#[derive(Clone, Copy)]
struct Panels {
    /// of a head
    width: usize,
    /// keys and values, up to the last that any query sees
    count: usize,
    pair: usize,
}

impl Panels {
    /// Units of a query or a key.
    fn units(self) -> usize {
        self.width.div_ceil(self.pair)
    }

    /// Units of a column of values.
    fn value_units(self) -> usize {
        self.count.div_ceil(self.pair)
    }

    fn keys_len(self) -> usize {
        self.count.next_multiple_of(PANEL) * self.units()
    }

    fn values_len(self) -> usize {
        self.width.next_multiple_of(PANEL) * self.value_units()
    }

    fn len(self) -> usize {
        self.keys_len() + self.values_len()
    }

    /// Keys of a block.
    fn block(self) -> usize {
        (BLOCK / self.width / PANEL * PANEL).clamp(2 * PANEL, KEYS)
    }

    /// How far apart the rows of what is mixed are.
    fn mixed_stride(self) -> usize {
        self.width.next_multiple_of(LANES)
    }

    fn scratch_len(self) -> usize {
        QUERIES * (self.units() + STRIDE + self.mixed_stride())
    }
}

/// What attention of these sizes takes in this form beside its output: numbers of a thread's scratch
/// buffer, and of the panels. `None` where it takes another form.
pub(super) fn memory(sizes: Sizes) -> Option<(usize, usize)> {
    let pair = tier(sizes)?.pair;
    let panels = Panels { width: sizes.width, count: sizes.keys, pair };
    Some((panels.scratch_len(), sizes.key_heads * panels.len()))
}

/// One sample: `q` `[N, heads·d]`, `k` and `v` `[M, key_heads·d]`, into `y` `[N, heads·d]`, all of
/// which is written. False, with nothing done, where there is no such form.
pub(super) fn attention(
    sizes: Sizes,
    [q, k, v]: [&[f32]; 3],
    mask: Mask,
    y: &mut [MaybeUninit<f32>],
) -> bool {
    let Some(tier) = tier(sizes) else {
        return false;
    };
    let Sizes { queries, keys, heads, key_heads, width } = sizes;
    let (query_stride, key_stride) = (heads * width, key_heads * width);
    assert!(q.len() == queries * query_stride && y.len() == q.len(), "queries");
    assert!(k.len() == keys * key_stride && v.len() == k.len(), "keys and values");
    let count = mask.seen(queries - 1, keys).end;
    let panels = Panels { width, count, pair: tier.pair };
    let mut laid: Vec<f32> = Vec::with_capacity(key_heads * panels.len());
    let laid = Pointer(laid.spare_capacity_mut().as_mut_ptr().cast::<f32>());
    let blocks = count.div_ceil(panels.block());
    // Blocks that no query sees are not laid out.
    let unseen = mask.seen(0, keys).start / panels.block();
    (0..key_heads * blocks).into_par_iter().filter(|task| task % blocks >= unseen).for_each(
        |task| {
            let (head, first) = (task / blocks, task % blocks * panels.block());
            let (k, v) = (&k[head * width..], &v[head * width..]);
            // SAFETY: room for as many panels as there are heads was just made; no two tasks have the
            // same head and keys.
            unsafe {
                tier.lay_out(panels, [k, v], key_stride, first, laid.at(head * panels.len()))
            };
        },
    );
    let y = Pointer(y.as_mut_ptr().cast::<f32>());
    let scale = (std::f64::consts::LOG2_E / (width as f64).sqrt()) as f32;
    let blocks = queries.div_ceil(QUERIES);
    (0..heads * blocks).into_par_iter().for_each(|task| {
        let (head, first) = (task / blocks, task % blocks * QUERIES);
        let start = first * query_stride + head * width;
        let block = Block {
            q: &q[start..],
            stride: query_stride,
            rows: QUERIES.min(queries - first),
            scale,
            seen: &|row| mask.seen(first + row, keys),
        };
        with_scratch(panels.scratch_len(), |scratch| {
            // SAFETY: every block that one of these queries sees has been laid out, and no two tasks
            // have the same head and queries, of which `y` holds `rows` rows from `start` on.
            unsafe {
                let laid = laid.at(head / (heads / key_heads) * panels.len());
                tier.attend(panels, &block, laid, scratch, y.at(start));
            }
        });
    });
    true
}

/// Memory that several threads fill, each its own places.
#[derive(Clone, Copy)]
struct Pointer(*mut f32);

// SAFETY: it only computes addresses; whoever uses one promises that no two threads meet there.
unsafe impl Send for Pointer {}
// SAFETY: as above.
unsafe impl Sync for Pointer {}

impl Pointer {
    /// # Safety
    /// `offset` must lie within the memory.
    unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// A block of queries of one head, whose first number is the first of `q`.
struct Block<'a> {
    q: &'a [f32],
    stride: usize,
    rows: usize,
    /// of the scores, times log₂e: weights are powers of two
    scale: f32,
    /// the keys that a row sees
    seen: &'a (dyn Fn(usize) -> Range<usize> + Sync),
}

impl Tier {
    /// Lays out the block of keys and values of one head that begins with key `first`; the first
    /// number of the head's first row is the first of each.
    ///
    /// # Safety
    /// `target` must have room for the head's panels, and nobody else may use this block's.
    unsafe fn lay_out(
        &self,
        panels: Panels,
        [keys, values]: [&[f32]; 2],
        stride: usize,
        first: usize,
        target: *mut f32,
    ) {
        let Panels { width, count, pair } = panels;
        let end = count.min(first + panels.block());
        let units = panels.units();
        for key in (first..end).step_by(LANES) {
            let rows = LANES.min(end - key);
            let source = &keys[key * stride..][..(rows - 1) * stride + width];
            // SAFETY: the source holds the rows; a panel begins every `PANEL` keys and takes `units`
            // times as much, its second half `LANES` further on.
            unsafe {
                let panel = target.add(key / PANEL * PANEL * units + key % PANEL);
                (self.lay_columns)(source.as_ptr(), rows, width, stride, 1.0, panel, LANES, PANEL);
            }
        }
        for unit in first / pair..end.div_ceil(pair) {
            let row = &values[unit * pair * stride..][..width];
            let next = if pair == 2 && unit * pair + 1 < count {
                values[(unit * pair + 1) * stride..][..width].as_ptr()
            } else {
                ptr::null()
            };
            // SAFETY: the rows hold `width` numbers; the target holds a column of `value_units` lines
            // for every `PANEL` of them.
            unsafe {
                let line = target.add(panels.keys_len() + unit * PANEL);
                (self.lay_values)(row.as_ptr(), next, width, line, panels.value_units() * PANEL);
            }
        }
    }

    /// Attention of a block of queries; `y` is its first row.
    ///
    /// # Safety
    /// `laid` must be what [`lay_out`](Self::lay_out) made of all keys that the queries see; `y` must
    /// have room for the rows, and nobody else may use them.
    unsafe fn attend(
        &self,
        panels: Panels,
        block: &Block,
        laid: *const f32,
        scratch: &mut [f32],
        y: *mut f32,
    ) {
        let Panels { width, pair, .. } = panels;
        let &Block { q, stride, rows, scale, seen } = block;
        let (units, mixed_stride) = (panels.units(), panels.mixed_stride());
        let (queries, rest) = scratch.split_at_mut(QUERIES * units);
        let (scores, mixed) = rest.split_at_mut(QUERIES * STRIDE);
        let groups = rows.div_ceil(GROUP);
        for group in 0..groups {
            let first = group * GROUP;
            let rows = GROUP.min(rows - first);
            let source = &q[first * stride..][..(rows - 1) * stride + width];
            let target = &mut queries[first * units..][..GROUP * units];
            // SAFETY: the source holds the rows, the target `GROUP` lanes of every unit.
            unsafe {
                let (from, to) = (source.as_ptr(), target.as_mut_ptr());
                (self.lay_columns)(from, rows, width, stride, scale, to, GROUP, GROUP);
            }
        }
        mixed[..groups * GROUP * mixed_stride].fill(0.0);
        let mut states = [State { sums: [0.0; LANES], largest: f32::NEG_INFINITY }; QUERIES];
        let (from, end) = (seen(0).start, seen(rows - 1).end);
        let size = panels.block();
        for first in (from / size * size..end).step_by(size) {
            let count = size.min(end - first);
            for key in (0..count).step_by(PANEL) {
                let tile = self.scores[usize::from(count - key > LANES)];
                for group in 0..groups {
                    // SAFETY: the panel was laid out, and what the last has beyond the keys was
                    // too or is not read; `STRIDE` has room for whole panels.
                    unsafe {
                        let a = queries.as_ptr().add(group * GROUP * units);
                        let b = laid.add((first + key) * units);
                        let c = scores.as_mut_ptr().add(group * GROUP * STRIDE + key);
                        tile(a, b, units, c, STRIDE);
                    }
                }
            }
            for (row, state) in states[..rows].iter_mut().enumerate() {
                let seen = seen(row);
                let within = |key: usize| key.clamp(first, first + count) - first;
                let seen = (within(seen.start), within(seen.end));
                let scores = &mut scores[row * STRIDE..][..STRIDE];
                let mixed = &mut mixed[row * mixed_stride..][..mixed_stride];
                // SAFETY: the rows hold a block's scores and a head's numbers in whole vectors.
                unsafe {
                    let mixed_start = mixed.as_mut_ptr();
                    (self.weigh)(scores.as_mut_ptr(), seen, count, state, mixed_start, mixed.len());
                }
            }
            for column in (0..width).step_by(PANEL) {
                let tile = self.mix[usize::from(width - column > LANES)];
                for group in 0..groups {
                    // SAFETY: the values' panel of this column was laid out for these keys; the rows
                    // of weights have whole units, the rows of what is mixed whole vectors.
                    unsafe {
                        let a = scores.as_ptr().add(group * GROUP * STRIDE);
                        let b = laid.add(
                            panels.keys_len()
                                + column * panels.value_units()
                                + first / pair * PANEL,
                        );
                        let c = mixed.as_mut_ptr().add(group * GROUP * mixed_stride + column);
                        tile(a, b, count.div_ceil(pair), c, mixed_stride);
                    }
                }
            }
        }
        for (row, state) in states[..rows].iter().enumerate() {
            let normalize = state.sums.iter().sum::<f32>().recip();
            for (column, value) in mixed[row * mixed_stride..][..width].iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { y.add(row * stride + column).write(value * normalize) };
            }
        }
    }
}
