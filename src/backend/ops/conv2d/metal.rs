//! Convolution on Apple GPUs.

use candle_core::Result;

use super::{
    Window,
    launch_metal::{self as launch, Bias, Conv2dForm, Conv2dShape, Conv2dSizes},
};
use crate::backend::{
    Activation,
    gpu::{KernelValue, expect_type},
    metal::{are_aligned, compute, element, has_matrices, is_counted},
};

// SAFETY: `repr(C)`, as `Conv2dSizes` of `kernels/conv2d.metal`: integers of 32 bits.
unsafe impl KernelValue for Conv2dSizes {}

/// `x` `[B, H, W, C]` with `weight` `[k·k·C, O]`, plus a bias `[O]` or `[B, O]`, plus what has the output's shape; `None` if
/// it is larger than the kernels count.
pub(super) fn conv2d(
    x: &Activation,
    weight: &Activation,
    bias: Option<&Activation>,
    other: Option<&Activation>,
    window: Window,
) -> Result<Option<Activation>> {
    let (batch, height, width, channels) = x.dims4()?;
    let (inner, outputs) = weight.dims2()?;
    let (out_height, out_width) = window.output();
    if ![inner, outputs, out_height * out_width].into_iter().all(is_counted) {
        return Ok(None);
    }
    for summand in [Some(weight), bias, other].into_iter().flatten() {
        expect_type(summand, x.dtype())?;
    }
    let (bias_form, expected) = match bias {
        None => (Bias::None, 0),
        Some(bias) if bias.rank() == 2 => (Bias::OfSample, batch * outputs),
        Some(_) => (Bias::OfLayer, outputs),
    };
    if let Some(bias) = bias
        && bias.elem_count() != expected
    {
        candle_core::bail!("conv2d: {:?} is no bias of {batch} × {outputs}", bias.shape());
    }
    let pair = |(height, width): (usize, usize)| (height as u32, width as u32);
    let shape = Conv2dShape {
        batch: batch as u32,
        size: pair((height, width)),
        channels: channels as u32,
        outputs: outputs as u32,
        side: window.kernel as u32,
        stride: window.stride as u32,
        padding: window.padding as u32,
        doubled: window.doubled.then(|| pair(window.picture)),
        bias: bias_form,
        other: other.is_some(),
    };
    let form = if has_matrices(x) { Conv2dForm::Matrices } else { Conv2dForm::Plain };
    let aligned = are_aligned(&[x, weight, bias.unwrap_or(x), other.unwrap_or(x)]);
    let (launch, sizes) = launch::conv2d(element(x)?, form, &shape, aligned);
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let [bias, other] = [bias, other].map(|summand| summand.map(Activation::contiguous));
    let (bias, other) = (bias.transpose()?, other.transpose()?);
    // What is not added is not read.
    let others = [&weight, bias.as_ref().unwrap_or(&x), other.as_ref().unwrap_or(&x)];
    let output = (batch, out_height, out_width, outputs);
    // SAFETY: the shape is that of the tensors.
    unsafe { compute(&launch, &x, &others, (output, x.dtype()), &sizes) }.map(Some)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::backend::{Placement, Trace};

    const WINDOW: Window =
        Window { kernel: 3, stride: 1, padding: 1, doubled: false, picture: (16, 16) };

    #[test]
    fn a_trace_counts_the_output_and_what_lies_across() {
        let trace = Trace::new(Placement::Metal);
        let x = trace.activation((2, 16, 64, 16), DType::F16).transpose(2, 3).unwrap();
        let weight = trace.activation((9 * 64, 24), DType::F16);
        let other = trace.activation((2, 16, 16, 24), DType::F16);
        let before = trace.live();
        let y = conv2d(&x, &weight, None, Some(&other), WINDOW).unwrap().unwrap();
        assert_eq!(y.dims(), [2, 16, 16, 24]);
        let output = Placement::Metal.buffer(y.bytes());
        assert_eq!(trace.peak() - before, Placement::Metal.buffer(x.bytes()) + output);
        assert_eq!(trace.live() - before, output);
    }

    #[test]
    fn a_summand_of_another_type_or_size_is_refused() {
        let trace = Trace::new(Placement::Metal);
        let x = trace.activation((1, 16, 16, 8), DType::F16);
        let weight = trace.activation((72, 24), DType::F16);
        let of = |bias: &[usize], dtype| {
            let bias = trace.activation(bias, dtype);
            conv2d(&x, &weight, Some(&bias), None, WINDOW).is_ok()
        };
        assert!(of(&[24], DType::F16) && of(&[1, 24], DType::F16));
        assert!(!of(&[24], DType::F32) && !of(&[23], DType::F16) && !of(&[2, 24], DType::F16));
    }
}
