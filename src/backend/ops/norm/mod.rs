//! Group, layer and root-mean-square normalization, in f32 whatever the precision of the activations.

mod cpu;
mod cuda;
mod launch;
mod launch_metal;
mod metal;
mod moments;

use candle_core::{D, DType, Result, Tensor};

use super::{OpForm, form, plain_cost, silu};
use crate::backend::{Activation, Operation, Params};
pub use moments::GroupMoments;

/// `torch.nn.GroupNorm` on channels-last activations, optionally followed by SiLU.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    /// `[C]`, f32
    weight: Tensor,
    /// `[C]`, f32
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Reads `weight` and `bias`, `[channels]`, below `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape, or groups that do not divide the channels.
    pub fn load(groups: usize, channels: usize, eps: f64, vb: &Params) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            candle_core::bail!(
                "{}: {groups} norm groups do not divide {channels} channels",
                vb.prefix()
            );
        }
        Ok(Self {
            weight: vb.get(channels, "weight")?.to_dtype(DType::F32)?,
            bias: vb.get(channels, "bias")?.to_dtype(DType::F32)?,
            groups,
            eps,
        })
    }

    /// `[B, …, C]` → same shape and dtype; mean and variance over all positions of a group.
    ///
    /// # Errors
    /// Another channel count, or those of the backend.
    pub fn forward(&self, x: &Activation) -> Result<Activation> {
        self.compute(x, false)
    }

    /// [`forward`](Self::forward), then SiLU.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_silu(&self, x: &Activation) -> Result<Activation> {
        self.compute(x, true)
    }

    fn compute(&self, x: &Activation, then_silu: bool) -> Result<Activation> {
        let channels = self.checked_channels(x)?;
        let form = form(Operation::GroupNorm, [x]);
        let parameters = [&self.weight, &self.bias];
        if let OpForm::Cuda = form
            && let Some(y) = cuda::group_norm(x, parameters, self.groups, self.eps, then_silu)?
        {
            return Ok(y);
        }
        match form {
            OpForm::Cpu => {
                let (x, weight, bias) = (x.tensor()?, &self.weight, &self.bias);
                cpu::group_norm(x, weight, bias, self.groups, self.eps, then_silu)
                    .map(Activation::from)
            }
            OpForm::CpuCost(trace) => {
                let batch = x.dim(0)?;
                let sample = x.elem_count() / batch.max(1);
                // Sums of all pieces, and what follows from them, are there with input and output.
                let _sums = trace.hold(batch * cpu::group_norm_bytes(sample, channels));
                plain_cost(trace, &[x], x.shape())
            }
            OpForm::Metal => metal::group_norm(x, parameters, self.groups, self.eps, then_silu),
            OpForm::Cuda | OpForm::Composed if then_silu => {
                silu(&self.composed(x)?)?.to_dtype(x.dtype())
            }
            OpForm::Cuda | OpForm::Composed => self.composed(x)?.to_dtype(x.dtype()),
        }
    }

    /// The composed form, in f32.
    fn composed(&self, x: &Activation) -> Result<Activation> {
        let batch = x.dim(0)?;
        let channels = x.dim(D::Minus1)?;
        let positions = x.elem_count() / (batch * channels).max(1);
        let grouped = x.to_dtype(DType::F32)?.contiguous()?.reshape((
            batch,
            positions,
            self.groups,
            channels / self.groups,
        ))?;
        let mean = |x: &Activation| x.mean_keepdim(3)?.mean_keepdim(1);
        let centred = grouped.broadcast_sub(&mean(&grouped)?)?;
        drop(grouped);
        // Once more: the first mean is rounded at the scale of the values, which may lie far from
        // zero, and the rounding would stay as an offset.
        let centred = centred.broadcast_sub(&mean(&centred)?)?;
        let variance = mean(&centred.sqr()?)?;
        let y = centred.broadcast_div(&variance.affine(1.0, self.eps)?.sqrt()?)?;
        drop(centred);
        let y = y.reshape((batch, positions, channels))?.broadcast_mul(&(&self.weight).into())?;
        y.broadcast_add(&(&self.bias).into())?.reshape(x.shape())
    }

    /// The channels of `x`, which are those of the norm.
    fn checked_channels(&self, x: &Activation) -> Result<usize> {
        let channels = x.dim(D::Minus1)?;
        if channels != self.weight.dim(0)? {
            candle_core::bail!("group_norm: {:?}, {} channels", x.shape(), self.weight.dim(0)?);
        }
        Ok(channels)
    }
}

/// `torch.nn.LayerNorm` over the last dimension.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Reads `weight` and `bias`, `[channels]`, below `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(channels: usize, eps: f64, vb: &Params) -> Result<Self> {
        Ok(Self {
            weight: vb.get(channels, "weight")?.to_dtype(DType::F32)?,
            bias: vb.get(channels, "bias")?.to_dtype(DType::F32)?,
            eps,
        })
    }

    /// `[…, C]` → same shape and dtype.
    ///
    /// # Errors
    /// Another channel count, or those of the backend.
    pub fn forward(&self, x: &Activation) -> Result<Activation> {
        if x.dim(D::Minus1)? != self.weight.dim(0)? {
            candle_core::bail!("layer_norm: {:?}, {} channels", x.shape(), self.weight.dim(0)?);
        }
        let form = form(Operation::LayerNorm, [x]);
        if let OpForm::Cuda = form
            && let Some(y) = cuda::layer_norm(x, &self.weight, &self.bias, self.eps)?
        {
            return Ok(y);
        }
        match form {
            OpForm::Cpu => cpu::layer_norm(x.tensor()?, &self.weight, &self.bias, self.eps)
                .map(Activation::from),
            OpForm::CpuCost(trace) => plain_cost(trace, &[x], x.shape()),
            OpForm::Metal => metal::layer_norm(x, &self.weight, &self.bias, self.eps),
            OpForm::Cuda | OpForm::Composed => self.composed(x),
        }
    }

    fn composed(&self, x: &Activation) -> Result<Activation> {
        let y = standardized(x, self.eps)?.broadcast_mul(&(&self.weight).into())?;
        y.broadcast_add(&(&self.bias).into())?.to_dtype(x.dtype())
    }
}

/// `(x − mean)/√(variance + ε)` over the last dimension, composed, in f32.
fn standardized(x: &Activation, eps: f64) -> Result<Activation> {
    let wide = x.to_dtype(DType::F32)?;
    let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    drop(wide);
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&variance.affine(1.0, eps)?.sqrt()?)
}

/// Layer normalization without weights, then `y·(1 + scale) + shift` with numbers of each sample (adaLN of
/// diffusion transformers): `[B, N, C]` with `[B, C]` → same shape and dtype. GPUs compose it.
///
/// # Errors
/// Shapes that do not go together, or those of the backend.
pub fn modulated_norm(
    x: &Activation,
    scale: &Activation,
    shift: &Activation,
    eps: f64,
) -> Result<Activation> {
    let (batch, _, channels) = x.dims3()?;
    if scale.dims() != [batch, channels] || shift.dims() != scale.dims() {
        candle_core::bail!(
            "modulated_norm: {:?}, scales of {:?}, shifts of {:?}",
            x.shape(),
            scale.shape(),
            shift.shape()
        );
    }
    let scale = scale.to_dtype(DType::F32)?.affine(1.0, 1.0)?;
    let shift = shift.to_dtype(DType::F32)?.contiguous()?;
    match form(Operation::LayerNorm, [x]) {
        OpForm::Cpu => cpu::layer_norm(x.tensor()?, scale.tensor()?, shift.tensor()?, eps)
            .map(Activation::from),
        OpForm::CpuCost(trace) => plain_cost(trace, &[x], x.shape()),
        OpForm::Cuda | OpForm::Metal | OpForm::Composed => {
            let y = standardized(x, eps)?.broadcast_mul(&scale.unsqueeze(1)?)?;
            y.broadcast_add(&shift.unsqueeze(1)?)?.to_dtype(x.dtype())
        }
    }
}

/// `x/√(mean(x²) + ε)·weight` over the last dimension (transformers' `LlamaRMSNorm`).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `[C]`
    weight: Tensor,
    /// the same in f32, as our kernel for CUDA takes it
    wide_weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Reads `weight`, `[channels]`, below `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(channels: usize, eps: f64, vb: &Params) -> Result<Self> {
        let weight = vb.get(channels, "weight")?;
        Ok(Self { wide_weight: weight.to_dtype(DType::F32)?, weight, eps })
    }

    /// `[…, C]` → same shape and dtype.
    ///
    /// # Errors
    /// Another channel count, or those of the backend.
    pub fn forward(&self, x: &Activation) -> Result<Activation> {
        if x.dim(D::Minus1)? != self.weight.dim(0)? {
            candle_core::bail!("rms_norm: {:?}, {} channels", x.shape(), self.weight.dim(0)?);
        }
        let own = match form(Operation::RmsNorm, [x]) {
            OpForm::Cuda => cuda::rms_norm(x, &self.wide_weight, self.eps)?,
            OpForm::Metal => Some(metal::rms_norm(x, &self.weight, self.eps)?),
            _ => None,
        };
        if let Some(y) = own {
            return Ok(y);
        }
        // candle's kernels sum in f32, row by row.
        let norm = |x: &Tensor| candle_nn::ops::rms_norm(x, &self.weight, self.eps as f32);
        x.contiguous()?.apply(x.shape(), norm)
    }
}
