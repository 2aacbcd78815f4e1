//! Where the work runs: the choice of device, the operations that every model is made of, and how a
//! model gets its weights.

mod device;
pub mod ops;
mod params;

pub use device::{DeviceError, DeviceSpec, working_dtype};
pub use params::{ParamSource, Params};
