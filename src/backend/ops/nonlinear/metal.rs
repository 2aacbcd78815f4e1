//! Non-linearities on Apple GPUs.

use candle_core::{D, Result};

use super::launch_metal as launch;
use crate::backend::{
    Activation,
    launch::Launch,
    launch_metal::{LengthSizes, MetalElement},
    metal::{are_aligned, compute, element},
};

type OfEach = fn(MetalElement, u64, bool) -> (Launch, LengthSizes);

/// A kernel of every value by itself, of any shape.
fn of_each(x: &Activation, launch: OfEach) -> Result<Activation> {
    let (launch, sizes) = launch(element(x)?, x.elem_count() as u64, are_aligned(&[x]));
    let x = x.contiguous()?;
    // SAFETY: input and output are of one length, which the launch covers.
    unsafe { compute(&launch, &x, &[], (x.shape(), x.dtype()), &sizes) }
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
    let aligned = are_aligned(&[gate, value]);
    let (launch, sizes) = launch::swiglu(element(gate)?, gate.elem_count() as u64, aligned);
    let (gate, value) = (gate.contiguous()?, value.contiguous()?);
    // SAFETY: both inputs and the output are of one length, which the launch covers.
    unsafe { compute(&launch, &gate, &[&value], (gate.shape(), gate.dtype()), &sizes) }
}

/// `[…, 2C]` → `[…, C]`.
pub(super) fn geglu(x: &Activation) -> Result<Activation> {
    let width = x.dim(D::Minus1)? / 2;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    let rows = x.elem_count() / (2 * width).max(1);
    let (launch, sizes) = launch::geglu(element(x)?, rows as u32, width as u32, are_aligned(&[x]));
    let x = x.contiguous()?;
    // SAFETY: the input has twice as many values as the output, which the sizes are of.
    unsafe { compute(&launch, &x, &[], (shape, x.dtype()), &sizes) }
}
