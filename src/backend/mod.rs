//! Compute backend: the choice of device, the operations that every model is made of, and the loading
//! of a model's weights.

mod activation;
mod blocks;
mod bytes;
mod cpu;
mod cuda;
mod device;
mod devices;
mod gpu;
mod inventory;
mod kernels;
mod launch;
mod launch_metal;
mod memory;
mod metal;
// Hidden: no interface to build on. It is public because tests/ and benches/ hold every operation against its reference.
#[doc(hidden)]
pub mod ops;
mod out_of_memory;
mod params;
mod precision;
mod reading;
mod rows;
mod self_test;
mod trace;
mod weight;
mod working;

pub use activation::Activation;
pub use blocks::{holds_weights, is_quantized, stored_bytes, unpack_rows};
pub use bytes::Bytes;
pub(crate) use cpu::add_product;
pub use device::{DeviceError, DeviceSpec, device_name, working_dtype};
pub use devices::{DeviceList, check_devices, place_name};
pub use inventory::{ListedDevice, list_devices};
pub use kernels::{KernelChoice, Operation, choose_kernels, chosen_kernels};
pub use memory::{
    give_back_all, give_back_freed, limited_room, peak_memory, set_release_hook, usable_memory,
};
pub(crate) use out_of_memory::first_line;
pub use out_of_memory::is_out_of_memory;
pub use params::{ParamSource, Params};
pub use precision::MatmulPrecision;
pub use reading::Reading;
pub use rows::pack_rows;
pub use self_test::{KernelTest, kernel_tests, self_test};
pub use trace::{Claim, Placement, Trace};
pub use weight::{Stored, Weight, WeightStorage, WeightUse};
pub use working::Working;
