//! Dense layers over the last dimension.

mod cpu;

use candle_core::{DType, Module as _, Result, Tensor, quantized::GgmlDType};

use super::{OpForm, add_all, form, plain_cost};
use crate::backend::{
    Activation, MatmulPrecision, Operation, Params, Placement, Weight, WeightStorage, WeightUse,
    cpu::{Epilogue, product::scratch_values},
    weight::Values,
};

/// `y = x·W + b` over the last dimension. A weight in the working precision is laid out once at
/// load, so that a call is one matrix product over all rows; a weight that is kept as stored is
/// unpacked block by block within the product.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

impl Linear {
    /// Builds it from a weight in checkpoint layout, `[out, in]`, and a bias `[out]`.
    ///
    /// # Errors
    /// A weight that is not a matrix.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        let weight = Weight::from_tensor(weight, WeightUse::Matrix, MatmulPrecision::F32)?;
        Self::from_weight(weight, bias)
    }

    /// Builds it from a weight in any storage, and a bias `[out]`.
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
        let weight = vb.weight((output, input), "weight", WeightUse::Matrix)?;
        Self::from_weight(weight, Some(vb.get(output, "bias")?))
    }

    /// Reads `weight` alone below `vb` (`torch.nn.Linear(bias=False)`).
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load_no_bias(input: usize, output: usize, vb: &Params) -> Result<Self> {
        Self::from_weight(vb.weight((output, input), "weight", WeightUse::Matrix)?, None)
    }

    /// Outputs and inputs.
    #[must_use]
    pub fn dims(&self) -> (usize, usize) {
        self.weight.dims()
    }

    /// `[…, in]` → `[…, out]`.
    ///
    /// # Errors
    /// A last dimension other than `in`, or those of the backend.
    pub fn forward(&self, x: &Activation) -> Result<Activation> {
        self.compute(x, None)
    }

    /// `forward(x) + other`, of which `other` has the output's shape: a residual connection.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or another shape.
    pub fn forward_add(&self, x: &Activation, other: &Activation) -> Result<Activation> {
        self.compute(x, Some(other))
    }

    /// `x·W + b + other`
    fn compute(&self, x: &Activation, other: Option<&Activation>) -> Result<Activation> {
        let (output, input) = self.weight.dims();
        let Some((&width, outer)) = x.dims().split_last().filter(|(width, _)| **width == input)
        else {
            candle_core::bail!("linear: {:?} for a weight of [{output}, {input}]", x.shape());
        };
        if let Some(other) = other
            && other.dims().split_last() != Some((&output, outer))
        {
            candle_core::bail!("linear: {:?} cannot be added to {width}", other.shape());
        }
        if let Some(trace) = x.trace() {
            trace.multiply(x.elem_count() as f64 * output as f64);
        }
        let Some(blocks) = self.weight.storage().blocks() else {
            return self.composed(x, other);
        };
        match form(Operation::Linear, [x]) {
            OpForm::Cpu => {
                let other = other.map(Activation::tensor).transpose()?;
                let epilogue = Epilogue { bias: self.bias.as_ref(), other };
                cpu::linear(x.tensor()?, self.weight.right()?, epilogue).map(Activation::from)
            }
            OpForm::CpuCost(trace) => {
                let rows = outer.iter().product();
                trace.scratch(scratch_values(rows, 1, output, blocks));
                let inputs = [Some(x), other];
                let inputs: Vec<_> = inputs.into_iter().flatten().collect();
                plain_cost(trace, &inputs, [outer, &[output]].concat())
            }
            OpForm::Cuda | OpForm::Metal | OpForm::Composed => {
                candle_core::bail!("linear: a weight for f32 on the CPU, not for {:?}", x.dtype())
            }
        }
    }

    /// The composed form: one matrix of all rows, because candle would run one product per batch element.
    fn composed(&self, x: &Activation, other: Option<&Activation>) -> Result<Activation> {
        let (output, input) = self.weight.dims();
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = output;
        }
        let rows = x.elem_count() / input.max(1);
        let x = x.contiguous()?.reshape((rows, input))?;
        let y = match self.weight.storage() {
            WeightStorage::Dense(_) => x.matmul(&self.weight.dense(x.trace())?)?,
            WeightStorage::OnDevice(_) => self.quantized(&x)?,
            other => candle_core::bail!("linear: a weight in {other:?}"),
        };
        drop(x);
        let bias = self.bias.as_ref().map(Activation::from);
        add_all(y.reshape(shape)?, bias.as_ref(), other)
    }

    /// `x` `[N, in]` by candle's kernels for quantized weights, which take and give f32.
    fn quantized(&self, x: &Activation) -> Result<Activation> {
        let (output, input) = self.weight.dims();
        let (rows, _) = x.dims2()?;
        if let Some(trace) = x.trace()
            && trace.placement() == Placement::Cuda
        {
            // CUDA's round their input to blocks of eight bits.
            let (block, bytes) = (GgmlDType::Q8_1.block_size(), GgmlDType::Q8_1.type_size());
            trace.pass(rows * input.next_multiple_of(CUDA_ROW) / block * bytes);
        }
        let y = x.to_dtype(DType::F32)?.apply((rows, output), |x| match self.weight.values() {
            Values::OnDevice(weight) => weight.forward(x),
            _ => candle_core::bail!("linear: a weight that has not been loaded"),
        })?;
        y.to_dtype(x.dtype())
    }
}

/// Number that CUDA's kernels for quantized weights pad a row of their input to a multiple of (candle's
/// `MATRIX_ROW_PADDING`).
const CUDA_ROW: usize = 512;
