//! Shapes of activations and views of them: what moves no values and takes no memory.

use candle_core::{
    D, DType, Layout, Result, Shape,
    shape::{Dim, Dims, ShapeWithOneHole},
};

use super::{Activation, Content};

impl Activation {
    /// Its dimensions.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        self.layout().dims()
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        self.layout().shape()
    }

    /// The size of one dimension.
    ///
    /// # Errors
    /// A dimension that it does not have.
    pub fn dim(&self, dim: impl Dim) -> Result<usize> {
        self.layout().dim(dim)
    }

    /// Both dimensions.
    ///
    /// # Errors
    /// Another number of dimensions, as for those below.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        self.shape().dims2()
    }

    /// All three dimensions.
    ///
    /// # Errors
    /// Another number of dimensions.
    pub fn dims3(&self) -> Result<(usize, usize, usize)> {
        self.shape().dims3()
    }

    /// All four dimensions.
    ///
    /// # Errors
    /// Another number of dimensions.
    pub fn dims4(&self) -> Result<(usize, usize, usize, usize)> {
        self.shape().dims4()
    }

    /// The number of dimensions.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.shape().rank()
    }

    /// The number of values.
    #[must_use]
    pub fn elem_count(&self) -> usize {
        self.shape().elem_count()
    }

    /// The type of the values.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match &self.0 {
            Content::Values(tensor) => tensor.dtype(),
            Content::Traced(traced) => traced.dtype,
        }
    }

    /// The bytes of its values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.elem_count() * self.dtype().size_in_bytes()
    }

    /// `true` if its values lie in memory one after the other, in the order of its dimensions.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.layout().is_contiguous()
    }

    /// The same values in another shape; a copy only where they are not contiguous.
    ///
    /// # Errors
    /// A shape of another number of values.
    pub fn reshape(&self, shape: impl ShapeWithOneHole) -> Result<Self> {
        let traced = match &self.0 {
            Content::Values(tensor) => return tensor.reshape(shape).map(Self::from),
            Content::Traced(traced) => traced,
        };
        let shape = shape.into_shape(self.elem_count())?;
        if shape.elem_count() != self.elem_count() {
            candle_core::bail!("reshape: {:?} to {shape:?}", self.shape());
        }
        if self.is_contiguous() {
            let start = traced.layout.start_offset();
            return Ok(traced.view(Layout::contiguous_with_offset(shape, start)));
        }
        Ok(traced.allocate(shape, traced.dtype))
    }

    /// All values in one dimension.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn flatten_all(&self) -> Result<Self> {
        self.reshape(self.elem_count())
    }

    /// `len` places of a dimension from `start` on.
    ///
    /// # Errors
    /// Places that it does not have.
    pub fn narrow(&self, dim: impl Dim, start: usize, len: usize) -> Result<Self> {
        match &self.0 {
            Content::Values(tensor) => tensor.narrow(dim, start, len).map(Self::from),
            Content::Traced(traced) => {
                let dim = dim.to_index(self.shape(), "narrow")?;
                Ok(traced.view(traced.layout.narrow(dim, start, len)?))
            }
        }
    }

    /// One place of the first dimension, without that dimension.
    ///
    /// # Errors
    /// A place that it does not have.
    pub fn get(&self, index: usize) -> Result<Self> {
        match &self.0 {
            Content::Values(tensor) => tensor.get(index).map(Self::from),
            Content::Traced(_) if self.rank() == 0 => Ok(self.clone()),
            Content::Traced(_) => self.narrow(0, index, 1)?.reshape(&self.dims()[1..]),
        }
    }

    /// Without a dimension of size 1; itself where it has another size.
    ///
    /// # Errors
    /// A dimension that it does not have.
    pub fn squeeze(&self, dim: impl Dim) -> Result<Self> {
        let traced = match &self.0 {
            Content::Values(tensor) => return tensor.squeeze(dim).map(Self::from),
            Content::Traced(traced) => traced,
        };
        let dim = dim.to_index(self.shape(), "squeeze")?;
        if self.dims()[dim] != 1 {
            return Ok(self.clone());
        }
        let (mut dims, mut stride) = (self.dims().to_vec(), traced.layout.stride().to_vec());
        dims.remove(dim);
        stride.remove(dim);
        Ok(traced.view(Layout::new(dims.into(), stride, traced.layout.start_offset())))
    }

    /// With a dimension of size 1 more.
    ///
    /// # Errors
    /// A place that it cannot have.
    pub fn unsqueeze(&self, dim: impl Dim) -> Result<Self> {
        let traced = match &self.0 {
            Content::Values(tensor) => return tensor.unsqueeze(dim).map(Self::from),
            Content::Traced(traced) => traced,
        };
        let dim = dim.to_index_plus_one(self.shape(), "unsqueeze")?;
        let (mut dims, mut stride) = (self.dims().to_vec(), traced.layout.stride().to_vec());
        let same = stride.get(dim).copied().unwrap_or(1);
        dims.insert(dim, 1);
        stride.insert(dim, same);
        Ok(traced.view(Layout::new(dims.into(), stride, traced.layout.start_offset())))
    }

    /// With two dimensions exchanged.
    ///
    /// # Errors
    /// Dimensions that it does not have.
    pub fn transpose(&self, first: impl Dim, second: impl Dim) -> Result<Self> {
        match &self.0 {
            Content::Values(tensor) => tensor.transpose(first, second).map(Self::from),
            Content::Traced(traced) => {
                let first = first.to_index(self.shape(), "transpose")?;
                let second = second.to_index(self.shape(), "transpose")?;
                Ok(traced.view(traced.layout.transpose(first, second)?))
            }
        }
    }

    /// With its last two dimensions exchanged.
    ///
    /// # Errors
    /// Fewer than two dimensions.
    pub fn t(&self) -> Result<Self> {
        self.transpose(D::Minus2, D::Minus1)
    }

    /// With its dimensions in another order.
    ///
    /// # Errors
    /// Anything but every dimension once.
    pub fn permute(&self, dims: impl Dims) -> Result<Self> {
        match &self.0 {
            Content::Values(tensor) => tensor.permute(dims).map(Self::from),
            Content::Traced(traced) => {
                let dims = dims.to_indexes(self.shape(), "permute")?;
                Ok(traced.view(traced.layout.permute(&dims)?))
            }
        }
    }

    /// The same values as often as a larger shape asks for them, without a copy.
    ///
    /// # Errors
    /// A shape that it cannot be spread to.
    pub fn broadcast_as(&self, shape: impl Into<Shape>) -> Result<Self> {
        match &self.0 {
            Content::Values(tensor) => tensor.broadcast_as(shape).map(Self::from),
            Content::Traced(traced) => Ok(traced.view(traced.layout.broadcast_as(shape)?)),
        }
    }
}
