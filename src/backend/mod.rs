//! Where the work runs: the choice of device, the operations that every model is made of, and how a
//! model gets its weights.

mod activation;
#[cfg(target_os = "linux")]
mod allocator;
mod blocks;
mod bytes;
mod cpu;
mod device;
mod memory;
pub mod ops;
mod params;
mod precision;
mod rows;
mod trace;
mod weight;

pub use activation::Activation;
#[cfg(target_os = "linux")]
pub use allocator::Allocator;
pub use blocks::{holds_weights, is_quantized, stored_bytes, unpack_rows};
pub use bytes::Bytes;
pub(crate) use cpu::add_product;
pub use device::{DeviceError, DeviceSpec, working_dtype};
pub use memory::{give_back_freed, usable_memory};
pub use params::{ParamSource, Params, Working};
pub use precision::MatmulPrecision;
pub use rows::pack_rows;
/// A program's global allocator: the system's, which maps large blocks for themselves.
#[cfg(not(target_os = "linux"))]
pub use std::alloc::System as Allocator;
pub use trace::{Claim, Placement, Trace};
pub use weight::{Stored, Weight, WeightStorage, WeightUse};
