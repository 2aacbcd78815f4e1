//! Pointwise non-linearities. GELU is the exact erf form everywhere (`torch.nn.functional.gelu`'s
//! default), never the tanh approximation.

use candle_core::{D, Result, Tensor};

use super::cpu;

/// `x·σ(x)` (`torch.nn.functional.silu`), any shape.
///
/// # Errors
/// Those of the backend.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if cpu::takes(x) {
        return cpu::silu(x);
    }
    x.silu()
}

/// `x·Φ(x)` by erf (`torch.nn.functional.gelu`), any shape.
///
/// # Errors
/// Those of the backend.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if cpu::takes(x) {
        return cpu::gelu(x);
    }
    x.gelu_erf()
}

/// `x·σ(1.702·x)` (transformers' `quick_gelu`, the activation of CLIP ViT-L), any shape.
///
/// # Errors
/// Those of the backend.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if cpu::takes(x) {
        return cpu::quick_gelu(x);
    }
    x * candle_nn::ops::sigmoid(&(x * 1.702)?)?
}

/// Splits `[…, 2C]` into value and gate halves and returns `value·gelu(gate)`, `[…, C]`
/// (diffusers' `GEGLU`, after its projection).
///
/// # Errors
/// A last dimension that is odd, or those of the backend.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if !width.is_multiple_of(2) {
        candle_core::bail!("geglu: the last dimension of {:?} is odd", x.shape());
    }
    if cpu::takes(x) {
        return cpu::geglu(x);
    }
    let value = x.narrow(D::Minus1, 0, width / 2)?;
    let gate = x.narrow(D::Minus1, width / 2, width / 2)?;
    value * gate.contiguous()?.gelu_erf()?
}

/// `silu(gate)·value`, of one shape (the activation of LLaMA's feed-forward layer).
///
/// # Errors
/// Different shapes, or those of the backend.
pub fn swiglu(gate: &Tensor, value: &Tensor) -> Result<Tensor> {
    if cpu::takes(gate) && cpu::takes(value) {
        return cpu::swiglu(gate, value);
    }
    gate.silu()? * value
}
