//! The operations that every model here is made of. Each has a composed form out of candle's own
//! functions, which runs on any device and is the reference in tests; where it pays, a kernel stands
//! behind the same function (for f32 on the CPU). No model file calls a convolution, a norm or an
//! attention in any other way, so a kernel changes no model.
//!
//! An operation takes and gives [`Activation`]s. Within a memory trace its composed form runs as it
//! always does, on shapes; what a kernel takes is said by a `cost` beside it.
//!
//! Activations are channels-last: pictures `[B, H, W, C]`, tokens `[B, N, C]`; the former reshaped
//! to `[B, H·W, C]` is the same memory.

mod attention;
mod combine;
mod conv2d;
mod crop_resize;
mod embedding;
mod linear;
mod nonlinear;
mod norm;
mod rope;
mod upsample;

pub use attention::{Mask, attention};
pub use combine::{add, join};
pub use conv2d::Conv2d;
pub use crop_resize::{CropRect, crop_resize};
pub use embedding::Embedding;
pub use linear::Linear;
pub use nonlinear::{geglu, gelu, quick_gelu, silu, swiglu};
pub use norm::{GroupMoments, GroupNorm, LayerNorm, RmsNorm};
pub use rope::rope;
pub use upsample::upsample_nearest_2x;

use candle_core::{DType, Result, Shape};

use super::{Activation, Placement, Trace};

/// Implementation that an operation runs in.
enum Form<'a> {
    /// The CPU's kernel, on values.
    Kernel,
    /// The memory of the CPU's kernel, counted in this trace.
    KernelCost(&'a Trace),
    /// Put together from candle's functions, of values or within a trace.
    Composed,
}

/// The form for these activations: the kernel's where all of them are its values, or would be.
fn form<'a, const N: usize>(inputs: [&'a Activation; N]) -> Form<'a> {
    if let Some(trace) = inputs.iter().find_map(|x| x.trace()) {
        let has_kernels = inputs.iter().all(|x| trace.placement().has_kernels(x.dtype()));
        return if has_kernels { Form::KernelCost(trace) } else { Form::Composed };
    }
    let has_kernels = |x: &&Activation| {
        x.tensor().is_ok_and(|x| Placement::from(x.device()).has_kernels(x.dtype()))
    };
    if inputs.iter().all(has_kernels) { Form::Kernel } else { Form::Composed }
}

/// Counts the memory of a kernel that reads `inputs` contiguously (others are copied) and writes f32.
fn plain_cost(
    trace: &Trace,
    inputs: &[&Activation],
    output: impl Into<Shape>,
) -> Result<Activation> {
    let _copies: Vec<_> = inputs.iter().map(|x| x.contiguous()).collect::<Result<_>>()?;
    Ok(trace.activation(output, DType::F32))
}

/// `y + bias + other`, where a bias is spread over `y` and other is of its shape; no more than two of them
/// are there at a time.
fn add_all(
    mut y: Activation,
    bias: Option<&Activation>,
    other: Option<&Activation>,
) -> Result<Activation> {
    if let Some(bias) = bias {
        y = y.broadcast_add(bias)?;
    }
    if let Some(other) = other {
        y = y.add(other)?;
    }
    Ok(y)
}
