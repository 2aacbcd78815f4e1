//! Where the work runs: the choice of device, the operations that every model is made of, and how a
//! model gets its weights.

mod blocks;
mod bytes;
mod device;
mod memory;
// Hidden: no interface to build on. It is public because tests/ and benches/ hold every operation against its reference.
#[doc(hidden)]
pub mod ops;
mod params;

pub use blocks::{holds_weights, is_quantized, stored_bytes, unpack_rows};
pub use bytes::Bytes;
pub use device::{DeviceError, DeviceSpec, device_name, working_dtype};
pub use memory::{give_back_freed, set_release_hook, usable_memory};
pub use params::{ParamSource, Params, Working};
