//! Group and layer normalization, in f32 whatever the precision of the activations.

use candle_core::{D, DType, Result, Tensor};

use super::{cpu, silu};
use crate::backend::Params;

/// `torch.nn.GroupNorm` on channels-last activations, optionally followed by SiLU.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    /// `[C]`, f32
    pub(super) weight: Tensor,
    /// `[C]`, f32
    pub(super) bias: Tensor,
    pub(super) groups: usize,
    pub(super) eps: f64,
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
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if cpu::takes(x) {
            return self.kernel(x, false);
        }
        self.normalize(x)?.to_dtype(x.dtype())
    }

    /// [`forward`](Self::forward), then SiLU.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        if cpu::takes(x) {
            return self.kernel(x, true);
        }
        silu(&self.normalize(x)?)?.to_dtype(x.dtype())
    }

    fn kernel(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        if x.dim(D::Minus1)? != self.weight.dim(0)? {
            candle_core::bail!("group_norm: {:?}, {} channels", x.shape(), self.weight.dim(0)?);
        }
        cpu::group_norm(x, &self.weight, &self.bias, self.groups, self.eps, silu)
    }

    fn normalize(&self, x: &Tensor) -> Result<Tensor> {
        let batch = x.dim(0)?;
        let channels = x.dim(D::Minus1)?;
        let positions = x.elem_count() / (batch * channels).max(1);
        let grouped = x.to_dtype(DType::F32)?.contiguous()?.reshape((
            batch,
            positions,
            self.groups,
            channels / self.groups,
        ))?;
        let mean = |x: &Tensor| x.mean_keepdim(3)?.mean_keepdim(1);
        let centred = grouped.broadcast_sub(&mean(&grouped)?)?;
        // Once more: the first mean is rounded at the scale of the values, which may lie far from
        // zero, and the rounding would stay as an offset.
        let centred = centred.broadcast_sub(&mean(&centred)?)?;
        let variance = mean(&centred.sqr()?)?;
        centred
            .broadcast_div(&(variance + self.eps)?.sqrt()?)?
            .reshape((batch, positions, channels))?
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)?
            .reshape(x.shape())
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
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if cpu::takes(x) {
            if x.dim(D::Minus1)? != self.weight.dim(0)? {
                candle_core::bail!("layer_norm: {:?}, {} channels", x.shape(), self.weight.dim(0)?);
            }
            return cpu::layer_norm(x, &self.weight, &self.bias, self.eps);
        }
        let wide = x.to_dtype(DType::F32)?;
        let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        centred
            .broadcast_div(&(variance + self.eps)?.sqrt()?)?
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)?
            .to_dtype(x.dtype())
    }
}

/// `x/√(mean(x²) + ε)·weight` over the last dimension (transformers' `LlamaRMSNorm`).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `[C]`
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    /// Reads `weight`, `[channels]`, below `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(channels: usize, eps: f64, vb: &Params) -> Result<Self> {
        Ok(Self { weight: vb.get(channels, "weight")?, eps: eps as f32 })
    }

    /// `[…, C]` → same shape and dtype.
    ///
    /// # Errors
    /// Another channel count, or those of the backend.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // candle's kernels sum in f32, row by row.
        candle_nn::ops::rms_norm(&x.contiguous()?, &self.weight, self.eps)
    }
}
