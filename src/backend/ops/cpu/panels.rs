//! A weight laid out for the micro-kernels, once at load: panels of [`PANEL`] columns, each a
//! matrix `[inner, PANEL]` without gaps, the last one filled up with zeros.

use std::{
    ops::Range,
    ptr::{self, null},
    sync::Arc,
};

use candle_core::{CpuStorage, Result, Storage, Tensor};
use half::{bf16, f16, slice::HalfFloatSliceExt as _};
use rayon::prelude::*;

use super::{
    element::{Element as _, Line, Number as _, with_lines},
    kernel::{DEPTH, Kernel, PANEL, ROW},
    transpose::transpose,
};
use crate::backend::ops::{Products, weight::Packed};

/// How the numbers of panels are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    /// As words of the kernel.
    Words,
    /// In 16 bits, to be brought to f32 block by block.
    F16,
    Bf16,
}

/// A weight in panels.
#[derive(Clone, Debug)]
pub(in super::super) struct Panels {
    lines: Arc<Vec<Line>>,
    store: Store,
    kernel: &'static Kernel,
    pub inner: usize,
    pub columns: usize,
}

/// How many lines a panel takes.
fn panel_lines(kernel: &Kernel, store: Store, inner: usize) -> usize {
    match store {
        Store::Words => kernel.words(inner) * PANEL / Line::WORDS,
        Store::F16 | Store::Bf16 => (inner * PANEL).div_ceil(2 * Line::WORDS),
    }
}

/// What a weight of so many columns takes in panels, in bytes, if it is kept in 16 bits or in the
/// precision of the products.
pub(in super::super) fn panels_bytes(
    products: Products,
    in_16_bits: bool,
    inner: usize,
    columns: usize,
) -> usize {
    let store = if in_16_bits && products == Products::F32 { Store::F16 } else { Store::Words };
    let lines = Kernel::best(products).map_or(0, |kernel| panel_lines(kernel, store, inner));
    columns.div_ceil(PANEL) * lines * size_of::<Line>()
}

fn kernel_for(products: Products) -> Result<&'static Kernel> {
    match Kernel::best(products) {
        Some(kernel) => Ok(kernel),
        None => candle_core::bail!("this processor has no instructions for {products} products"),
    }
}

impl Panels {
    /// From a weight in checkpoint layout, `[out, in]` or `[out, in, k, k]`, in f32, f16 or bf16. Of
    /// the latter, the inner dimension is `[k, k, in]`.
    ///
    /// # Errors
    /// Another shape or type, or products for which the processor has no kernel.
    pub(in super::super) fn new(rows: &Tensor, products: Products) -> Result<Self> {
        Self::for_kernel(rows, kernel_for(products)?)
    }

    pub(super) fn for_kernel(rows: &Tensor, kernel: &'static Kernel) -> Result<Self> {
        let (columns, input, taps) = match *rows.dims() {
            [output, input] => (output, input, 1),
            [output, input, height, width] => (output, input, height * width),
            _ => candle_core::bail!("{:?} is no weight", rows.shape()),
        };
        if rows.elem_count() == 0 {
            candle_core::bail!("{:?} is no weight", rows.shape());
        }
        let laid_out = Laid { columns, input, taps };
        let rows = rows.contiguous()?;
        let (storage, layout) = rows.storage_and_layout();
        let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("cpu kernel: the weight is not on the CPU");
        };
        let (inner, columns) = (laid_out.input * laid_out.taps, laid_out.columns);
        let of = |lines, store| Self { lines: Arc::new(lines), store, kernel, inner, columns };
        let in_words = kernel.products != Products::F32;
        Ok(match storage {
            CpuStorage::F16(values) if in_words => {
                let values = &values[start..end];
                of(laid_out.words(kernel, |at| values[at].to_f32()), Store::Words)
            }
            CpuStorage::BF16(values) if in_words => {
                let values = &values[start..end];
                of(laid_out.words(kernel, |at| values[at].to_f32()), Store::Words)
            }
            CpuStorage::F16(values) => {
                let values = &values[start..end];
                of(laid_out.halves(kernel, |at| values[at].to_bits()), Store::F16)
            }
            CpuStorage::BF16(values) => {
                let values = &values[start..end];
                of(laid_out.halves(kernel, |at| values[at].to_bits()), Store::Bf16)
            }
            storage => {
                let values = &storage.as_slice::<f32>()?[start..end];
                of(laid_out.words(kernel, |at| values[at]), Store::Words)
            }
        })
    }

    /// All weights of one output, as they were rounded.
    pub(in super::super) fn read(&self, column: usize, values: &mut [f32]) {
        let each = panel_lines(self.kernel, self.store, self.inner);
        let lines = &self.lines[column / PANEL * each..][..each];
        let per_word = self.kernel.products.per_word();
        for (k, value) in values.iter_mut().enumerate() {
            let (alone, in_words) =
                (k * PANEL + column % PANEL, k / per_word * PANEL + column % PANEL);
            *value = match (self.store, self.kernel.products) {
                (Store::F16, _) => f16::of_lines(lines)[alone].to_f32(),
                (Store::Bf16, _) => bf16::of_lines(lines)[alone].to_f32(),
                (Store::Words, Products::F32) => f32::of_lines(lines)[in_words],
                (Store::Words, Products::Bf16) => {
                    bf16::of_lines(lines)[in_words * per_word + k % per_word].to_f32()
                }
            };
        }
    }

    /// How many bytes it takes.
    pub(in super::super) fn bytes(&self) -> usize {
        size_of_val(self.lines.as_slice())
    }
}

fn zeros(count: usize) -> Vec<Line> {
    let mut lines = Vec::with_capacity(count);
    lines.resize(count, Line::ZERO);
    lines
}

/// Where the numbers of a weight in checkpoint layout are.
#[derive(Clone, Copy)]
struct Laid {
    columns: usize,
    input: usize,
    taps: usize,
}

impl Laid {
    /// The places in memory of a run of the inner dimension of one column.
    fn places(self, column: usize, inner: Range<usize>) -> impl Iterator<Item = usize> {
        let start = column * self.input * self.taps;
        let (mut tap, mut channel) = (inner.start / self.input, inner.start % self.input);
        inner.map(move |_| {
            let place = start + channel * self.taps + tap;
            channel += 1;
            if channel == self.input {
                (tap, channel) = (tap + 1, 0);
            }
            place
        })
    }

    fn words(self, kernel: &Kernel, value: impl Fn(usize) -> f32 + Sync) -> Vec<Line> {
        let read = |column: usize, inner: Range<usize>, out: &mut [f32]| {
            for (out, place) in out.iter_mut().zip(self.places(column, inner)) {
                *out = value(place);
            }
        };
        let inner = self.input * self.taps;
        let each = panel_lines(kernel, Store::Words, inner);
        let mut lines = zeros(self.columns.div_ceil(PANEL) * each);
        lines.par_chunks_mut(each.max(1)).enumerate().for_each(|(panel, lines)| {
            with_lines(FILL_LINES, |scratch| {
                let blocks = lines.chunks_mut(BLOCK_LINES);
                for (block, lines) in blocks.enumerate() {
                    let first = block * DEPTH * kernel.products.per_word();
                    let columns = panel * PANEL..self.columns.min((panel + 1) * PANEL);
                    fill_block(kernel, columns, first..inner, &read, lines, scratch);
                }
            });
        });
        lines
    }

    fn halves(self, kernel: &Kernel, bits: impl Fn(usize) -> u16 + Sync) -> Vec<Line> {
        let inner = self.input * self.taps;
        let each = panel_lines(kernel, Store::F16, inner);
        let mut lines = zeros(self.columns.div_ceil(PANEL) * each);
        lines.par_chunks_mut(each.max(1)).enumerate().for_each(|(panel, lines)| {
            let halves = f16::of_lines_mut(lines);
            for (offset, column) in
                (panel * PANEL..self.columns.min((panel + 1) * PANEL)).enumerate()
            {
                for (k, place) in self.places(column, 0..inner).enumerate() {
                    halves[k * PANEL + offset] = f16::from_bits(bits(place));
                }
            }
        });
        lines
    }
}

/// Lines of a row of words.
const ROW_LINES: usize = ROW / Line::WORDS;
/// Lines for the columns of a block as rows of words, and for one of them in f32.
const FILL_LINES: usize = (PANEL + 2) * ROW_LINES;

/// Lines of a block.
const BLOCK_LINES: usize = DEPTH * PANEL / Line::WORDS;
/// Most lines that [`Right::block`] needs.
pub(super) const MOST_SCRATCH_LINES: usize = BLOCK_LINES + FILL_LINES;

/// Fills a block of a panel: `columns` (at most [`PANEL`], the rest become zeros) from
/// `inner.start` as far as the block or the inner dimension goes. `read` gives a run of a column.
fn fill_block(
    kernel: &Kernel,
    columns: Range<usize>,
    inner: Range<usize>,
    read: &impl Fn(usize, Range<usize>, &mut [f32]),
    block: &mut [Line],
    scratch: &mut [Line],
) {
    let words = block.len() * Line::WORDS / PANEL;
    let count = (words * kernel.products.per_word()).min(inner.len());
    let run = inner.start..inner.start + count;
    let (rows, values) = scratch[..FILL_LINES].split_at_mut(PANEL * ROW_LINES);
    let values = &mut f32::of_lines_mut(values)[..count];
    for (index, row) in rows.chunks_exact_mut(ROW_LINES).enumerate() {
        let column = columns.start + index;
        if column >= columns.end {
            row.fill(Line::ZERO);
            continue;
        }
        match kernel.products {
            Products::F32 => {
                let row = f32::of_lines_mut(row);
                read(column, run.clone(), &mut row[..count]);
                row[count..].fill(0.0);
            }
            Products::Bf16 => {
                let row = bf16::of_lines_mut(row);
                read(column, run.clone(), values);
                bf16::round(values, &mut row[..count]);
                row[count..].fill(bf16::ZERO);
            }
        }
    }
    transpose(u32::of_lines(rows), words, u32::of_lines_mut(block));
}

/// The right side of a product.
#[derive(Clone, Copy)]
pub(in super::super) enum Right<'a> {
    Panels(&'a Panels),
    /// Rows as stored, which are brought into panels block by block.
    Stored(&'a Packed, &'static Kernel),
}

impl<'a> Right<'a> {
    /// Rows as stored.
    ///
    /// # Errors
    /// Products for which the processor has no kernel.
    pub(in super::super) fn stored(packed: &'a Packed, products: Products) -> Result<Self> {
        Ok(Self::Stored(packed, kernel_for(products)?))
    }
}

impl Right<'_> {
    pub(super) fn kernel(&self) -> &'static Kernel {
        match self {
            Self::Panels(panels) => panels.kernel,
            Self::Stored(_, kernel) => kernel,
        }
    }

    /// Inputs and outputs.
    pub(super) fn dims(&self) -> (usize, usize) {
        match self {
            Self::Panels(panels) => (panels.inner, panels.columns),
            Self::Stored(packed, _) => (packed.input, packed.output),
        }
    }

    /// Whether blocks have to be made from what is kept.
    pub(super) fn is_kept_otherwise(&self) -> bool {
        match self {
            Self::Panels(panels) => panels.store != Store::Words,
            Self::Stored(..) => true,
        }
    }

    /// How many lines [`block`](Self::block) needs.
    pub(super) fn scratch_lines(&self) -> usize {
        match self {
            Self::Panels(panels) if panels.store == Store::Words => 0,
            Self::Panels(_) => BLOCK_LINES,
            Self::Stored(..) => MOST_SCRATCH_LINES,
        }
    }

    /// Where the block of `panel` at word `first` lies, for a processor to bring it closer; null if there
    /// is none, or if it has to be made.
    pub(super) fn place(&self, panel: usize, first: usize) -> *const u32 {
        match *self {
            Self::Panels(panels) if panels.store == Store::Words => {
                let each = panel_lines(panels.kernel, panels.store, panels.inner);
                let line = panel * each + first * PANEL / Line::WORDS;
                panels.lines.get(line).map_or(null(), |line| ptr::from_ref(line).cast())
            }
            _ => null(),
        }
    }

    /// The block of `panel` that begins at word `first` and has `words` words, if need be made in
    /// `scratch`.
    pub(super) fn block<'b>(
        &'b self,
        panel: usize,
        first: usize,
        words: usize,
        scratch: &'b mut [Line],
    ) -> &'b [Line] {
        let count = words * PANEL / Line::WORDS;
        match *self {
            Self::Panels(panels) => {
                let each = panel_lines(panels.kernel, panels.store, panels.inner);
                let lines = &panels.lines[panel * each..(panel + 1) * each];
                if panels.store == Store::Words {
                    let start = first * PANEL / Line::WORDS;
                    return &lines[start..start + count];
                }
                let halves = first * PANEL..(first + words) * PANEL;
                let block = &mut scratch[..count];
                let values = f32::of_lines_mut(block);
                if panels.store == Store::F16 {
                    f16::of_lines(lines)[halves].convert_to_f32_slice(values);
                } else {
                    bf16::of_lines(lines)[halves].convert_to_f32_slice(values);
                }
                block
            }
            Self::Stored(packed, kernel) => {
                let columns = panel * PANEL..packed.output.min((panel + 1) * PANEL);
                let first = first * kernel.products.per_word();
                let read = |column: usize, run: Range<usize>, values: &mut [f32]| {
                    packed.unpack_run(column, run, values);
                };
                let (block, scratch) = scratch.split_at_mut(count);
                fill_block(kernel, columns, first..packed.input, &read, block, scratch);
                block
            }
        }
    }
}
