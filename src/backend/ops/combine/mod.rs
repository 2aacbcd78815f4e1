//! Operations that make one activation of two.

mod cpu;
mod cuda;
mod launch;
mod launch_metal;
mod metal;

use candle_core::{D, Result};

use super::{OpForm, form, plain_cost};
use crate::backend::{Activation, Operation};

/// `a + b`, of one shape: a residual connection. Where one of the two comes out of a layer, that layer's
/// `forward_add` saves a pass over memory.
///
/// # Errors
/// Different shapes, or those of the backend.
pub fn add(a: &Activation, b: &Activation) -> Result<Activation> {
    if a.dims() != b.dims() {
        candle_core::bail!("add: {:?} and {:?}", a.shape(), b.shape());
    }
    match form(Operation::Add, [a, b]) {
        OpForm::Cpu => cpu::add(a.tensor()?, b.tensor()?).map(Activation::from),
        OpForm::CpuCost(trace) => plain_cost(trace, &[a, b], a.shape()),
        OpForm::Cuda => cuda::add(a, b),
        OpForm::Metal => metal::add(a, b),
        OpForm::Composed => a.add(b),
    }
}

/// `residual + gate·y`, of `[B, N, C]` and a gate `[B, C]` for each sample (adaLN of diffusion transformers).
///
/// # Errors
/// Shapes that do not go together, or those of the backend.
pub fn add_gated(residual: &Activation, y: &Activation, gate: &Activation) -> Result<Activation> {
    let (batch, _, channels) = y.dims3()?;
    if residual.dims() != y.dims() || gate.dims() != [batch, channels] {
        candle_core::bail!(
            "add_gated: {:?}, {:?} and a gate of {:?}",
            residual.shape(),
            y.shape(),
            gate.shape()
        );
    }
    match form(Operation::Add, [residual, y, gate]) {
        OpForm::Cpu => {
            cpu::add_gated(residual.tensor()?, y.tensor()?, gate.tensor()?).map(Activation::from)
        }
        OpForm::CpuCost(trace) => plain_cost(trace, &[residual, y, gate], y.shape()),
        OpForm::Cuda | OpForm::Metal | OpForm::Composed => {
            add(residual, &y.broadcast_mul(&gate.unsqueeze(1)?)?)
        }
    }
}

/// Channels side by side: `[…, A]` and `[…, B]` → `[…, A + B]`.
///
/// # Errors
/// Other dimensions that differ, or those of the backend.
pub fn join(a: &Activation, b: &Activation) -> Result<Activation> {
    let (Some((left, others)), Some((right, same))) =
        (a.dims().split_last(), b.dims().split_last())
    else {
        candle_core::bail!("join: {:?} and {:?}", a.shape(), b.shape());
    };
    if others != same {
        candle_core::bail!("{:?} and {:?} cannot be joined", a.shape(), b.shape());
    }
    match form(Operation::Join, [a, b]) {
        OpForm::Cpu => cpu::join(a.tensor()?, b.tensor()?).map(Activation::from),
        OpForm::CpuCost(trace) => plain_cost(trace, &[a, b], [others, &[left + right]].concat()),
        OpForm::Cuda | OpForm::Metal | OpForm::Composed => Activation::cat(&[a, b], D::Minus1),
    }
}

/// `[…, C]` + `[C]` + `[…, C]` in one pass over memory, where there is a kernel for it.
pub(super) fn add_bias(
    y: &Activation,
    bias: &Activation,
    other: Option<&Activation>,
) -> Result<Option<Activation>> {
    match form(Operation::AddBias, [y]) {
        OpForm::Cuda => cuda::add_bias(y, bias, other).map(Some),
        OpForm::Metal => metal::add_bias(y, bias, other).map(Some),
        OpForm::Cpu | OpForm::CpuCost(_) | OpForm::Composed => Ok(None),
    }
}
