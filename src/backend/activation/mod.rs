//! Activations of a model: either values on a device or, within a memory trace, their
//! shape alone. Models and operations take and give them, so that one forward pass both computes and
//! tells what it needs.

mod functions;
mod shape;

use std::sync::Arc;

use candle_core::{DType, Layout, Result, Shape, Tensor};

use super::trace::{Claim, Placement, Trace};

/// Values on a device, or, within a memory [`Trace`], their shape alone.
///
/// Its methods are candle's, with candle's names, shapes and errors; a traced one does all but compute.
/// A clone or a view shares the memory of what it is of.
#[derive(Clone, Debug)]
pub struct Activation(ActivationForm);

#[derive(Clone, Debug)]
enum ActivationForm {
    Values(Tensor),
    Traced(Box<TracedTensor>),
}

/// A tensor without storage.
#[derive(Clone, Debug)]
struct TracedTensor {
    layout: Layout,
    dtype: DType,
    claim: Arc<Claim>,
}

impl TracedTensor {
    /// New activation in the same trace.
    fn allocate(&self, shape: impl Into<Shape>, dtype: DType) -> Activation {
        Activation::traced(self.claim.trace(), shape.into(), dtype)
    }

    /// The same memory, seen otherwise.
    fn view(&self, layout: Layout) -> Activation {
        Activation(ActivationForm::Traced(Box::new(Self { layout, ..self.clone() })))
    }
}

impl From<Tensor> for Activation {
    fn from(tensor: Tensor) -> Self {
        Self(ActivationForm::Values(tensor))
    }
}

impl From<&Tensor> for Activation {
    fn from(tensor: &Tensor) -> Self {
        Self(ActivationForm::Values(tensor.clone()))
    }
}

impl AsRef<Activation> for Activation {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Trace {
    /// A new value of this shape, which counts until its last clone or view is dropped.
    #[must_use]
    pub fn activation(&self, shape: impl Into<Shape>, dtype: DType) -> Activation {
        Activation::traced(self, shape.into(), dtype)
    }

    /// A value that is held and counted elsewhere, such as a weight.
    pub(in crate::backend) fn held_elsewhere(
        &self,
        shape: impl Into<Shape>,
        dtype: DType,
    ) -> Activation {
        Activation::within(self.hold(0), shape.into(), dtype)
    }
}

impl Activation {
    /// A new value in `trace`.
    fn traced(trace: &Trace, shape: Shape, dtype: DType) -> Self {
        let claim = trace.hold(shape.elem_count() * dtype.size_in_bytes());
        Self::within(claim, shape, dtype)
    }

    /// A value whose bytes are claimed already.
    fn within(claim: Claim, shape: Shape, dtype: DType) -> Self {
        let layout = Layout::contiguous(shape);
        Self(ActivationForm::Traced(Box::new(TracedTensor {
            layout,
            dtype,
            claim: Arc::new(claim),
        })))
    }

    /// Result of `make`, or, within a trace, an activation of the shape and the type that it would have:
    /// for values that a model does not compute from others, such as a table of angles.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn make(
        trace: Option<&Trace>,
        shape: impl Into<Shape>,
        dtype: DType,
        make: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Self> {
        match trace {
            Some(trace) => Ok(trace.activation(shape, dtype)),
            None => make().map(Self::from),
        }
    }

    /// The values.
    ///
    /// # Errors
    /// A trace, which has none.
    pub fn tensor(&self) -> Result<&Tensor> {
        match &self.0 {
            ActivationForm::Values(tensor) => Ok(tensor),
            ActivationForm::Traced(_) => candle_core::bail!("a memory trace has no values"),
        }
    }

    /// The values.
    ///
    /// # Errors
    /// A trace, which has none.
    pub fn into_tensor(self) -> Result<Tensor> {
        match self.0 {
            ActivationForm::Values(tensor) => Ok(tensor),
            ActivationForm::Traced(_) => candle_core::bail!("a memory trace has no values"),
        }
    }

    /// `true` for a shape within a trace.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        matches!(self.0, ActivationForm::Traced(_))
    }

    /// Kind of device that its values are on, or would be.
    #[must_use]
    pub fn placement(&self) -> Placement {
        match &self.0 {
            ActivationForm::Values(tensor) => tensor.device().into(),
            ActivationForm::Traced(traced) => traced.claim.trace().placement(),
        }
    }

    /// The trace that it belongs to, if it does.
    #[must_use]
    pub fn trace(&self) -> Option<&Trace> {
        match &self.0 {
            ActivationForm::Values(_) => None,
            ActivationForm::Traced(traced) => Some(traced.claim.trace()),
        }
    }

    /// The place of its values in the memory that it is of.
    pub(in crate::backend) fn layout(&self) -> &Layout {
        match &self.0 {
            ActivationForm::Values(tensor) => tensor.layout(),
            ActivationForm::Traced(traced) => &traced.layout,
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device};

    use super::*;

    fn trace() -> Trace {
        Trace::new(Placement::Cuda)
    }

    #[test]
    fn views_share_the_claim_of_what_they_are_of() {
        let trace = trace();
        let x = trace.activation((2, 3, 4), DType::F32);
        let views = [
            x.clone(),
            x.reshape((6, 4)).unwrap(),
            x.narrow(1, 1, 2).unwrap(),
            x.transpose(0, 2).unwrap(),
            x.permute((2, 0, 1)).unwrap(),
            x.unsqueeze(0).unwrap().squeeze(0).unwrap(),
            x.get(1).unwrap(),
            x.to_dtype(DType::F32).unwrap(),
            x.contiguous().unwrap(),
            x.pad_with_zeros(0, 0, 0).unwrap(),
        ];
        assert_eq!((trace.live(), trace.peak()), (96, 96));
        drop(x);
        assert_eq!(trace.live(), 96);
        drop(views);
        assert_eq!(trace.live(), 0);
    }

    #[test]
    fn what_candle_copies_counts() {
        let trace = trace();
        let x = trace.activation((2, 3), DType::F32);
        let turned = x.transpose(0, 1).unwrap();
        assert!(!turned.is_contiguous());
        let copies = [turned.contiguous().unwrap(), turned.reshape(6).unwrap()];
        assert_eq!(trace.live(), 3 * 24);
        drop(copies);
        let half = x.to_dtype(DType::F16).unwrap();
        assert_eq!((trace.live(), half.dtype()), (36, DType::F16));
    }

    #[test]
    fn a_traced_function_has_the_shape_that_candle_gives() {
        let values = Tensor::zeros((2, 5, 3), DType::F32, &Device::Cpu).unwrap();
        let row = Activation::from(Tensor::zeros((1, 3), DType::F32, &Device::Cpu).unwrap());
        type F = fn(&Activation, &Activation) -> Result<Activation>;
        let functions: [F; 12] = [
            |x, _| x.pad_with_zeros(1, 2, 3),
            |x, _| Activation::cat(&[x, x], 1),
            |x, _| Activation::cat(&[x.narrow(1, 0, 2)?, x.narrow(1, 1, 3)?], D::Minus1),
            |x, _| Activation::cat(&[x.transpose(0, 1)?, x.transpose(0, 1)?], 2),
            |x, _| Activation::stack(&[x, x, x], 1),
            |x, row| x.broadcast_add(row),
            |x, row| row.broadcast_mul(x),
            |x, _| x.mean_keepdim(2)?.sum_keepdim(0),
            |x, _| x.matmul(&x.transpose(1, 2)?),
            |x, _| x.repeat((1, 4, 1)),
            |x, _| x.get(1)?.get(3),
            |x, _| x.softmax(D::Minus1),
        ];
        for (index, f) in functions.iter().enumerate() {
            let real = f(&Activation::from(&values), &row);
            let traced = f(&trace().activation((2, 5, 3), DType::F32), &row);
            match (real, traced) {
                (Ok(real), Ok(traced)) => {
                    assert_eq!(real.dims(), traced.dims(), "function {index}");
                    assert_eq!(real.is_contiguous(), traced.is_contiguous(), "function {index}");
                }
                (real, traced) => {
                    assert_eq!(real.is_err(), traced.is_err(), "function {index}");
                }
            }
        }
    }

    #[test]
    fn a_trace_refuses_what_candle_refuses() {
        let x = trace().activation((2, 3), DType::F32);
        let other = trace().activation((2, 4), DType::F32);
        let half = trace().activation((2, 3), DType::F16);
        assert!(x.reshape((2, 4)).is_err());
        assert!(x.narrow(1, 2, 2).is_err());
        assert!(x.add(&other).is_err());
        assert!(x.add(&half).is_err());
        assert!(x.broadcast_add(&other).is_err());
        assert!(x.matmul(&other).is_err());
        assert!(Activation::cat(&[&x, &other], 0).is_err());
        assert!(x.slice_set(&other, 1, 0).is_err());
        let error = x.tensor().unwrap_err().to_string();
        assert!(error.contains("a memory trace has no values"), "{error}");
    }
}
