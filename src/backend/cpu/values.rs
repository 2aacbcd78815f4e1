//! Memory of the CPU's kernels: the values of tensors, outputs that nobody has filled with zeros, an
//! output that threads fill together, and a buffer for each thread. The one place that sees raw memory of
//! candle's tensors.

use std::{cell::Cell, marker::PhantomData, mem::MaybeUninit, slice};

use candle_core::{Result, Storage, Tensor};

/// Calls `f` with the values of contiguous f32 tensors on the CPU.
pub(in crate::backend) fn with_values<const N: usize, T>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> T,
) -> Result<T> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut values = [&[] as &[f32]; N];
    for (values, (storage, layout)) in values.iter_mut().zip(&guards) {
        let (Storage::Cpu(storage), Some((start, end))) = (&**storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("cpu kernel: the tensor is not contiguous on the CPU");
        };
        *values = &storage.as_slice::<f32>()?[start..end];
    }
    Ok(f(values))
}

/// Calls `f` with a buffer of `len` values that belongs to this thread and is used again by the
/// next call. What it holds at first is arbitrary.
pub(in crate::backend) fn with_scratch<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    thread_local! {
        static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    }
    // Taken out while in use: a nested call would get a fresh buffer instead of this one.
    let mut buffer = SCRATCH.take();
    let result = f(at_least(&mut buffer, len));
    SCRATCH.set(buffer);
    result
}

fn at_least(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// An output of `len` values that `fill` gets as it comes from the allocator, so that no time is
/// spent on zeros that are overwritten.
///
/// # Safety
/// `fill` must write every value.
pub(in crate::backend) unsafe fn written(
    len: usize,
    fill: impl FnOnce(&mut [MaybeUninit<f32>]),
) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    fill(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: there is room for as many, and all have been written.
    unsafe { values.set_len(len) };
    values
}

/// An output that several threads fill, each its own blocks.
pub(in crate::backend) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: it only gives out blocks, and whoever asks for one promises that no two overlap.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(in crate::backend) fn new(values: &'a mut [f32]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), owner: PhantomData }
    }

    /// Start of `rows` rows of `columns` values, `stride` apart, the first at `offset`.
    pub(in crate::backend) fn place(
        &self,
        offset: usize,
        rows: usize,
        columns: usize,
        stride: usize,
    ) -> *mut f32 {
        assert!(offset + (rows - 1) * stride + columns <= self.len, "a place beyond the output");
        self.start.wrapping_add(offset)
    }

    /// The same of memory whose values must be written before they are read.
    pub(in crate::backend) fn uninit(values: &'a mut [MaybeUninit<f32>]) -> Self {
        Self { start: values.as_mut_ptr().cast(), len: values.len(), owner: PhantomData }
    }

    /// `rows` rows of `columns` values, `stride` apart, the first at `offset`.
    ///
    /// # Safety
    /// No two blocks that exist at the same time may share a value.
    pub(in crate::backend) unsafe fn block(
        &self,
        offset: usize,
        rows: usize,
        columns: usize,
        stride: usize,
    ) -> Block<'a> {
        assert!(columns <= stride || rows == 1, "the rows of a block overlap");
        assert!(rows > 0 && columns > 0, "an empty block");
        assert!(offset + (rows - 1) * stride + columns <= self.len, "a block beyond the output");
        // SAFETY: the block lies within the output, as just checked.
        let start = unsafe { self.start.add(offset) };
        Block { start, rows, columns, stride, owner: PhantomData }
    }
}

/// A rectangle of an output.
pub(in crate::backend) struct Block<'a> {
    pub(super) start: *mut f32,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) stride: usize,
    owner: PhantomData<&'a mut [f32]>,
}

impl Block<'_> {
    pub(in crate::backend) fn row(&mut self, index: usize) -> &mut [f32] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        // SAFETY: the rows lie within the output, and blocks do not overlap.
        unsafe { slice::from_raw_parts_mut(self.start.add(index * self.stride), self.columns) }
    }
}
