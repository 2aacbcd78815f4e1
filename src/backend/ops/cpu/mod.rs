//! CPU kernels in f32, behind the functions of [`ops`](super). They read the tensors' memory
//! directly and hand back a new tensor.
//!
//! **Same bytes whatever the batch and the threads.** A sum is taken in one order, by one thread,
//! whatever else is computed beside it; where sums are taken in pieces, the pieces follow from the
//! shape of one sample alone. So a sample's result is the same, bit for bit, in any batch on any
//! number of threads.

mod attention;
mod conv2d;
mod element;
mod flash;
mod kernel;
mod linear;
mod matmul;
mod narrow;
mod norm;
mod panels;
mod pointwise;
mod product;
mod simd;
mod softmax;
mod transpose;

pub(super) use attention::{attention, attention_memory};
pub(super) use conv2d::{Window, conv2d, upsample_nearest_2x};
pub(super) use linear::linear;
pub(crate) use matmul::add_product;
pub(super) use narrow::{Narrow, narrow, narrow_bytes};
pub(super) use norm::{channel_affine, group_norm, group_norm_bytes, layer_norm};
pub(super) use panels::{Panels, Right, panels_bytes};
pub(super) use pointwise::{add, crop_resize, geglu, gelu, join, quick_gelu, silu, swiglu};
pub(super) use product::scratch_values;

use std::{cell::Cell, marker::PhantomData, mem::MaybeUninit, slice};

use candle_core::{DType, Device, Result, Storage, Tensor};

use super::Products;
use kernel::Kernel;
use matmul::Matrix;
use product::Summands;

/// Whether the kernels here can take this tensor.
pub(super) fn takes(x: &Tensor) -> bool {
    matches!(x.device(), Device::Cpu) && x.dtype() == DType::F32
}

/// Calls `f` with the values of contiguous f32 tensors on the CPU.
fn with_values<const N: usize, T>(
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

/// Calls `f` with the values of `x` and of what is added to a product with `columns` outputs of
/// `samples` samples: a bias, `[columns]` or `[samples, columns]`, and a tensor of the output's shape.
fn with_summands<T>(
    x: &Tensor,
    bias: Option<&Tensor>,
    other: Option<&Tensor>,
    (samples, columns): (usize, usize),
    f: impl FnOnce(&[f32], Summands) -> T,
) -> Result<T> {
    if let Some(bias) = bias
        && bias.dims() != [columns]
        && bias.dims() != [samples, columns]
    {
        candle_core::bail!("a bias of {:?} for {samples} × {columns} outputs", bias.shape());
    }
    match (bias, other) {
        (None, None) => with_values([x], |[x]| f(x, Summands { bias: None, other: None })),
        (Some(bias), None) => {
            with_values([x, bias], |[x, bias]| f(x, Summands { bias: Some(bias), other: None }))
        }
        (None, Some(other)) => with_values([x, &other.contiguous()?], |[x, other]| {
            f(x, Summands { bias: None, other: Some(other) })
        }),
        (Some(bias), Some(other)) => {
            with_values([x, bias, &other.contiguous()?], |[x, bias, other]| {
                f(x, Summands { bias: Some(bias), other: Some(other) })
            })
        }
    }
}

/// The instructions of the kernel for products in this precision, if the processor has any.
pub(super) fn kernel_name(products: Products) -> Option<&'static str> {
    Kernel::best(products).map(|kernel| kernel.name)
}

/// Calls `f` with a buffer of `len` values that belongs to this thread and is used again by the
/// next call. What it holds at first is arbitrary.
fn with_scratch<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
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
unsafe fn written(len: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    fill(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: there is room for as many, and all have been written.
    unsafe { values.set_len(len) };
    values
}

/// An output that several threads fill, each its own blocks.
struct Shared<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: it only gives out blocks, and whoever asks for one promises that no two overlap.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    fn new(values: &'a mut [f32]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), owner: PhantomData }
    }

    /// Where `rows` rows of `columns` values, `stride` apart, begin that have the first at `offset`.
    fn place(&self, offset: usize, rows: usize, columns: usize, stride: usize) -> *mut f32 {
        assert!(offset + (rows - 1) * stride + columns <= self.len, "a place beyond the output");
        self.start.wrapping_add(offset)
    }

    /// The same of memory whose values must be written before they are read.
    fn uninit(values: &'a mut [MaybeUninit<f32>]) -> Self {
        Self { start: values.as_mut_ptr().cast(), len: values.len(), owner: PhantomData }
    }

    /// `rows` rows of `columns` values, `stride` apart, the first at `offset`.
    ///
    /// # Safety
    /// No two blocks that exist at the same time may share a value.
    unsafe fn block(&self, offset: usize, rows: usize, columns: usize, stride: usize) -> Block<'a> {
        assert!(columns <= stride || rows == 1, "the rows of a block overlap");
        assert!(rows > 0 && columns > 0, "an empty block");
        assert!(offset + (rows - 1) * stride + columns <= self.len, "a block beyond the output");
        // SAFETY: the block lies within the output, as just checked.
        let start = unsafe { self.start.add(offset) };
        Block { start, rows, columns, stride, owner: PhantomData }
    }
}

/// A rectangle of an output.
struct Block<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
    owner: PhantomData<&'a mut [f32]>,
}

impl Block<'_> {
    /// The same values, to be read.
    fn as_matrix(&self) -> Matrix<'_> {
        let len = (self.rows - 1) * self.stride + self.columns;
        // SAFETY: the rows lie within the output, and only this block gives access to them. That
        // the values between its columns and its stride are not ours is why this asks for a block
        // without such gaps.
        assert!(self.columns == self.stride, "a block with gaps");
        let values = unsafe { slice::from_raw_parts(self.start, len) };
        Matrix::row_major(values, self.rows, self.columns, self.stride)
    }

    fn row(&mut self, index: usize) -> &mut [f32] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        // SAFETY: the rows lie within the output, and blocks do not overlap.
        unsafe { slice::from_raw_parts_mut(self.start.add(index * self.stride), self.columns) }
    }
}
