//! Dense layers over the last dimension.

use candle_core::{D, DType, Module as _, Result, Tensor};

use super::{
    Products, cpu,
    weight::{Kept, Weight},
};
use crate::backend::Params;

/// `y = x·W + b` over the last dimension. A weight in the working precision is laid out once at
/// load, so that a call is one matrix product over all rows; a weight that is kept as stored is
/// unpacked block by block within the product.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

impl Linear {
    /// From a weight in checkpoint layout, `[out, in]`, and a bias `[out]`.
    ///
    /// # Errors
    /// A weight that is not a matrix.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        Self::from_weight(Weight::dense(weight, Products::F32)?, bias)
    }

    /// From a weight that is kept in any way, and a bias `[out]`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn from_weight(weight: Weight, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { weight, bias: bias.map(|bias| bias.contiguous()).transpose()? })
    }

    /// Reads `weight` and `bias` below `vb` (`torch.nn.Linear`).
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(input: usize, output: usize, vb: &Params) -> Result<Self> {
        Self::from_weight(vb.matrix((output, input), "weight")?, Some(vb.get(output, "bias")?))
    }

    /// Reads `weight` alone below `vb` (`torch.nn.Linear(bias=False)`).
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load_no_bias(input: usize, output: usize, vb: &Params) -> Result<Self> {
        Self::from_weight(vb.matrix((output, input), "weight")?, None)
    }

    /// Outputs and inputs.
    ///
    /// # Errors
    /// Those of [`Weight::dims`].
    pub fn dims(&self) -> Result<(usize, usize)> {
        self.weight.dims()
    }

    /// `[…, in]` → `[…, out]`.
    ///
    /// # Errors
    /// A last dimension other than `in`, or those of the backend.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.affine(x, None)
    }

    /// `forward(x) + other`, of which `other` has the output's shape: a residual connection.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or another shape.
    pub fn forward_add(&self, x: &Tensor, other: &Tensor) -> Result<Tensor> {
        self.affine(x, Some(other))
    }

    /// `x·W + b + other`
    fn affine(&self, x: &Tensor, other: Option<&Tensor>) -> Result<Tensor> {
        let bias = self.bias.as_ref();
        let y = match self.weight.kept() {
            Kept::Panels(weight) if cpu::takes(x) => {
                return cpu::linear(x, cpu::Right::Panels(weight), bias, other);
            }
            Kept::Packed(weight, products) if cpu::takes(x) => {
                let weight = cpu::Right::stored(weight, *products)?;
                return cpu::linear(x, weight, bias, other);
            }
            Kept::Panels(_) | Kept::Narrow(_) | Kept::Packed(..) => {
                candle_core::bail!("linear: a weight for f32 on the CPU, not for {:?}", x.dtype())
            }
            Kept::Dense(weight) => self.by_rows(x, |x| x.matmul(weight)),
            // candle's kernels for quantized weights take and give f32.
            Kept::OnDevice { weight, .. } => {
                self.by_rows(x, |x| weight.forward(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype()))
            }
        }?;
        match other {
            Some(other) => y + other,
            None => Ok(y),
        }
    }

    /// The composed form: one matrix of all rows through `product`, because candle would run one
    /// product per batch element.
    fn by_rows(
        &self,
        x: &Tensor,
        product: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (output, input) = self.weight.dims()?;
        let mut shape = x.dims().to_vec();
        let rows = x.elem_count() / x.dim(D::Minus1)?.max(1);
        let y = product(&x.contiguous()?.reshape((rows, input))?)?;
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
