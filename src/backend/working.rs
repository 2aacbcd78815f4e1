//! Working precision and device of a model.

use candle_core::{DType, Device};

use super::{MatmulPrecision, Operation, Placement};

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
    /// `true` if the products are those of the CPU's kernels, which have weights in layouts of their own.
    #[must_use]
    pub fn has_cpu_products(&self) -> bool {
        let placement = Placement::from(&self.device);
        placement == Placement::Cpu && Operation::Linear.runs_own(placement, self.dtype)
    }
}
