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
