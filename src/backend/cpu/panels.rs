//! A weight laid out for the micro-kernels, once at load: panels of [`PANEL`] columns, each a
//! matrix `[inner, PANEL]` without gaps, the last one filled up with zeros.

use std::{
    ops::Range,
    ptr::{self, null},
    sync::Arc,
};

use candle_core::{CpuStorage, DType, Result, Storage, Tensor};
use half::{bf16, f16, slice::HalfFloatSliceExt as _};
use rayon::prelude::*;

use super::{
    element::{Element as _, Line, Number as _, with_lines},
    kernel::{DEPTH, Kernel, PANEL, ROW},
    transpose::transpose,
};
use crate::backend::{MatmulPrecision, rows::StoredRows};

/// Storage of the numbers of packed panels.
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
pub(in crate::backend) struct Panels {
    lines: Arc<Vec<Line>>,
    store: Store,
    kernel: &'static Kernel,
    pub inner: usize,
    pub columns: usize,
}

/// Lines of one panel.
fn panel_lines(kernel: &Kernel, store: Store, inner: usize) -> usize {
    match store {
        Store::Words => kernel.words(inner) * PANEL / Line::WORDS,
        Store::F16 | Store::Bf16 => (inner * PANEL).div_ceil(2 * Line::WORDS),
    }
}

/// Bytes of a weight of so many columns in packed panels, kept in 16 bits or in the precision of the
/// products.
pub(in crate::backend) fn panels_bytes(
    precision: MatmulPrecision,
    in_16_bits: bool,
    inner: usize,
    columns: usize,
) -> usize {
    let store =
        if in_16_bits && precision == MatmulPrecision::F32 { Store::F16 } else { Store::Words };
    let lines = Kernel::get(precision).map_or(0, |kernel| panel_lines(kernel, store, inner));
    columns.div_ceil(PANEL) * lines * size_of::<Line>()
}

impl Panels {
    /// From a weight in checkpoint layout, `[out, in]` or `[out, in, k, k]`, in f32, f16 or bf16. Of
    /// the latter, the inner dimension is `[k, k, in]`.
    ///
    /// # Errors
    /// Another shape or type, or products for which the processor has no kernel.
    pub(in crate::backend) fn new(rows: &Tensor, precision: MatmulPrecision) -> Result<Self> {
        Self::for_kernel(rows, Kernel::get(precision)?)
    }

    pub(in crate::backend) fn for_kernel(rows: &Tensor, kernel: &'static Kernel) -> Result<Self> {
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
        let in_words = kernel.precision != MatmulPrecision::F32;
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
}

fn zeros(count: usize) -> Vec<Line> {
    let mut lines = Vec::with_capacity(count);
    lines.resize(count, Line::ZERO);
    lines
}

/// Memory layout of a weight as checkpoints have it.
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
                    let first = block * DEPTH * kernel.precision.per_word();
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

/// Access of a product's right side to a block of a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) enum Blocks {
    /// It is kept as the micro-kernels read it.
    Kept,
    /// From numbers in 16 bits.
    OfHalves,
    /// From rows as stored.
    OfRows,
}

impl Blocks {
    /// Those of panels that are made of `numbers` for products in this precision.
    pub(in crate::backend) fn of_panels(precision: MatmulPrecision, numbers: DType) -> Self {
        let in_16_bits = numbers != DType::F32 && precision == MatmulPrecision::F32;
        if in_16_bits { Self::OfHalves } else { Self::Kept }
    }

    /// `true` if they have to be made from the stored numbers.
    pub(in crate::backend) fn are_made(self) -> bool {
        self != Self::Kept
    }

    /// Scratch lines that [`Right::block`] needs.
    pub(in crate::backend) fn scratch_lines(self) -> usize {
        match self {
            Self::Kept => 0,
            Self::OfHalves => BLOCK_LINES,
            Self::OfRows => BLOCK_LINES + FILL_LINES,
        }
    }
}

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
    let count = (words * kernel.precision.per_word()).min(inner.len());
    let run = inner.start..inner.start + count;
    let (rows, values) = scratch[..FILL_LINES].split_at_mut(PANEL * ROW_LINES);
    let values = &mut f32::of_lines_mut(values)[..count];
    for (index, row) in rows.chunks_exact_mut(ROW_LINES).enumerate() {
        let column = columns.start + index;
        if column >= columns.end {
            row.fill(Line::ZERO);
            continue;
        }
        match kernel.precision {
            MatmulPrecision::F32 => {
                let row = f32::of_lines_mut(row);
                read(column, run.clone(), &mut row[..count]);
                row[count..].fill(0.0);
            }
            MatmulPrecision::Bf16 => {
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
pub(in crate::backend) enum Right<'a> {
    Panels(&'a Panels),
    /// Rows as stored, which are brought into panels block by block.
    Stored(&'a StoredRows, &'static Kernel),
}

impl<'a> Right<'a> {
    /// Rows as stored.
    ///
    /// # Errors
    /// A precision for which the processor has no kernel.
    pub(in crate::backend) fn stored(
        rows: &'a StoredRows,
        precision: MatmulPrecision,
    ) -> Result<Self> {
        Ok(Self::Stored(rows, Kernel::get(precision)?))
    }
}

impl Right<'_> {
    pub(in crate::backend) fn kernel(&self) -> &'static Kernel {
        match self {
            Self::Panels(panels) => panels.kernel,
            Self::Stored(_, kernel) => kernel,
        }
    }

    /// Inputs and outputs.
    pub(in crate::backend) fn dims(&self) -> (usize, usize) {
        match self {
            Self::Panels(panels) => (panels.inner, panels.columns),
            Self::Stored(rows, _) => (rows.input, rows.output),
        }
    }

    /// Access to its blocks.
    pub(in crate::backend) fn blocks(&self) -> Blocks {
        match self {
            Self::Panels(Panels { store: Store::Words, .. }) => Blocks::Kept,
            Self::Panels(_) => Blocks::OfHalves,
            Self::Stored(..) => Blocks::OfRows,
        }
    }

    /// Address of the block of `panel` at word `first`, for prefetch; null if there is none, or if it has
    /// to be made.
    pub(in crate::backend) fn place(&self, panel: usize, first: usize) -> *const u32 {
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
    pub(in crate::backend) fn block<'b>(
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
            Self::Stored(rows, kernel) => {
                let columns = panel * PANEL..rows.output.min((panel + 1) * PANEL);
                let first = first * kernel.precision.per_word();
                let read = |column: usize, run: Range<usize>, values: &mut [f32]| {
                    rows.unpack_run(column, run, values);
                };
                let (block, scratch) = scratch.split_at_mut(count);
                fill_block(kernel, columns, first..rows.input, &read, block, scratch);
                block
            }
        }
    }
}
