//! Sums on NVIDIA GPUs.

use candle_core::Result;

use super::launch;
use crate::backend::{
    Activation,
    cuda::{Arg, element, ready, ready_or_none, run, run_binary},
    gpu::{expect_type, room},
};

/// Of one shape and type.
pub(super) fn add(a: &Activation, b: &Activation) -> Result<Activation> {
    let length = a.elem_count() as u64;
    // SAFETY: both inputs, output and their common length, which the launch covers.
    unsafe { run_binary(&launch::add(element(a)?, length), [a, b], &length) }
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
    let (y, bias, other) = (ready(y)?, ready(bias)?, ready_or_none(other)?);
    let sum = room(&y, y.shape(), y.dtype())?;
    let (launch, sizes) = launch::add_bias(element(&y)?, rows as u64, width as u64);
    let args =
        [(&y).into(), (&bias).into(), other.as_ref().into(), (&sum).into(), Arg::Value(&sizes)];
    // SAFETY: rows of one width, a bias as wide, and a sum like the rows.
    unsafe { run(&launch, &args)? };
    Ok(sum)
}
