//! Sums on Apple GPUs.

use candle_core::Result;

use super::launch_metal as launch;
use crate::backend::{
    Activation,
    gpu::expect_type,
    metal::{are_aligned, compute, element},
};

/// Of one shape and type.
pub(super) fn add(a: &Activation, b: &Activation) -> Result<Activation> {
    let aligned = are_aligned(&[a, b]);
    let (launch, sizes) = launch::add(element(a)?, a.elem_count() as u64, aligned);
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    // SAFETY: both inputs and the output are of one length, which the launch covers.
    unsafe { compute(&launch, &a, &[&b], (a.shape(), a.dtype()), &sizes) }
}

/// `[…, C]` + `[C]` + `[…, C]`.
pub(super) fn add_bias(
    y: &Activation,
    bias: &Activation,
    other: Option<&Activation>,
) -> Result<Activation> {
    let width = bias.elem_count();
    let rows = y.elem_count() / width.max(1);
    for summand in [Some(bias), other].into_iter().flatten() {
        expect_type(summand, y.dtype())?;
    }
    if y.dims().last() != Some(&width) || other.is_some_and(|other| other.dims() != y.dims()) {
        candle_core::bail!("add_bias: {:?} and a bias of {width}", y.shape());
    }
    let rows = rows as u32;
    let aligned = are_aligned(&[y, bias, other.unwrap_or(y)]);
    let size = (rows, width as u32);
    let (launch, sizes) = launch::add_bias(element(y)?, size, rows, other.is_some(), aligned);
    let (y, bias) = (y.contiguous()?, bias.contiguous()?);
    let other = other.map(Activation::contiguous).transpose()?;
    // What is not added is not read.
    let others = [&bias, other.as_ref().unwrap_or(&y)];
    // SAFETY: rows of one width, a bias as wide, and a sum like the rows.
    unsafe { compute(&launch, &y, &others, (y.shape(), y.dtype()), &sizes) }
}
