//! Convolution on NVIDIA GPUs.

use candle_core::{DType, Result};

use super::{
    Window,
    launch::{Conv2dShape, Conv2dSizes},
};
use crate::backend::{
    Activation,
    cuda::{Arg, element, ready, ready_or_none, run},
    gpu::{KernelValue, expect_type, room},
};

// SAFETY: `repr(C)`, as `Conv2dSizes` of `kernels/conv2d.cuh`: integers of 32 bits.
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
    let (_, outputs) = weight.dims2()?;
    let own_bias = bias.is_some_and(|bias| bias.rank() == 2);
    let shape = Conv2dShape {
        batch,
        height,
        width,
        channels,
        outputs,
        kernel: window.kernel,
        stride: window.stride,
        padding: window.padding,
        doubled: window.doubled.then_some(window.picture),
        own_bias,
    };
    let Some(launch) = shape.launch(element(x)?) else { return Ok(None) };
    for summand in [Some(weight), bias, other].into_iter().flatten() {
        expect_type(summand, x.dtype())?;
    }
    let expected = if own_bias { batch * outputs } else { outputs };
    if let Some(bias) = bias
        && bias.elem_count() != expected
    {
        candle_core::bail!("conv2d: {:?} is no bias of {batch} × {outputs}", bias.shape());
    }
    let (x, weight) = (ready(x)?, ready(weight)?);
    let (bias, other) = (ready_or_none(bias)?, ready_or_none(other)?);
    let (out_height, out_width) = window.output();
    let y = room(&x, (batch, out_height, out_width, outputs), x.dtype())?;
    let partial = match launch.sum {
        Some(_) => Some(room(&x, launch.workspace, DType::F32)?),
        None => None,
    };
    let (bias, other, partial) = (bias.as_ref(), other.as_ref(), partial.as_ref());
    let sizes = &launch.sizes;
    let args = [
        (&x).into(),
        (&weight).into(),
        bias.into(),
        other.into(),
        (&y).into(),
        partial.into(),
        Arg::Value(sizes),
    ];
    // SAFETY: the shape is that of the tensors, and the workspace as large as the launch says.
    unsafe { run(&launch.conv, &args)? };
    if let Some(sum) = &launch.sum {
        let args = [partial.into(), bias.into(), other.into(), (&y).into(), Arg::Value(sizes)];
        // SAFETY: the kernel before has filled the workspace.
        unsafe { run(sum, &args)? };
    }
    Ok(Some(y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Placement, Trace, launch::ElementType};

    const WINDOW: Window =
        Window { kernel: 3, stride: 1, padding: 1, doubled: false, picture: (16, 16) };

    #[test]
    fn a_trace_counts_the_workspace_of_the_launch_and_what_lies_across() {
        let trace = Trace::new(Placement::Cuda);
        let x = trace.activation((2, 16, 640, 16), DType::BF16).transpose(2, 3).unwrap();
        let x = x.narrow(2, 0, 16).unwrap();
        let weight = trace.activation((9 * 640, 320), DType::BF16);
        let shape = Conv2dShape {
            batch: 2,
            height: 16,
            width: 16,
            channels: 640,
            outputs: 320,
            kernel: 3,
            stride: 1,
            padding: 1,
            doubled: None,
            own_bias: false,
        };
        let launch = shape.launch(ElementType::Bf16).unwrap();
        assert!(launch.workspace > 0);
        let before = trace.live();
        let y = conv2d(&x, &weight, None, None, WINDOW).unwrap().unwrap();
        let (copy, output) = (x.elem_count() * 2, 2 * 16 * 16 * 320 * 2);
        assert_eq!(trace.peak() - before, copy + output + 4 * launch.workspace);
        assert_eq!(trace.live() - before, y.bytes());
    }

    #[test]
    fn a_summand_of_another_type_or_size_is_refused() {
        let trace = Trace::new(Placement::Cuda);
        let x = trace.activation((1, 16, 16, 8), DType::BF16);
        let weight = trace.activation((72, 24), DType::BF16);
        let of = |bias: &[usize], dtype| {
            let bias = trace.activation(bias, dtype);
            conv2d(&x, &weight, Some(&bias), None, WINDOW).is_ok()
        };
        assert!(of(&[24], DType::BF16) && of(&[1, 24], DType::BF16));
        assert!(!of(&[24], DType::F32) && !of(&[23], DType::BF16) && !of(&[2, 24], DType::BF16));
    }
}
