//! Working precision and device of a model.

use candle_core::{DType, Device};

use super::{MatmulPrecision, Placement};

/// Working precision of a model, and the device that it computes on.
#[derive(Clone, Debug)]
pub struct Working {
    /// type of the activations
    pub dtype: DType,
    /// device that they lie on
    pub device: Device,
    /// matmul precision of the CPU's kernels
    pub precision: MatmulPrecision,
}

impl Working {
    /// `true` if the CPU's kernels compute.
    #[must_use]
    pub fn has_kernels(&self) -> bool {
        Placement::from(&self.device).has_kernels(self.dtype)
    }
}
