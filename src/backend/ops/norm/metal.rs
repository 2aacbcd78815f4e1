//! Normalizations on Apple GPUs. Statistics are f32, and so are weights and biases but those of root-mean-square norms.

use candle_core::{D, DType, Result, Tensor};

use super::{
    launch::statistics,
    launch_metal::{self as launch, GroupNormLaunch, GroupNormSizes, RowNormSizes},
};
use crate::backend::{
    Activation,
    gpu::{KernelValue, expect_type},
    metal::{are_aligned, compute, element},
};

// SAFETY: `repr(C)`, as `GroupNormSizes` of `kernels/norm.metal`: numbers of 32 bits.
unsafe impl KernelValue for GroupNormSizes {}
// SAFETY: `repr(C)`, as `RowNormSizes` of `kernels/norm.metal`: numbers of 32 bits.
unsafe impl KernelValue for RowNormSizes {}

/// `x` `[B, …, C]` contiguous, and its launches.
fn launches(
    x: &Activation,
    groups: usize,
    eps: f64,
    then_silu: bool,
) -> Result<(Activation, GroupNormLaunch)> {
    let (samples, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
    let positions = x.elem_count() / (samples * channels).max(1);
    let shape = (samples as u32, positions as u32, channels as u32);
    let aligned = are_aligned(&[x]);
    let launch = GroupNormLaunch::new(element(x)?, shape, groups as u32, eps, then_silu, aligned);
    Ok((x.contiguous()?, launch))
}

/// `[B·groups, 4]`: base, mean less the base, 1/√(variance + ε) and variance of each group of each sample.
fn measured(x: &Activation, launch: &GroupNormLaunch) -> Result<Activation> {
    let GroupNormLaunch { moments, merge, sizes, partial_len, statistics_len, .. } = launch;
    // SAFETY: the sizes are those of `x`, and the launch says how many pairs it writes.
    let partial = unsafe { compute(moments, x, &[], ((*partial_len, 2), DType::F32), sizes)? };
    let output = ((*statistics_len, 4), DType::F32);
    // SAFETY: as above, and the launch says how many rows it writes.
    unsafe { compute(merge, x, &[&partial], output, sizes) }
}

/// `x` normalized by such rows of statistics; weight and bias `[C]` in f32.
fn apply(
    x: &Activation,
    launch: &GroupNormLaunch,
    statistics: &Activation,
    [weight, bias]: [&Tensor; 2],
) -> Result<Activation> {
    let (weight, bias) = (weight.contiguous()?.into(), bias.contiguous()?.into());
    let others = [statistics, &weight, &bias];
    // SAFETY: sizes and statistics are those of `x`, which has as many channels as the norm.
    unsafe { compute(&launch.apply, x, &others, (x.shape(), x.dtype()), &launch.sizes) }
}

/// `[B, …, C]` normalized over all positions of each group of channels.
pub(super) fn group_norm(
    x: &Activation,
    parameters: [&Tensor; 2],
    groups: usize,
    eps: f64,
    then_silu: bool,
) -> Result<Activation> {
    let (x, launch) = launches(x, groups, eps, then_silu)?;
    apply(&x, &launch, &measured(&x, &launch)?, parameters)
}

/// [`group_norm`] by moments that were taken elsewhere: mean and variance of each group.
pub(super) fn group_norm_with(
    x: &Activation,
    parameters: [&Tensor; 2],
    moments: impl ExactSizeIterator<Item = (f64, f64)>,
    eps: f64,
    then_silu: bool,
) -> Result<Activation> {
    let groups = moments.len();
    let (x, launch) = launches(x, groups, eps, then_silu)?;
    let shape = (groups, 4);
    let statistics = Activation::make(x.trace(), shape, DType::F32, || {
        let rows: Vec<f32> =
            moments.flat_map(|(mean, variance)| statistics(mean, variance, eps)).collect();
        Tensor::from_vec(rows, shape, x.tensor()?.device())
    })?;
    apply(&x, &launch.with_shared_statistics(), &statistics, parameters)
}

/// Statistics of each sample of `[B, …, C]` and each group, `[B, groups, 4]`: the mean is the sum of the first two, the
/// last is the variance.
pub(super) fn group_statistics(x: &Activation, groups: usize) -> Result<Activation> {
    let samples = x.dim(0)?;
    let (x, launch) = launches(x, groups, 0.0, false)?;
    measured(&x, &launch)?.reshape((samples, groups, 4))
}

/// Weight and bias `[C]` in f32.
pub(super) fn layer_norm(
    x: &Activation,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Activation> {
    let width = x.dim(D::Minus1)?;
    let rows = x.elem_count() / width.max(1);
    let (weight, bias) = (weight.into(), bias.into());
    let aligned = are_aligned(&[x, &weight, &bias]);
    let (launch, sizes) = launch::layer_norm(element(x)?, rows as u32, width as u32, eps, aligned);
    let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    // SAFETY: the sizes are those of `x`, and weight and bias are as wide as a row.
    unsafe { compute(&launch, &x, &[&weight, &bias], (x.shape(), x.dtype()), &sizes) }
}

/// Weight `[C]`.
pub(super) fn rms_norm(x: &Activation, weight: &Tensor, eps: f64) -> Result<Activation> {
    let width = x.dim(D::Minus1)?;
    let rows = x.elem_count() / width.max(1);
    let weight = weight.into();
    expect_type(&weight, x.dtype())?;
    let aligned = are_aligned(&[x, &weight]);
    let (launch, sizes) = launch::rms_norm(element(x)?, rows as u32, width as u32, eps, aligned);
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    // SAFETY: the sizes are those of `x`, and the weight is as wide as a row.
    unsafe { compute(&launch, &x, &[&weight], (x.shape(), x.dtype()), &sizes) }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::backend::{Placement, Trace};

    #[test]
    fn a_trace_counts_moments_and_statistics_as_the_launch_has_them() {
        let trace = Trace::new(Placement::Metal);
        let x = trace.activation((2, 100, 100, 320), DType::F16);
        let parameters = Tensor::ones(320, DType::F32, &Device::Cpu).unwrap();
        let (_, launch) = launches(&x, 32, 1e-5, true).unwrap();
        let (partial, statistics) = (8 * launch.partial_len, 16 * launch.statistics_len);
        let pieces = launch.sizes.pieces as usize;
        assert_eq!((partial, statistics), (8 * 2 * pieces * 320, 16 * 2 * 32));
        let before = trace.live();
        let y = group_norm(&x, [&parameters; 2], 32, 1e-5, true).unwrap();
        let [partial, statistics, output] =
            [partial, statistics, y.bytes()].map(|bytes| Placement::Metal.buffer(bytes));
        // The moments of pieces are gone before the output is there.
        let most = (partial + statistics).max(statistics + output);
        assert_eq!(trace.peak() - before, most);
        let before = trace.live();
        let measured = group_statistics(&x, 32).unwrap();
        assert_eq!((measured.dims(), trace.live() - before), (&[2, 32, 4][..], statistics));
    }

    #[test]
    fn a_weight_of_another_type_is_refused() {
        let x = Trace::new(Placement::Metal).activation((2, 320), DType::F16);
        let weight = |dtype| Tensor::ones(320, dtype, &Device::Cpu).unwrap();
        assert!(rms_norm(&x, &weight(DType::F16), 1e-5).is_ok());
        assert!(rms_norm(&x, &weight(DType::F32), 1e-5).is_err());
    }
}
