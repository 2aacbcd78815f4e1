//! Dense layers on the CPU: the rows of the product are the input's own.

use candle_core::{Device, Result, Tensor};

use crate::backend::cpu::{
    Epilogue, Right,
    product::{Plain, product},
    with_epilogue,
};

/// `[B, …, in]·weight + bias + other` → `[B, …, out]`. The bias is `[out]` or `[B, out]`, `other` of
/// the output's shape.
pub(super) fn linear(x: &Tensor, weight: Right, epilogue: Epilogue<Tensor>) -> Result<Tensor> {
    let (inner, columns) = weight.dims();
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    let rows = x.elem_count() / inner;
    let samples = if x.rank() > 1 { x.dim(0)? } else { 1 };
    let y = with_epilogue(&x.contiguous()?, epilogue, (samples, columns), |x, epilogue| {
        product(&Plain { values: x, inner }, rows, samples, weight, epilogue)
    })?;
    Tensor::from_vec(y, shape, &Device::Cpu)
}
