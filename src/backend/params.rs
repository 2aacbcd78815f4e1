//! Interface by which a model asks for its weights: by name, in the shape that its configuration says,
//! without knowing the kind of file that they are in or the way in which they are kept.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::{MatmulPrecision, Weight, WeightStorage, WeightUse, Working};

/// Source of weights.
pub trait ParamSource: Send + Sync {
    /// The tensor called `name`, of this shape, in this precision, on this device.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape, or of a kind that is no number; the message
    /// names file and tensor.
    fn get(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor>;

    /// `true` if there is a tensor of this name.
    fn contains(&self, name: &str) -> bool;

    /// The weight called `name`, of this shape, for this use and for `working`, kept in whatever way the
    /// source prefers; unless it says otherwise as if it had numbers in the working precision.
    ///
    /// # Errors
    /// As [`get`](Self::get), or a precision that the processor does not multiply in.
    fn weight(
        &self,
        name: &str,
        shape: &Shape,
        weight_use: WeightUse,
        working: &Working,
    ) -> Result<Weight> {
        let storage = WeightStorage::choose(weight_use, shape, None, working)?;
        let weight = self.get(name, shape, storage.numbers(), &working.device)?;
        Weight::new(&weight, weight_use, storage)
    }
}

impl ParamSource for HashMap<String, Tensor> {
    fn get(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(tensor) = HashMap::get(self, name) else {
            candle_core::bail!("tensor `{name}` is missing");
        };
        if tensor.shape() != shape {
            candle_core::bail!(
                "tensor `{name}` is {:?}, its configuration says {:?}",
                tensor.dims(),
                shape.dims()
            );
        }
        tensor.to_device(device)?.to_dtype(dtype)
    }

    fn contains(&self, name: &str) -> bool {
        self.contains_key(name)
    }
}

/// The weights below one name, `down_blocks.0.resnets.1` for example, for a model that computes in
/// one precision on one device.
#[derive(Clone)]
pub struct Params {
    source: Arc<dyn ParamSource>,
    /// names joined by points, and a point at the end; empty at the root
    prefix: String,
    working: Working,
    /// bytes of all weights that have been handed out, by this and everything below
    handed_out: Arc<AtomicUsize>,
}

impl Params {
    /// All the weights of a source.
    #[must_use]
    pub fn new(source: Arc<dyn ParamSource>, dtype: DType, device: &Device) -> Self {
        Self {
            source,
            prefix: String::new(),
            working: Working { dtype, device: device.clone(), precision: MatmulPrecision::F32 },
            handed_out: Arc::default(),
        }
    }

    /// Weights that are in memory already.
    #[must_use]
    pub fn from_tensors(tensors: HashMap<String, Tensor>, dtype: DType, device: &Device) -> Self {
        Self::new(Arc::new(tensors), dtype, device)
    }

    /// The weights below `name`.
    #[must_use]
    pub fn pp(&self, name: impl ToString) -> Self {
        Self { prefix: format!("{}{}.", self.prefix, name.to_string()), ..self.clone() }
    }

    /// The same weights in another precision.
    #[must_use]
    pub fn to_dtype(&self, dtype: DType) -> Self {
        Self { working: Working { dtype, ..self.working.clone() }, ..self.clone() }
    }

    /// The same weights for products in this precision, where the CPU's kernels compute.
    #[must_use]
    pub fn with_precision(&self, precision: MatmulPrecision) -> Self {
        Self { working: Working { precision, ..self.working.clone() }, ..self.clone() }
    }

    /// The tensor called `name` below this place.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn get(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor> {
        let Working { dtype, device, .. } = &self.working;
        let tensor = self.source.get(&self.full_name(name), &shape.into(), *dtype, device)?;
        self.count(tensor_bytes(&tensor));
        Ok(tensor)
    }

    /// The weight called `name` below this place, as the source prefers to keep it.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn weight(
        &self,
        shape: impl Into<Shape>,
        name: &str,
        weight_use: WeightUse,
    ) -> Result<Weight> {
        let name = self.full_name(name);
        let weight = self.source.weight(&name, &shape.into(), weight_use, &self.working)?;
        self.count(weight.bytes());
        Ok(weight)
    }

    /// Bytes of all weights that have been read so far through this, the place it is below, and every
    /// place below either: the memory that a model keeps, allocated or mapped.
    #[must_use]
    pub fn bytes_kept(&self) -> usize {
        self.handed_out.load(Ordering::Relaxed)
    }

    fn count(&self, bytes: usize) {
        self.handed_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// `true` if there is a tensor of this name below this place.
    #[must_use]
    pub fn contains_tensor(&self, name: &str) -> bool {
        self.source.contains(&self.full_name(name))
    }

    /// The name of this place, for messages.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.prefix.strip_suffix('.').unwrap_or(&self.prefix)
    }

    /// The precision in which the model computes.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.working.dtype
    }

    /// The precision in which the CPU's kernels multiply.
    #[must_use]
    pub fn precision(&self) -> MatmulPrecision {
        self.working.precision
    }

    /// Device that the model computes on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.working.device
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

fn tensor_bytes(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}
