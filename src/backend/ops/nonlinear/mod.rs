//! Pointwise non-linearities. GELU is the exact erf form (`torch.nn.functional.gelu`'s default) where a
//! model does not ask for the tanh approximation by name.

mod cpu;
mod cuda;
mod launch;
mod launch_metal;
mod metal;

use candle_core::{D, Result, Tensor};

use super::{OpForm, form, plain_cost};
use crate::backend::{Activation, Operation};

/// `x·σ(x)` (`torch.nn.functional.silu`), any shape.
///
/// # Errors
/// Those of the backend.
pub fn silu(x: &Activation) -> Result<Activation> {
    match form(Operation::Silu, [x]) {
        OpForm::Cpu => cpu::silu(x.tensor()?).map(Activation::from),
        OpForm::CpuCost(trace) => plain_cost(trace, &[x], x.shape()),
        OpForm::Cuda => cuda::silu(x),
        OpForm::Metal => metal::silu(x),
        OpForm::Composed => x.silu(),
    }
}

/// `x·Φ(x)` by erf (`torch.nn.functional.gelu`), any shape.
///
/// # Errors
/// Those of the backend.
pub fn gelu(x: &Activation) -> Result<Activation> {
    match form(Operation::Gelu, [x]) {
        OpForm::Cpu => cpu::gelu(x.tensor()?).map(Activation::from),
        OpForm::CpuCost(trace) => plain_cost(trace, &[x], x.shape()),
        OpForm::Cuda => cuda::gelu(x),
        OpForm::Metal => metal::gelu(x),
        OpForm::Composed => x.gelu_erf(),
    }
}

/// `x·½(1 + tanh(√(2/π)(x + 0.044715·x³)))` (`torch.nn.functional.gelu(approximate="tanh")`; transformers'
/// `gelu_new`, diffusers' `gelu-approximate`), any shape. GPUs compose it.
///
/// # Errors
/// Those of the backend.
pub fn gelu_tanh(x: &Activation) -> Result<Activation> {
    match form(Operation::GeluTanh, [x]) {
        OpForm::Cpu => cpu::gelu_tanh(x.tensor()?).map(Activation::from),
        OpForm::CpuCost(trace) => plain_cost(trace, &[x], x.shape()),
        OpForm::Cuda | OpForm::Metal | OpForm::Composed => x.gelu_tanh(),
    }
}

/// `x·σ(1.702·x)` (transformers' `quick_gelu`, the activation of CLIP ViT-L), any shape.
///
/// # Errors
/// Those of the backend.
pub fn quick_gelu(x: &Activation) -> Result<Activation> {
    match form(Operation::QuickGelu, [x]) {
        OpForm::Cpu => cpu::quick_gelu(x.tensor()?).map(Activation::from),
        OpForm::CpuCost(trace) => plain_cost(trace, &[x], x.shape()),
        OpForm::Cuda => cuda::quick_gelu(x),
        OpForm::Metal => metal::quick_gelu(x),
        OpForm::Composed => x.mul(&x.affine(1.702, 0.0)?.sigmoid()?),
    }
}

/// Splits `[…, 2C]` into value and gate halves and returns `value·gelu(gate)`, `[…, C]`
/// (diffusers' `GEGLU`, after its projection).
///
/// # Errors
/// A last dimension that is odd, or those of the backend.
pub fn geglu(x: &Activation) -> Result<Activation> {
    let width = x.dim(D::Minus1)?;
    if !width.is_multiple_of(2) {
        candle_core::bail!("geglu: the last dimension of {:?} is odd", x.shape());
    }
    let value = x.narrow(D::Minus1, 0, width / 2)?;
    match form(Operation::Geglu, [x]) {
        OpForm::Cpu => cpu::geglu(x.tensor()?).map(Activation::from),
        OpForm::CpuCost(trace) => plain_cost(trace, &[x], value.shape()),
        OpForm::Cuda => cuda::geglu(x),
        OpForm::Metal => metal::geglu(x),
        OpForm::Composed => {
            let gate = x.narrow(D::Minus1, width / 2, width / 2)?;
            value.mul(&gate.contiguous()?.gelu_erf()?)
        }
    }
}

/// `silu(gate)·value`, of one shape (the activation of LLaMA's feed-forward layer).
///
/// # Errors
/// Different shapes, or those of the backend.
pub fn swiglu(gate: &Activation, value: &Activation) -> Result<Activation> {
    if gate.dims() != value.dims() {
        candle_core::bail!("swiglu: {:?} and {:?}", gate.shape(), value.shape());
    }
    match form(Operation::Swiglu, [gate, value]) {
        OpForm::Cpu => cpu::swiglu(gate.tensor()?, value.tensor()?).map(Activation::from),
        OpForm::CpuCost(trace) => plain_cost(trace, &[gate, value], gate.shape()),
        OpForm::Cuda => cuda::swiglu(gate, value),
        OpForm::Metal => metal::swiglu(gate, value),
        OpForm::Composed => gate.silu()?.mul(value),
    }
}

/// `max(x, 0) + slope·min(x, 0)` (`torch.nn.functional.leaky_relu`), any shape. GPUs compose it.
///
/// # Errors
/// Those of the backend.
pub fn leaky_relu(x: &Activation, slope: f64) -> Result<Activation> {
    match form(Operation::LeakyRelu, [x]) {
        OpForm::Cpu => cpu::leaky_relu(x.tensor()?, &[slope as f32]).map(Activation::from),
        OpForm::CpuCost(trace) => plain_cost(trace, &[x], x.shape()),
        OpForm::Cuda | OpForm::Metal | OpForm::Composed => {
            let positive = x.relu()?;
            x.affine(slope, 0.0)?.add(&positive.affine(1.0 - slope, 0.0)?)
        }
    }
}

/// `max(x, 0) + slope·min(x, 0)` with a slope for each channel, `[…, C]` and `[C]` (`torch.nn.PReLU`). GPUs compose it.
///
/// # Errors
/// Another number of channels, or those of the backend.
pub fn prelu(x: &Activation, slopes: &Tensor) -> Result<Activation> {
    if slopes.dims() != [x.dim(D::Minus1)?] {
        candle_core::bail!("prelu: {:?} and slopes of {:?}", x.shape(), slopes.shape());
    }
    match form(Operation::LeakyRelu, [x]) {
        OpForm::Cpu => {
            cpu::leaky_relu(x.tensor()?, &slopes.to_vec1::<f32>()?).map(Activation::from)
        }
        OpForm::CpuCost(trace) => plain_cost(trace, &[x], x.shape()),
        OpForm::Cuda | OpForm::Metal | OpForm::Composed => {
            let negative = x.affine(-1.0, 0.0)?.relu()?;
            x.relu()?.sub(&negative.broadcast_mul(&slopes.into())?)
        }
    }
}
