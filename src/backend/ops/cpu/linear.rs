//! Dense layers: the rows are the input's own.

use candle_core::{D, Device, Result, Tensor};

use super::{
    panels::Right,
    product::{Plain, product},
    with_summands,
};

/// `[B, …, in]·weight + bias + other` → `[B, …, out]`. The bias is `[out]` or `[B, out]`, `other` of
/// the output's shape.
pub(in super::super) fn linear(
    x: &Tensor,
    weight: Right,
    bias: Option<&Tensor>,
    other: Option<&Tensor>,
) -> Result<Tensor> {
    let (inner, columns) = weight.dims();
    if x.dim(D::Minus1)? != inner {
        candle_core::bail!("linear: {:?} for a weight of [{columns}, {inner}]", x.shape());
    }
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    let rows = x.elem_count() / inner;
    let samples = if x.rank() > 1 { x.dim(0)? } else { 1 };
    if other.is_some_and(|other| other.dims() != shape) {
        candle_core::bail!("linear: {:?} cannot be added to {shape:?}", other.map(Tensor::shape));
    }
    let y = with_summands(&x.contiguous()?, bias, other, (samples, columns), |x, summands| {
        product(&Plain { values: x, inner }, rows, samples, weight, summands)
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}
