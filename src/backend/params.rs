//! How a model asks for its weights: by name, in the shape that its configuration says, without
//! knowing in which kind of file they are or how they are kept.

use std::{collections::HashMap, sync::Arc};

use candle_core::{DType, Device, Result, Shape, Tensor};

/// Where weights come from.
pub trait ParamSource: Send + Sync {
    /// The tensor called `name`, of this shape, in this precision, on this device.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape, or of a kind that is no number; the message
    /// names file and tensor.
    fn get(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor>;

    /// Whether there is a tensor of this name.
    fn contains(&self, name: &str) -> bool;
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
    dtype: DType,
    device: Device,
}

impl Params {
    /// All the weights of a source.
    #[must_use]
    pub fn new(source: Arc<dyn ParamSource>, dtype: DType, device: &Device) -> Self {
        Self { source, prefix: String::new(), dtype, device: device.clone() }
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
        Self { dtype, ..self.clone() }
    }

    /// The tensor called `name` below this place.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn get(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor> {
        self.source.get(&self.full_name(name), &shape.into(), self.dtype, &self.device)
    }

    /// Whether there is a tensor of this name below this place.
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
        self.dtype
    }

    /// Where the model computes.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}
