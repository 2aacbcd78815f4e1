//! Functions of activations that make new values, and so allocate memory.

use candle_core::{
    DType, Device, Result, Shape, Tensor,
    shape::{Dim, Dims},
};

use super::{Activation, ActivationForm, TracedTensor};

type Binary = fn(&Tensor, &Tensor) -> Result<Tensor>;

/// Functions of every value by itself.
macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $f:path;)*) => { impl Activation { $(
        $(#[$doc])*
        ///
        /// # Errors
        /// Those of the backend.
        pub fn $name(&self) -> Result<Self> {
            self.map($f)
        }
    )* } };
}

/// Functions of two values at a time, of activations of one shape and of what can be spread to one.
macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident, $spread:ident;)*) => { impl Activation { $(
        $(#[$doc])*
        ///
        /// # Errors
        /// Different shapes or types, or those of the backend.
        pub fn $name(&self, other: &Self) -> Result<Self> {
            self.with(other, |a, b| a.$name(b), false)
        }

        $(#[$doc])*
        /// Broadcasts dimensions of size 1, and missing ones before the first.
        ///
        /// # Errors
        /// Shapes that do not go together, different types, or those of the backend.
        pub fn $spread(&self, other: &Self) -> Result<Self> {
            self.with(other, Tensor::$spread, true)
        }
    )* } };
}

unary! {
    /// `max(x, 0)`.
    relu = Tensor::relu;
    /// The hyperbolic tangent.
    tanh = Tensor::tanh;
    /// The sine of radians.
    sin = Tensor::sin;
    /// The cosine of radians.
    cos = Tensor::cos;
    /// eˣ.
    exp = Tensor::exp;
    /// x².
    sqr = Tensor::sqr;
    /// √x.
    sqrt = Tensor::sqrt;
    /// `x·σ(x)` by candle's kernel; [`silu`](crate::backend::ops::silu) is the operation.
    silu = Tensor::silu;
    /// `x·Φ(x)` by candle's kernel; [`gelu`](crate::backend::ops::gelu) is the operation.
    gelu_erf = Tensor::gelu_erf;
    /// GELU's tanh form by candle's kernel; [`gelu_tanh`](crate::backend::ops::gelu_tanh) is the operation.
    gelu_tanh = Tensor::gelu;
    /// `σ(x)`.
    sigmoid = candle_nn::ops::sigmoid;
}

binary! {
    /// `self + other`.
    add, broadcast_add;
    /// `self − other`.
    sub, broadcast_sub;
    /// `self·other`.
    mul, broadcast_mul;
    /// `self/other`.
    div, broadcast_div;
}

/// The first of these that is traced.
fn first_traced<A: AsRef<Activation>>(args: &[A]) -> Option<&TracedTensor> {
    args.iter().find_map(|arg| match &arg.as_ref().0 {
        ActivationForm::Values(_) => None,
        ActivationForm::Traced(traced) => Some(&**traced),
    })
}

/// The values of all.
fn tensors<A: AsRef<Activation>>(args: &[A]) -> Result<Vec<&Tensor>> {
    args.iter().map(|arg| arg.as_ref().tensor()).collect()
}

impl Activation {
    /// A function of every value by itself, which gives another value of the type.
    fn map(&self, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        match &self.0 {
            ActivationForm::Values(tensor) => f(tensor).map(Self::from),
            ActivationForm::Traced(traced) => Ok(traced.allocate(self.shape(), traced.dtype)),
        }
    }

    fn with(&self, other: &Self, f: Binary, spread: bool) -> Result<Self> {
        let traced = match (&self.0, &other.0) {
            (ActivationForm::Values(a), ActivationForm::Values(b)) => {
                return f(a, b).map(Self::from);
            }
            (ActivationForm::Traced(traced), _) | (_, ActivationForm::Traced(traced)) => traced,
        };
        if self.dtype() != other.dtype() || (!spread && self.dims() != other.dims()) {
            candle_core::bail!(
                "{:?} {:?} with {:?} {:?}",
                self.dtype(),
                self.shape(),
                other.dtype(),
                other.shape()
            );
        }
        let shape = self.shape().broadcast_shape_binary_op(other.shape(), "broadcast")?;
        Ok(traced.allocate(shape, traced.dtype))
    }

    /// Zeros.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn zeros_like(&self) -> Result<Self> {
        self.map(Tensor::zeros_like)
    }

    /// `x·scale + shift`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn affine(&self, scale: f64, shift: f64) -> Result<Self> {
        self.map(|x| x.affine(scale, shift))
    }

    /// `min(max(x, −largest), largest)`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn limited(&self, largest: f64) -> Result<Self> {
        self.map(|x| x.maximum(-largest))?.map(|x| x.minimum(largest))
    }

    /// The values one after the other; a copy only where they are not.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn contiguous(&self) -> Result<Self> {
        if self.is_contiguous() { Ok(self.clone()) } else { self.map(Tensor::contiguous) }
    }

    /// A copy whose values lie one after the other.
    ///
    /// # Errors
    /// Those of the backend.
    pub(in crate::backend) fn copied(&self) -> Result<Self> {
        self.map(Tensor::force_contiguous)
    }

    /// The values in another type; itself where they are.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        match &self.0 {
            _ if self.dtype() == dtype => Ok(self.clone()),
            ActivationForm::Values(tensor) => tensor.to_dtype(dtype).map(Self::from),
            ActivationForm::Traced(traced) => Ok(traced.allocate(self.shape(), dtype)),
        }
    }

    /// All of these one after the other along a dimension.
    ///
    /// # Errors
    /// None at all, other dimensions that differ, or those of the backend.
    pub fn cat<A: AsRef<Self>>(args: &[A], dim: impl Dim) -> Result<Self> {
        let Some(traced) = first_traced(args) else {
            return Tensor::cat(&tensors(args)?, dim).map(Self::from);
        };
        let first = args[0].as_ref();
        if args.len() == 1 {
            return Ok(first.clone());
        }
        let dim = dim.to_index(first.shape(), "cat")?;
        let mut dims = first.dims().to_vec();
        dims[dim] = 0;
        for arg in args {
            let arg = arg.as_ref();
            let fits = arg.rank() == dims.len()
                && arg.dtype() == first.dtype()
                && (0..dims.len()).all(|i| i == dim || arg.dims()[i] == dims[i]);
            if !fits {
                candle_core::bail!("cat: {:?} and {:?}", first.shape(), arg.shape());
            }
            dims[dim] += arg.dims()[dim];
        }
        // candle puts the dimension first where it cannot copy whole blocks: what lies behind it, and what
        // lies before it, one after the other.
        let in_blocks = |x: &Self| {
            let follow = |dims: &[usize], stride: &[usize], mut step: usize| {
                dims.iter().zip(stride).rev().all(|(&dim, &stride)| {
                    let fits = stride == step;
                    step *= dim;
                    fits
                })
            };
            let ((before, behind), (outer, inner)) =
                (x.dims().split_at(dim), x.layout().stride().split_at(dim));
            follow(behind, inner, 1) && follow(before, outer, outer.last().copied().unwrap_or(1))
        };
        if dim == 0
            || args.iter().all(|arg| arg.as_ref().is_contiguous() || in_blocks(arg.as_ref()))
        {
            return Ok(traced.allocate(dims, traced.dtype));
        }
        dims.swap(0, dim);
        traced.allocate(dims, traced.dtype).transpose(0, dim)
    }

    /// All of these, of one shape, one after the other along a new dimension.
    ///
    /// # Errors
    /// As [`cat`](Self::cat).
    pub fn stack<A: AsRef<Self>>(args: &[A], dim: impl Dim) -> Result<Self> {
        let Some(first) = args.first() else { candle_core::bail!("stack: nothing") };
        let dim = dim.to_index_plus_one(first.as_ref().shape(), "stack")?;
        let args: Vec<_> =
            args.iter().map(|arg| arg.as_ref().unsqueeze(dim)).collect::<Result<_>>()?;
        Self::cat(&args, dim)
    }

    /// Pads a dimension with so many zeros before and behind its values.
    ///
    /// # Errors
    /// A dimension that it does not have, or those of the backend.
    pub fn pad_with_zeros(&self, dim: impl Dim, before: usize, behind: usize) -> Result<Self> {
        let traced = match &self.0 {
            ActivationForm::Values(tensor) => {
                return tensor.pad_with_zeros(dim, before, behind).map(Self::from);
            }
            ActivationForm::Traced(traced) => traced,
        };
        let dim = dim.to_index(self.shape(), "pad_with_zeros")?;
        let zeros = |count: usize| {
            let mut dims = self.dims().to_vec();
            dims[dim] = count;
            (count > 0).then(|| traced.allocate(dims, traced.dtype))
        };
        let parts: Vec<_> =
            [zeros(before), Some(self.clone()), zeros(behind)].into_iter().flatten().collect();
        Self::cat(&parts, dim)
    }

    /// Everything so many times along each dimension.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn repeat(&self, times: impl Into<Shape>) -> Result<Self> {
        let times = times.into();
        match &self.0 {
            ActivationForm::Values(tensor) => tensor.repeat(times).map(Self::from),
            ActivationForm::Traced(_) => {
                let missing = times.rank().saturating_sub(self.rank());
                let dims = [vec![1; missing], self.dims().to_vec()].concat();
                let mut x = self.reshape(dims)?;
                for (dim, &times) in times.dims().iter().enumerate() {
                    x = match times {
                        0 => x.narrow(dim, 0, 0)?,
                        1 => x,
                        times => Self::cat(&vec![&x; times], dim)?,
                    };
                }
                Ok(x)
            }
        }
    }

    /// The values on `device`; a trace stays where it is.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        match &self.0 {
            ActivationForm::Values(tensor) if !tensor.device().same_device(device) => {
                // Through the host: two GPUs need not reach each other's memory.
                tensor.to_device(&Device::Cpu)?.to_device(device).map(Self::from)
            }
            ActivationForm::Values(_) | ActivationForm::Traced(_) => Ok(self.clone()),
        }
    }

    /// The places `index` of a dimension.
    ///
    /// # Errors
    /// A place or a dimension that it does not have, or those of the backend.
    pub fn index_select(&self, index: &[u32], dim: impl Dim) -> Result<Self> {
        match &self.0 {
            ActivationForm::Values(tensor) => {
                tensor.index_select(&Tensor::new(index, tensor.device())?, dim).map(Self::from)
            }
            ActivationForm::Traced(traced) => {
                let dim = dim.to_index(self.shape(), "index_select")?;
                let mut dims = self.dims().to_vec();
                dims[dim] = index.len();
                let _index = traced.allocate(index.len(), DType::U32);
                Ok(traced.allocate(dims, traced.dtype))
            }
        }
    }

    /// Writes `source` over its own values, from place `offset` of a dimension on.
    ///
    /// # Errors
    /// Shapes that do not fit, values that are not contiguous, or those of the backend.
    pub fn slice_set(&self, source: &Self, dim: impl Dim, offset: usize) -> Result<()> {
        if let (ActivationForm::Values(own), ActivationForm::Values(source)) = (&self.0, &source.0)
        {
            return own.slice_set(source, dim, offset);
        }
        let dim = dim.to_index(self.shape(), "slice_set")?;
        let fits = self.is_contiguous()
            && source.is_contiguous()
            && self.dtype() == source.dtype()
            && self.rank() == source.rank()
            && (self.dims().iter().zip(source.dims()).enumerate()).all(|(i, (own, other))| {
                if i == dim { offset + other <= *own } else { own == other }
            });
        if !fits {
            candle_core::bail!("slice_set: {:?} into {:?}", source.shape(), self.shape());
        }
        Ok(())
    }

    /// Matrix products `[…, M, K]·[…, K, N]`.
    ///
    /// # Errors
    /// Shapes that do not go together, or those of the backend.
    pub fn matmul(&self, other: &Self) -> Result<Self> {
        let traced = match (&self.0, &other.0) {
            (ActivationForm::Values(a), ActivationForm::Values(b)) => {
                return a.matmul(b).map(Self::from);
            }
            (ActivationForm::Traced(traced), _) | (_, ActivationForm::Traced(traced)) => traced,
        };
        let (a, b) = (self.dims(), other.dims());
        let (&[.., rows, inner], &[.., depth, columns]) = (a, b) else {
            candle_core::bail!("matmul: {a:?} and {b:?}");
        };
        let batch = |dims: &[usize]| dims[..dims.len() - 2].iter().product::<usize>();
        if a.len() != b.len() || inner != depth || batch(a) != batch(b) {
            candle_core::bail!("matmul: {a:?} and {b:?}");
        }
        let shape = [&a[..a.len() - 2], &[rows, columns]].concat();
        Ok(traced.allocate(shape, traced.dtype))
    }

    /// Sums over dimensions, which become 1.
    ///
    /// # Errors
    /// Dimensions that it does not have, or those of the backend.
    pub fn sum_keepdim(&self, dims: impl Dims) -> Result<Self> {
        self.reduce(dims, |x, dims| x.sum_keepdim(dims))
    }

    /// Means over dimensions, which become 1.
    ///
    /// # Errors
    /// Dimensions that it does not have, or those of the backend.
    pub fn mean_keepdim(&self, dims: impl Dims) -> Result<Self> {
        self.reduce(dims, |x, dims| x.mean_keepdim(dims))
    }

    fn reduce(
        &self,
        dims: impl Dims,
        f: impl FnOnce(&Tensor, Vec<usize>) -> Result<Tensor>,
    ) -> Result<Self> {
        let reduced = dims.to_indexes(self.shape(), "reduce")?;
        match &self.0 {
            ActivationForm::Values(tensor) => f(tensor, reduced).map(Self::from),
            ActivationForm::Traced(traced) => {
                let mut dims = self.dims().to_vec();
                reduced.into_iter().for_each(|dim| dims[dim] = 1);
                Ok(traced.allocate(dims, traced.dtype))
            }
        }
    }

    /// `exp(x − max)`, divided by its sum, over one dimension.
    ///
    /// # Errors
    /// A dimension that it does not have, or those of the backend.
    pub fn softmax(&self, dim: impl Dim) -> Result<Self> {
        match &self.0 {
            ActivationForm::Values(tensor) => candle_nn::ops::softmax(tensor, dim).map(Self::from),
            ActivationForm::Traced(_) => {
                // candle's own steps.
                let dim = dim.to_index(self.shape(), "softmax")?;
                let largest = self.sum_keepdim(dim)?;
                let difference = self.broadcast_sub(&largest)?;
                let exponentials = difference.exp()?;
                let sum = exponentials.sum_keepdim(dim)?;
                exponentials.broadcast_div(&sum)
            }
        }
    }

    /// A kernel of candle's for which there is no method here: `f` of the values, or within a trace what
    /// has `shape` and its own type.
    pub(in crate::backend) fn apply(
        &self,
        shape: impl Into<Shape>,
        f: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        match &self.0 {
            ActivationForm::Values(tensor) => f(tensor).map(Self::from),
            ActivationForm::Traced(traced) => Ok(traced.allocate(shape, traced.dtype)),
        }
    }
}
