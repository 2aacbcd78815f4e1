//! Dense layers over the last dimension.

use candle_core::{D, Result, Tensor};

use super::cpu;
use crate::backend::Params;

/// `y = x·W + b` over the last dimension. The weight is laid out `[in, out]` once at load, so that
/// a call is one matrix product over all rows.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[in, out]`
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// From a weight in checkpoint layout, `[out, in]`, and a bias `[out]`.
    ///
    /// # Errors
    /// A weight that is not a matrix.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        let bias = bias.map(|bias| bias.contiguous()).transpose()?;
        Ok(Self { weight: weight.t()?.contiguous()?, bias })
    }

    /// Reads `weight` and `bias` below `vb` (`torch.nn.Linear`).
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(input: usize, output: usize, vb: &Params) -> Result<Self> {
        Self::new(&vb.get((output, input), "weight")?, Some(vb.get(output, "bias")?))
    }

    /// Reads `weight` alone below `vb` (`torch.nn.Linear(bias=False)`).
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load_no_bias(input: usize, output: usize, vb: &Params) -> Result<Self> {
        Self::new(&vb.get((output, input), "weight")?, None)
    }

    /// `[…, in]` → `[…, out]`.
    ///
    /// # Errors
    /// A last dimension other than `in`, or those of the backend.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if cpu::takes(x) && cpu::takes(&self.weight) {
            return cpu::linear(x, &self.weight, self.bias.as_ref());
        }
        let (input, output) = self.weight.dims2()?;
        let mut shape = x.dims().to_vec();
        let rows = x.elem_count() / x.dim(D::Minus1)?.max(1);
        // One matrix of all rows: candle would otherwise run one product per batch element.
        let y = x.contiguous()?.reshape((rows, input))?.matmul(&self.weight)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        if let Some(last) = shape.last_mut() {
            *last = output;
        }
        y.reshape(shape)
    }
}
