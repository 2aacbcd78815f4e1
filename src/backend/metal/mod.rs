//! Our own kernels on Apple GPUs, as operations run them. An operation's `metal.rs` is written on activations, so that
//! the same lines launch kernels and, within a memory trace, count what they take; only [`compute`] differs.
//!
//! The system compiles the sources (`kernels/*.metal`) when a kernel is first used. Kernels run by candle's command
//! encoder, one after the other with candle's own; nothing here waits for them.

#[cfg(feature = "metal")]
mod driver;
#[cfg(any(test, feature = "metal"))]
mod sources;

use candle_core::{DType, Result, Shape};

use super::{
    Activation,
    gpu::{KernelValue, room},
    launch::Launch,
    launch_metal::{LengthSizes, MetalElement, RUN, RowSizes},
};

#[cfg(feature = "metal")]
pub(super) use driver::gpu_name;

// SAFETY: `repr(C)`, as `LengthSizes` of `kernels/pointwise.metal`: integers of 64 bits.
unsafe impl KernelValue for LengthSizes {}
// SAFETY: `repr(C)`, as `RowSizes` of `kernels/pointwise.metal`: integers of 32 bits.
unsafe impl KernelValue for RowSizes {}

/// The type of these values for a kernel.
///
/// # Errors
/// A type that no kernel is for.
pub(super) fn element(x: &Activation) -> Result<MetalElement> {
    match x.dtype() {
        DType::F16 => Ok(MetalElement::F16),
        DType::F32 => Ok(MetalElement::F32),
        other => candle_core::bail!("Apple GPUs have no kernels for {other:?}"),
    }
}

/// `true` if kernels count so many values, pixels or rows: in 32 bits.
pub(super) fn is_counted(length: usize) -> bool {
    u32::try_from(length).is_ok()
}

/// `true` if all of these begin at whole runs of four values, once they are contiguous; new values do.
pub(super) fn are_aligned(values: &[&Activation]) -> bool {
    let is_aligned = |x: &&Activation| {
        !x.is_contiguous() || x.layout().start_offset().is_multiple_of(RUN as usize)
    };
    values.iter().all(is_aligned)
}

/// `true` if the GPU multiplies matrices of a SIMD group, as Apple's have from family 7 on (M1); a memory trace is of
/// one that does.
pub(super) fn has_matrices(x: &Activation) -> bool {
    #[cfg(feature = "metal")]
    if let Ok(values) = x.tensor() {
        return driver::has_matrices(values.device());
    }
    x.is_traced()
}

/// What a kernel makes of `x`, its first buffer, and `others`: it writes every value of an output of this shape and
/// type, the buffer behind them, and takes its sizes last. Within a memory trace nothing is launched.
///
/// # Safety
/// The inputs are the kernel's, in its order, of its types, contiguous, and they and the output are as large as the
/// launch and its sizes say.
///
/// # Errors
/// Those of the driver.
pub(super) unsafe fn compute(
    launch: &Launch,
    x: &Activation,
    others: &[&Activation],
    (shape, dtype): (impl Into<Shape>, DType),
    sizes: &dyn KernelValue,
) -> Result<Activation> {
    let output = room(x, shape, dtype)?;
    #[cfg(test)]
    super::gpu::recorded::note(launch.kernel, {
        let buffers = std::iter::once(x).chain(others.iter().copied()).chain([&output]);
        let bytes = buffers.map(|buffer| buffer.dtype().size_in_bytes());
        bytes.chain([size_of_val(sizes)]).collect()
    });
    if output.is_traced() {
        return Ok(output);
    }
    #[cfg(feature = "metal")]
    {
        let inputs: Vec<_> = std::iter::once(x).chain(others.iter().copied()).collect();
        // SAFETY: the caller's.
        unsafe { driver::run(launch, &inputs, &output, sizes)? };
        Ok(output)
    }
    #[cfg(not(feature = "metal"))]
    {
        let (_, _) = (others, sizes);
        candle_core::bail!("{}: this build has no kernels for Apple GPUs", launch.kernel)
    }
}
