//! Options of `doctor`.

use clap::Args;
use cupscale::backend::DeviceSpec;

use super::machine::KernelsArg;

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Device whose operations are shown and tested
    #[arg(short = 'g', long, value_name = "auto|cpu|cuda:N|metal", default_value_t)]
    pub device: DeviceSpec,
    /// Kernels of a GPU's operations, as of a job
    #[arg(long, value_enum, default_value_t = KernelsArg::Own)]
    pub kernels: KernelsArg,
}
