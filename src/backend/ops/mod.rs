//! The operations that every model here is made of. Each has a composed form out of candle's own
//! functions, which runs on any device and is the reference in tests; where it pays, a kernel stands
//! behind the same function: [`Operation`] says where. No model file calls a convolution, a norm or an
//! attention in any other way, so a kernel changes no model.
//!
//! An operation takes and gives [`Activation`]s. Within a memory trace its composed form and those of
//! GPUs run as they always do, on shapes; what a kernel of the CPU takes is said by a `cost` beside it.
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

pub use attention::{Mask, attention, attention_of_lengths, attention_parts, biased_attention};
pub use combine::{add, add_gated, join};
pub use conv2d::Conv2d;
pub use crop_resize::{CropRect, blend, crop_resize};
pub use embedding::Embedding;
pub use linear::Linear;
pub use nonlinear::{geglu, gelu, gelu_tanh, leaky_relu, prelu, quick_gelu, silu, swiglu};
pub use norm::{GroupMoments, GroupNorm, LayerNorm, RmsNorm, modulated_norm};
pub use rope::rope;
pub use upsample::upsample_nearest_2x;

use candle_core::{DType, Result, Shape};

use super::{Activation, Operation, Placement, Trace, metal::is_counted};

/// Implementation that an operation runs in.
enum OpForm<'a> {
    /// The CPU's kernel, on values.
    Cpu,
    /// The memory of the CPU's kernel, counted in this trace.
    CpuCost(&'a Trace),
    /// CUDA's kernels, on values or within a trace. They may decline a shape that they do not count.
    Cuda,
    /// Metal's kernels, likewise.
    Metal,
    /// Composition of candle's functions, on values or within a trace.
    Composed,
}

/// The form of an operation for these activations: a kernel where there is one, and all of them are its values,
/// or would be.
fn form<'a, const N: usize>(operation: Operation, inputs: [&'a Activation; N]) -> OpForm<'a> {
    let trace = inputs.iter().find_map(|x| x.trace());
    let placement = |x: &Activation| trace.map_or_else(|| x.placement(), Trace::placement);
    let all_on = |wanted: Placement| {
        let fits =
            |x: &&Activation| placement(x) == wanted && operation.runs_own(wanted, x.dtype());
        inputs.iter().all(fits)
    };
    // No grid of a GPU is empty.
    let launches = || {
        let dtype = inputs.first().map(|x| x.dtype());
        inputs.iter().all(|x| Some(x.dtype()) == dtype && x.elem_count() > 0)
    };
    match trace {
        None if all_on(Placement::Cpu) => OpForm::Cpu,
        Some(trace) if all_on(Placement::Cpu) => OpForm::CpuCost(trace),
        _ if all_on(Placement::Cuda) && launches() => OpForm::Cuda,
        _ if all_on(Placement::Metal)
            && launches()
            && inputs.iter().all(|x| is_counted(x.elem_count())) =>
        {
            OpForm::Metal
        }
        _ => OpForm::Composed,
    }
}

/// Counts the memory of a kernel of the CPU that reads `inputs` contiguously (others are copied) and writes f32.
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
    if let Some(bias) = bias
        && bias.rank() == 1
        && let Some(sum) = combine::add_bias(&y, bias, other)?
    {
        return Ok(sum);
    }
    if let Some(bias) = bias {
        y = y.broadcast_add(bias)?;
    }
    if let Some(other) = other {
        y = add(&y, other)?;
    }
    Ok(y)
}
