//! Attention without a matrix of scores (FlashAttention, Dao et al. 2022): a block of queries meets
//! a block of keys at a time, with a running maximum and sum for each query. Keys and values of a
//! sample are brought into panels once, for all blocks of queries and in the precision of the
//! products; scores, softmax and sums are f32.
//!
//! The sizes and the order of the blocks follow from the shape of one sample.

use std::{mem::MaybeUninit, ops::Range, ptr::null};

use half::bf16;
use rayon::prelude::*;

use super::{
    super::{AttentionSizes, Mask},
    softmax::{Softmax, weigh},
};
use crate::backend::{
    MatmulPrecision,
    cpu::{
        element::{Element, Line, Number as _, with_lines},
        kernel::{DEPTH, Kernel, PANEL, Place, ROW},
        transpose::transpose,
    },
};

/// Queries of a block: whole calls of every micro-kernel.
const QUERIES: usize = 96;
/// Bound for the panels of samples that are computed together (16 MiB), in lines.
const LAID_LINES: usize = 1 << 18;
/// Most keys of a block, whose scores are a row, and what its keys should take at most (64 KiB).
const KEYS: usize = DEPTH;
const BLOCK: usize = 1 << 14;
const ROW_LINES: usize = ROW / Line::WORDS;

/// Layout of the keys and values of one head: keys in panels of [`PANEL`] keys, values in panels of
/// as many columns.
#[derive(Clone, Copy)]
struct HeadPanels {
    kernel: &'static Kernel,
    /// width of a head
    width: usize,
    /// keys and values, up to the last that any query sees
    count: usize,
}

impl HeadPanels {
    /// Factor of the scores.
    fn scale(self) -> f32 {
        (self.width as f64).powf(-0.5) as f32
    }

    /// Words of a query or a key.
    fn words(self) -> usize {
        self.kernel.words(self.width)
    }

    /// Words of a column of values.
    fn value_words(self) -> usize {
        self.kernel.words(self.count)
    }

    /// Lines of the keys.
    fn keys(self) -> usize {
        self.count.div_ceil(PANEL) * self.words() * PANEL / Line::WORDS
    }

    /// Lines of keys and values.
    fn lines(self) -> usize {
        self.keys() + self.width.div_ceil(PANEL) * self.value_words() * PANEL / Line::WORDS
    }

    /// Keys of a block.
    fn block(self) -> usize {
        (BLOCK / self.width / PANEL * PANEL).clamp(2 * PANEL, KEYS)
    }

    /// Number of rows that the words of a query take.
    fn depths(self) -> usize {
        self.words().div_ceil(DEPTH)
    }

    /// Lines of a row of mixed values.
    fn mixed_lines(self) -> usize {
        self.width.div_ceil(Line::WORDS)
    }

    /// Lines that a block of queries needs: the queries, their scores, and the mixed values.
    fn scratch(self) -> usize {
        QUERIES * ((self.depths() + 1) * ROW_LINES + self.mixed_lines())
    }
}

/// The fastest kernel for sums of any length: those of a head are short, and a block of keys ends
/// where it ends.
pub(super) fn kernel(precision: MatmulPrecision) -> Option<&'static Kernel> {
    kernels().find(|kernel| kernel.precision == precision)
}

fn kernels() -> impl Iterator<Item = &'static Kernel> {
    Kernel::all().filter(|kernel| kernel.step == 1)
}

/// Scratch memory of attention of these sizes, in numbers of four bytes: that of a thread, and that of
/// the panels.
pub(super) fn memory(
    sizes: AttentionSizes,
    mask: Mask,
    precision: MatmulPrecision,
) -> (usize, usize) {
    kernel(precision).map_or((0, 0), |kernel| {
        let count = mask.seen(sizes.queries - 1, sizes.keys).end;
        let panels = HeadPanels { kernel, width: sizes.width, count };
        let sample = sizes.key_heads * panels.lines();
        let laid = together(sizes.batch, sample) * sample;
        let scratch = panels.scratch().max(PANEL * ROW_LINES);
        (scratch * Line::WORDS, laid * Line::WORDS)
    })
}

/// Number of samples that are computed together, if the panels of each take so many lines. No value
/// depends on it.
fn together(batch: usize, lines: usize) -> usize {
    (LAID_LINES / lines.max(1)).clamp(1, batch.max(1))
}

/// `q` `[B, N, heads·d]`, `k` and `v` `[B, M, key_heads·d]`, into `y` `[B, N, heads·d]`, all of which
/// is written. There is at least one query and one key. Where there is a `weight`, `[B, N, heads]`, it takes the logarithm of
/// each query's sum of exponentials.
pub(super) fn attention(
    kernel: &'static Kernel,
    sizes: AttentionSizes,
    [q, k, v]: [&[f32]; 3],
    mask: Mask,
    y: &mut [MaybeUninit<f32>],
    weight: Option<&mut [MaybeUninit<f32>]>,
) {
    let AttentionSizes { batch, queries, keys, heads, key_heads, width } = sizes;
    let (stride, key_stride) = (heads * width, key_heads * width);
    assert!(q.len() == batch * queries * stride && y.len() == q.len(), "queries");
    assert!(k.len() == batch * keys * key_stride && v.len() == k.len(), "keys and values");
    if let Some(weight) = &weight {
        assert!(weight.len() == batch * queries * heads, "logarithms of sums");
    }
    let panels = HeadPanels { kernel, width, count: mask.seen(queries - 1, keys).end };
    let together = together(batch, key_heads * panels.lines());
    let mut laid: Vec<Line> = Vec::with_capacity(together * key_heads * panels.lines());
    let laid = Pointer(laid.spare_capacity_mut().as_mut_ptr().cast::<Line>());
    let y = Pointer(y.as_mut_ptr().cast::<f32>());
    let weight = weight.map(|weight| Pointer(weight.as_mut_ptr().cast::<f32>()));
    let key_blocks = panels.count.div_ceil(panels.block());
    // Blocks that no query sees are not laid out.
    let unseen = mask.seen(0, keys).start / panels.block();
    let blocks = queries.div_ceil(QUERIES);
    for sample in (0..batch).step_by(together) {
        let samples = together.min(batch - sample);
        let tasks = (0..samples * key_heads * key_blocks).into_par_iter();
        tasks.filter(|task| task % key_blocks >= unseen).for_each(|task| {
            let (index, first) = (task / key_blocks, task % key_blocks * panels.block());
            let start =
                (sample + index / key_heads) * keys * key_stride + index % key_heads * width;
            // SAFETY: there is room for the panels of as many heads of as many samples; no two tasks
            // have the same ones and keys.
            unsafe {
                let target = laid.at(index * panels.lines());
                let rows = [&k[start..], &v[start..]];
                match kernel.precision {
                    MatmulPrecision::F32 => lay_out::<f32>(panels, rows, key_stride, first, target),
                    MatmulPrecision::Bf16 => {
                        lay_out::<bf16>(panels, rows, key_stride, first, target)
                    }
                }
            }
        });
        (0..samples * heads * blocks).into_par_iter().for_each(|task| {
            let (index, first) = (task / blocks, task % blocks * QUERIES);
            let (offset, head) = (index / heads, index % heads);
            let start = ((sample + offset) * queries + first) * stride + head * width;
            let block = QueryBlock {
                q: &q[start..],
                stride,
                rows: QUERIES.min(queries - first),
                seen: &|row| mask.seen(first + row, keys),
            };
            with_lines(panels.scratch(), |scratch| {
                // SAFETY: every block that one of these queries sees has been laid out, and no two
                // tasks have the same sample, head and queries, of which `y` holds `rows` rows from
                // `start` on, and `weight` as many numbers.
                unsafe {
                    let key_head = offset * key_heads + head / (heads / key_heads);
                    let laid = laid.at(key_head * panels.lines());
                    let states = match kernel.precision {
                        MatmulPrecision::F32 => {
                            attend::<f32>(panels, &block, laid, scratch, y.at(start))
                        }
                        MatmulPrecision::Bf16 => {
                            attend::<bf16>(panels, &block, laid, scratch, y.at(start))
                        }
                    };
                    if let Some(weight) = &weight {
                        let place = ((sample + offset) * queries + first) * heads + head;
                        for (row, state) in states[..block.rows].iter().enumerate() {
                            weight.at(place + row * heads).write(state.logarithm(panels.scale()));
                        }
                    }
                }
            });
        });
    }
}

/// Memory that several threads fill, each in places of its own.
struct Pointer<T>(*mut T);

// SAFETY: it only computes addresses; whoever uses one promises that no two threads meet there.
unsafe impl<T> Sync for Pointer<T> {}

impl<T> Pointer<T> {
    /// # Safety
    /// `offset` must lie within the memory.
    unsafe fn at(&self, offset: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// A block of queries of one head, whose first number is the first of `q`.
struct QueryBlock<'a> {
    q: &'a [f32],
    stride: usize,
    rows: usize,
    /// the keys that a row sees
    seen: &'a (dyn Fn(usize) -> Range<usize> + Sync),
}

/// Lays out the block of keys and values of one head that begins with key `first`; the first number
/// of the head's first row is the first of each.
///
/// # Safety
/// `target` must have room for the head's panels, and nobody else may use this block's.
unsafe fn lay_out<E: Element>(
    panels: HeadPanels,
    [keys, values]: [&[f32]; 2],
    stride: usize,
    first: usize,
    target: *mut Line,
) {
    let HeadPanels { kernel, width, count } = panels;
    let end = count.min(first + panels.block());
    let words = panels.words();
    let lines = |start: usize, words: usize| {
        let count = words * PANEL / Line::WORDS;
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(target.add(start), count) }
    };
    with_lines(PANEL * ROW_LINES, |rows| {
        for key in (first..end).step_by(PANEL) {
            for from in (0..words).step_by(DEPTH) {
                let depth = DEPTH.min(words - from);
                for (index, line) in rows.chunks_exact_mut(ROW_LINES).enumerate() {
                    let row = if key + index < end {
                        &keys[(key + index) * stride..][..width]
                    } else {
                        &[]
                    };
                    copy_words::<E>(row, from, depth, line);
                }
                let panel = lines((key * words + from * PANEL) / Line::WORDS, depth);
                transpose(u32::of_lines_mut(rows), depth, u32::of_lines_mut(panel));
            }
        }
    });
    let mut parts = [[E::default(); PANEL]; 2];
    for column in (0..width).step_by(PANEL) {
        let columns = column..width.min(column + PANEL);
        let panel = panels.keys() + column * panels.value_words() / Line::WORDS;
        for word in first / E::PER_WORD..kernel.words(end) {
            for (key, part) in (word * E::PER_WORD..).zip(&mut parts[..E::PER_WORD]) {
                if key < end {
                    E::round(&values[key * stride..][columns.clone()], &mut part[..columns.len()]);
                } else {
                    part.fill(E::default());
                }
            }
            let line = E::of_lines_mut(lines(panel + word * PANEL / Line::WORDS, 1));
            for (index, word) in line.chunks_exact_mut(E::PER_WORD).enumerate() {
                for (number, part) in word.iter_mut().zip(&parts) {
                    *number = part[index];
                }
            }
        }
    }
}

/// Writes `count` words of a row, from the `from`-th on, rounded; zeros beyond its end.
fn copy_words<E: Element>(row: &[f32], from: usize, count: usize, line: &mut [Line]) {
    let row = &row[row.len().min(from * E::PER_WORD)..];
    let row = &row[..row.len().min(count * E::PER_WORD)];
    let line = &mut E::of_lines_mut(line)[..count * E::PER_WORD];
    E::round(row, &mut line[..row.len()]);
    line[row.len()..].fill(E::default());
}

/// Attention of a block of queries; `y` is its first row. The result is the softmax of each query.
///
/// # Safety
/// `laid` must be what [`lay_out`] made of all keys that the queries see; `y` must have room for the
/// rows, and nobody else may use them.
unsafe fn attend<E: Element>(
    panels: HeadPanels,
    block: &QueryBlock,
    laid: *const Line,
    scratch: &mut [Line],
    y: *mut f32,
) -> [Softmax; QUERIES] {
    let HeadPanels { kernel, width, .. } = panels;
    let &QueryBlock { q, stride, rows, seen } = block;
    let (words, depths) = (panels.words(), panels.depths());
    let scale = panels.scale();
    let (queries, rest) = scratch.split_at_mut(QUERIES * depths * ROW_LINES);
    let (scores, mixed) = rest.split_at_mut(QUERIES * ROW_LINES);
    for (index, lines) in queries.chunks_exact_mut(ROW_LINES).enumerate() {
        let (depth, row) = (index / QUERIES, index % QUERIES);
        if row < rows {
            let from = depth * DEPTH;
            copy_words::<E>(&q[row * stride..][..width], from, DEPTH.min(words - from), lines);
        }
    }
    let mixed_stride = panels.mixed_lines() * Line::WORDS;
    let mixed = &mut f32::of_lines_mut(mixed)[..rows * mixed_stride];
    mixed.fill(0.0);
    let mut states = [Softmax::default(); QUERIES];
    let size = panels.block();
    let end = seen(rows - 1).end;
    for first in (seen(0).start / size * size..end).step_by(size) {
        let count = size.min(end - first);
        for key in (0..count).step_by(PANEL) {
            for depth in 0..depths {
                let from = depth * DEPTH;
                let panel = ((first + key) * words + from * PANEL) / Line::WORDS;
                for row in (0..rows).step_by(kernel.rows) {
                    // SAFETY: queries and panel hold so many words, the latter on whole lines; a row
                    // of scores has room for those of whole panels.
                    unsafe {
                        let a = queries.as_ptr().add((depth * QUERIES + row) * ROW_LINES);
                        let y = scores.as_mut_ptr().cast::<f32>().add(row * ROW + key);
                        let other = if depth == 0 { null() } else { y.cast_const() };
                        let (bias, next) = (null(), null());
                        let place = Place { y, width: PANEL, stride: ROW, bias, other, next };
                        let (rows, words) = (kernel.rows.min(rows - row), DEPTH.min(words - from));
                        kernel.run(rows, words, a.cast(), laid.add(panel).cast(), &place);
                    }
                }
            }
        }
        for (row, state) in states[..rows].iter_mut().enumerate() {
            let seen = seen(row);
            let within = |key: usize| key.clamp(first, first + count) - first;
            let scores = f32::of_lines_mut(&mut scores[row * ROW_LINES..][..ROW_LINES]);
            let mixed = &mut mixed[row * mixed_stride..][..mixed_stride];
            let seen = within(seen.start)..within(seen.end);
            weigh(kernel.precision, scores, seen, count, scale, state, mixed);
        }
        let values = panels.keys() + first / E::PER_WORD * PANEL / Line::WORDS;
        for column in (0..width).step_by(PANEL) {
            let panel = values + column * panels.value_words() / Line::WORDS;
            for row in (0..rows).step_by(kernel.rows) {
                // SAFETY: the weights hold so many words, zeros behind the last, and so does the
                // panel; a row of what is mixed has room for the columns.
                unsafe {
                    let a = scores.as_ptr().add(row * ROW_LINES);
                    let y = mixed.as_mut_ptr().add(row * mixed_stride + column);
                    let width = PANEL.min(mixed_stride - column);
                    let other = y.cast_const();
                    let (stride, bias, next) = (mixed_stride, null(), null());
                    let place = Place { y, width, stride, bias, other, next };
                    let (rows, words) = (kernel.rows.min(rows - row), kernel.words(count));
                    kernel.run(rows, words, a.cast(), laid.add(panel).cast(), &place);
                }
            }
        }
    }
    for (row, state) in states[..rows].iter().enumerate() {
        let normalize = state.sum().recip();
        for (column, value) in mixed[row * mixed_stride..][..width].iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { y.add(row * stride + column).write(value * normalize) };
        }
    }
    states
}

#[cfg(test)]
mod tests;
