//! Non-linearities on NVIDIA GPUs.

use candle_core::{D, Result};

use super::launch;
use crate::backend::{
    Activation,
    cuda::{element, run_binary, run_unary},
    launch::{ElementType, Launch},
};

/// A kernel `(x, y, length)`, on values of any shape.
fn of_each(x: &Activation, launch: fn(ElementType, u64) -> Launch) -> Result<Activation> {
    let length = x.elem_count() as u64;
    // SAFETY: input, output and their common length, which the launch covers.
    unsafe { run_unary(&launch(element(x)?, length), x, x.shape(), &length) }
}

pub(super) fn silu(x: &Activation) -> Result<Activation> {
    of_each(x, launch::silu)
}

pub(super) fn gelu(x: &Activation) -> Result<Activation> {
    of_each(x, launch::gelu)
}

pub(super) fn quick_gelu(x: &Activation) -> Result<Activation> {
    of_each(x, launch::quick_gelu)
}

/// Of one shape and type.
pub(super) fn swiglu(gate: &Activation, value: &Activation) -> Result<Activation> {
    let length = gate.elem_count() as u64;
    let launch = launch::swiglu(element(gate)?, length);
    // SAFETY: both inputs, output and their common length, which the launch covers.
    unsafe { run_binary(&launch, [gate, value], &length) }
}

/// `[…, 2C]` → `[…, C]`.
pub(super) fn geglu(x: &Activation) -> Result<Activation> {
    let width = x.dim(D::Minus1)? / 2;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    let rows = x.elem_count() / (2 * width).max(1);
    let (launch, sizes) = launch::geglu(element(x)?, rows as u64, width as u64);
    // SAFETY: the input has twice as many values as the output, which the sizes are of.
    unsafe { run_unary(&launch, x, shape, &sizes) }
}
