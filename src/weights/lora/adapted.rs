//! Weights of a model with the changes of LoRAs, for a network that asks for weights: what no LoRA changes is
//! passed through as it is, whatever form the model is in.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::changes::Changes;
use crate::backend::ParamSource;

/// Weights with changes, one after the other.
pub(in crate::weights) struct Adapted {
    base: Arc<dyn ParamSource>,
    changes: Vec<Arc<Changes>>,
}

impl Adapted {
    pub(in crate::weights) fn new(base: Arc<dyn ParamSource>, changes: Vec<Arc<Changes>>) -> Self {
        Self { base, changes }
    }

    /// `true` if a weight is changed.
    pub(in crate::weights) fn changes(&self, name: &str) -> bool {
        self.changes.iter().any(|change| change.contains(name))
    }
}

impl ParamSource for Adapted {
    fn get(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut changes = self.changes.iter().filter(|change| change.contains(name)).peekable();
        if changes.peek().is_none() {
            return self.base.get(name, shape, dtype, device);
        }
        let mut values = {
            let base = self.base.get(name, shape, DType::F32, &Device::Cpu)?;
            base.flatten_all()?.to_vec1()?
        };
        for change in changes {
            change.apply(name, &mut values)?;
        }
        // Rounded once, after the last change.
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
    }

    fn contains(&self, name: &str) -> bool {
        self.base.contains(name)
    }
}
