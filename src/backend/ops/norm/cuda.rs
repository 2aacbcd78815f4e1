//! Normalizations on NVIDIA GPUs. Statistics, weights and biases are f32.

use candle_core::{D, DType, Result, Tensor};

use super::launch::{self, GroupNormLaunch, GroupNormSizes, RowNormSizes};
use crate::backend::{
    Activation,
    cuda::{Arg, element, ready, run},
    gpu::{KernelValue, room},
    launch::{ElementType, Launch},
};

// SAFETY: `repr(C)`, as `GroupNormSizes` of `kernels/norm.cu`, without gaps.
unsafe impl KernelValue for GroupNormSizes {}
// SAFETY: `repr(C)`, as `RowNormSizes` of `kernels/norm.cu`, without gaps.
unsafe impl KernelValue for RowNormSizes {}

/// The launches for `x` `[B, …, C]`, which is ready; `None` if it is larger than the kernels count.
fn launches(
    x: &Activation,
    groups: usize,
    eps: f64,
    then_silu: bool,
) -> Result<Option<GroupNormLaunch>> {
    let (samples, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
    let positions = x.elem_count() / (samples * channels).max(1);
    let (Ok(samples), Ok(channels)) = (u16::try_from(samples), u32::try_from(channels)) else {
        return Ok(None);
    };
    let shape = (samples.into(), positions as u64, channels);
    let element = element(x)?;
    Ok(Some(GroupNormLaunch::new(element, shape, groups as u32, eps, then_silu, true)))
}

/// Moments of each channel over pieces of samples.
fn partial(x: &Activation, launch: &GroupNormLaunch) -> Result<Activation> {
    let partial = room(x, (launch.partial_len(), 2), DType::F32)?;
    // SAFETY: the sizes are those of `x`, and the launch says how many pairs it writes.
    unsafe {
        run(&launch.moments, &[x.into(), (&partial).into(), Arg::Value(&launch.sizes)])?;
    }
    Ok(partial)
}

/// `x` `[B, …, C]` normalized by `statistics`, rows of four f32; weight and bias `[C]`.
fn apply(
    x: &Activation,
    launch: &GroupNormLaunch,
    statistics: &Activation,
    [weight, bias]: [&Tensor; 2],
) -> Result<Activation> {
    let (weight, bias) = (ready(&weight.into())?, ready(&bias.into())?);
    let y = room(x, x.shape(), x.dtype())?;
    let inputs = [x, statistics, &weight, &bias, &y].map(Arg::from);
    let args: Vec<_> = inputs.into_iter().chain([Arg::Value(&launch.sizes)]).collect();
    // SAFETY: sizes and statistics are those of `x`, which has as many channels as the norm.
    unsafe { run(&launch.apply, &args)? };
    Ok(y)
}

/// `[B, …, C]` normalized over all positions of each group of channels; `None` if no kernel counts so far.
pub(super) fn group_norm(
    x: &Activation,
    parameters: [&Tensor; 2],
    groups: usize,
    eps: f64,
    then_silu: bool,
) -> Result<Option<Activation>> {
    let Some(launch) = launches(x, groups, eps, then_silu)? else { return Ok(None) };
    let x = ready(x)?;
    let statistics = {
        let partial = partial(&x, &launch)?;
        let statistics = room(&x, (launch.statistics_len(), 4), DType::F32)?;
        let inputs = [&x, &partial, &statistics].map(Arg::from);
        let args: Vec<_> = inputs.into_iter().chain([Arg::Value(&launch.sizes)]).collect();
        // SAFETY: the launch says how many rows it writes.
        unsafe { run(&launch.merge, &args)? };
        statistics
    };
    apply(&x, &launch, &statistics, parameters).map(Some)
}

/// [`group_norm`] by moments that were taken elsewhere: mean and variance of each group.
pub(super) fn group_norm_with(
    x: &Activation,
    parameters: [&Tensor; 2],
    moments: impl ExactSizeIterator<Item = (f64, f64)>,
    eps: f64,
    then_silu: bool,
) -> Result<Option<Activation>> {
    let groups = moments.len();
    let Some(launch) = launches(x, groups, eps, then_silu)? else { return Ok(None) };
    let launch = launch.with_shared_statistics();
    let x = ready(x)?;
    let statistics = Activation::make(x.trace(), (groups, 4), DType::F32, || {
        let rows: Vec<f32> =
            moments.flat_map(|(mean, variance)| launch::statistics(mean, variance, eps)).collect();
        Tensor::from_vec(rows, (groups, 4), x.tensor()?.device())
    })?;
    apply(&x, &launch, &statistics, parameters).map(Some)
}

/// Means and then variances of the groups of `[B, …, C]` over all samples, `[2, groups]` in f64.
pub(super) fn group_moments(x: &Activation, groups: usize) -> Result<Option<Activation>> {
    let Some(launch) = launches(x, groups, 0.0, false)? else { return Ok(None) };
    let x = ready(x)?;
    let partial = partial(&x, &launch)?;
    let pooled = room(&x, (2, groups), DType::F64)?;
    let inputs = [&x, &partial, &pooled].map(Arg::from);
    let args: Vec<_> = inputs.into_iter().chain([Arg::Value(&launch.sizes)]).collect();
    // SAFETY: the kernel writes a mean and a variance for each group.
    unsafe { run(&launch.pool, &args)? };
    Ok(Some(pooled))
}

type RowNorm = fn(ElementType, u64, u32, f64, bool) -> Option<(Launch, RowNormSizes)>;

/// `[…, C]` normalized row by row; `None` if rows are longer than the kernels keep.
fn row_norm(
    x: &Activation,
    parameters: &[&Tensor],
    eps: f64,
    launch: RowNorm,
) -> Result<Option<Activation>> {
    let width = x.dim(D::Minus1)?;
    let rows = x.elem_count() / width.max(1);
    let Ok(width) = u32::try_from(width) else { return Ok(None) };
    let Some((launch, sizes)) = launch(element(x)?, rows as u64, width, eps, true) else {
        return Ok(None);
    };
    let x = ready(x)?;
    let parameters: Vec<Activation> =
        parameters.iter().map(|&values| ready(&values.into())).collect::<Result<_>>()?;
    let y = room(&x, x.shape(), x.dtype())?;
    let tensors = [&x].into_iter().chain(&parameters).chain([&y]).map(Arg::from);
    let args: Vec<_> = tensors.chain([Arg::Value(&sizes)]).collect();
    // SAFETY: the sizes are those of `x`, and parameters are as wide as a row.
    unsafe { run(&launch, &args)? };
    Ok(Some(y))
}

/// Weight and bias `[C]`.
pub(super) fn layer_norm(
    x: &Activation,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Option<Activation>> {
    row_norm(x, &[weight, bias], eps, launch::layer_norm)
}

/// Weight `[C]`.
pub(super) fn rms_norm(x: &Activation, weight: &Tensor, eps: f64) -> Result<Option<Activation>> {
    row_norm(x, &[weight], eps, launch::rms_norm)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::backend::{Placement, Trace};

    #[test]
    fn a_trace_counts_moments_and_statistics_as_the_launch_has_them() {
        let trace = Trace::new(Placement::Cuda);
        let x = trace.activation((2, 100, 100, 320), DType::BF16);
        let parameters = Tensor::ones(320, DType::F32, &Device::Cpu).unwrap();
        let launch = launches(&x, 32, 1e-5, true).unwrap().unwrap();
        let (partial, statistics) = (8 * launch.partial_len(), 16 * launch.statistics_len());
        assert_eq!((partial, statistics), (8 * 2 * 98 * 320, 16 * 2 * 32));
        let before = trace.live();
        let y = group_norm(&x, [&parameters; 2], 32, 1e-5, true).unwrap().unwrap();
        // The moments of pieces are gone before the output is there.
        let most = (partial + statistics).max(statistics + y.bytes());
        assert_eq!(trace.peak() - before, most);
        let before = trace.live();
        let pooled = group_moments(&x, 32).unwrap().unwrap();
        assert_eq!((pooled.dims(), trace.live() - before), (&[2, 32][..], 2 * 32 * 8));
    }

    #[test]
    fn what_the_kernels_do_not_count_is_left_to_others() {
        let trace = Trace::new(Placement::Cuda);
        let many = trace.activation((70_000, 1, 4), DType::F16);
        assert!(launches(&many, 2, 1e-5, false).unwrap().is_none());
        let wide = trace.activation((2, 9000), DType::F16);
        let weight = Tensor::ones(9000, DType::F32, &Device::Cpu).unwrap();
        assert!(rms_norm(&wide, &weight, 1e-5).unwrap().is_none());
    }
}
