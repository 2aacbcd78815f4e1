//! Where the work runs: the choice of device, and the operations that every model is made of.

mod device;
pub mod ops;

pub use device::{DeviceError, DeviceSpec, working_dtype};
