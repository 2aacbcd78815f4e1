//! Our own kernels on NVIDIA GPUs, as operations run them. An operation's `cuda.rs` is written on activations, so that
//! the same lines launch kernels and, within a memory trace, count what they take; only [`run`] differs.
//!
//! Kernels are compiled to PTX by the build (`kernels/*.cu`, with the feature `cuda`). They run on candle's
//! stream, one after the other with candle's own; nothing here waits for them.

#[cfg(feature = "cuda")]
mod copy;
#[cfg(feature = "cuda")]
mod driver;
#[cfg(feature = "cuda")]
pub(super) mod pool;

use candle_core::{DType, Result, Shape};

use super::{
    Activation,
    gpu::{KernelValue, room},
    launch::{ElementType, Launch, RowSizes},
};

#[cfg(feature = "cuda")]
pub(super) use copy::Copy;
#[cfg(feature = "cuda")]
pub(super) use driver::{list_gpus, open};

// SAFETY: an integer, as kernels take lengths.
unsafe impl KernelValue for u64 {}
// SAFETY: two of them, `repr(C)`.
unsafe impl KernelValue for RowSizes {}

/// An argument of a kernel.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "no build without kernels reads it"))]
pub(super) enum Arg<'a> {
    /// The address of the first of these values, which lie one after the other unless the kernel is given their strides.
    Values(&'a Activation),
    /// What a kernel does without.
    Null,
    /// Sizes, and what else is taken by value.
    Value(&'a dyn KernelValue),
}

impl<'a> From<&'a Activation> for Arg<'a> {
    fn from(values: &'a Activation) -> Self {
        Self::Values(values)
    }
}

impl<'a> From<Option<&'a Activation>> for Arg<'a> {
    fn from(values: Option<&'a Activation>) -> Self {
        values.map_or(Self::Null, Self::Values)
    }
}

/// The type of these values for a kernel.
///
/// # Errors
/// A type that no kernel is for.
pub(super) fn element(x: &Activation) -> Result<ElementType> {
    match x.dtype() {
        DType::BF16 => Ok(ElementType::Bf16),
        DType::F16 => Ok(ElementType::F16),
        DType::F32 => Ok(ElementType::F32),
        other => candle_core::bail!("there are no kernels for {other:?}"),
    }
}

/// The bytes that kernels load at once, on a multiple of which their tensors begin.
const ALIGNMENT: usize = 16;

/// `true` if the first value lies on a multiple of 16 bytes; allocations do.
pub(super) fn is_aligned(x: &Activation) -> bool {
    let offset = x.layout().start_offset() * x.dtype().size_in_bytes();
    offset.is_multiple_of(ALIGNMENT)
}

/// The values one after the other from a multiple of 16 bytes on; a copy only where they are not. Of a view at
/// another address a copy is made as well, because some kernels sum in another order there.
///
/// # Errors
/// Those of the backend.
pub(super) fn ready(x: &Activation) -> Result<Activation> {
    if x.is_contiguous() && is_aligned(x) { Ok(x.clone()) } else { x.copied() }
}

/// [`ready`] of what may be missing.
///
/// # Errors
/// Those of the backend.
pub(super) fn ready_or_none(x: Option<&Activation>) -> Result<Option<Activation>> {
    x.map(ready).transpose()
}

/// Launches a kernel; within a memory trace nothing happens.
///
/// # Safety
/// The arguments are the kernel's, in its order, of its types, and the tensors are as large as the launch and its sizes
/// say.
///
/// # Errors
/// Those of the driver.
pub(super) unsafe fn run(launch: &Launch, args: &[Arg]) -> Result<()> {
    #[cfg(test)]
    super::gpu::recorded::note(launch.kernel, sizes(args));
    if args.iter().any(|arg| matches!(arg, Arg::Values(values) if values.is_traced())) {
        return Ok(());
    }
    #[cfg(feature = "cuda")]
    // SAFETY: the caller's.
    return unsafe { driver::run(launch, args) };
    #[cfg(not(feature = "cuda"))]
    candle_core::bail!("{}: this build has no kernels for NVIDIA GPUs", launch.kernel)
}

/// Bytes of each argument, as the driver takes them.
#[cfg(any(test, feature = "cuda"))]
fn sizes(args: &[Arg]) -> Vec<usize> {
    let size = |arg: &Arg| match arg {
        Arg::Values(_) | Arg::Null => size_of::<u64>(),
        Arg::Value(value) => size_of_val(*value),
    };
    args.iter().map(size).collect()
}

/// A kernel of one input, as long as its output.
///
/// # Safety
/// As of [`run`]: the kernel takes input, output and `size`.
///
/// # Errors
/// Those of the driver.
pub(super) unsafe fn run_unary(
    launch: &Launch,
    x: &Activation,
    shape: impl Into<Shape>,
    size: &dyn KernelValue,
) -> Result<Activation> {
    let x = ready(x)?;
    let y = room(&x, shape, x.dtype())?;
    // SAFETY: the caller's.
    unsafe { run(launch, &[Arg::Values(&x), Arg::Values(&y), Arg::Value(size)])? };
    Ok(y)
}

/// A kernel of two inputs of one shape, which its output has as well.
///
/// # Safety
/// As of [`run`]: the kernel takes both inputs, output and `size`.
///
/// # Errors
/// Those of the driver.
pub(super) unsafe fn run_binary(
    launch: &Launch,
    [a, b]: [&Activation; 2],
    size: &dyn KernelValue,
) -> Result<Activation> {
    let (a, b) = (ready(a)?, ready(b)?);
    let y = room(&a, a.shape(), a.dtype())?;
    let args = [Arg::Values(&a), Arg::Values(&b), Arg::Values(&y), Arg::Value(size)];
    // SAFETY: the caller's.
    unsafe { run(launch, &args)? };
    Ok(y)
}
