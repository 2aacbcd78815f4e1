//! The choice of device behind `--device`: parsing, availability, and the working precision that
//! goes with it.

use candle_core::{DType, Device};
use std::{fmt, str::FromStr};

use super::{
    KernelChoice, MatmulPrecision, Placement, chosen_kernels, kernels, self_test::test_once,
};

/// Choice of a device (`--device`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceSpec {
    /// The fastest device this build and this machine have: CUDA, then Metal, then the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU with this ordinal.
    Cuda(usize),
    /// The Apple GPU.
    Metal,
}

/// Reason why a device cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A name that no device has.
    #[error("unknown device `{0}` (auto, cpu, cuda, cuda:N, cuda:all, metal)")]
    Unknown(String),
    /// A device that needs a feature of this crate, which the build lacks: its name.
    #[error("device {0}: this build has no support for it (the feature `{1}`)")]
    NotBuilt(DeviceSpec, &'static str),
    /// A device that the system does not give, and why.
    #[error("device {0}: {1}")]
    Unavailable(DeviceSpec, String),
    /// A device that is named twice, and cannot do two parts of a job at a time.
    #[error("device {0} is named twice")]
    Repeated(DeviceSpec),
    /// Devices of two kinds, by the names of one of each.
    #[error(
        "devices {0} and {1}: those of one job are of one kind, because the kinds round differently"
    )]
    Mixed(String, String),
    /// A name that stands for a choice of its own, beside others.
    #[error("{0} stands alone: it is a choice of devices already")]
    Alone(String),
    /// A list of devices without any.
    #[error("no device")]
    Missing,
    /// A precision that the processor has no instructions for.
    #[error("this processor has no instructions to multiply in {0}")]
    Precision(MatmulPrecision),
}

impl DeviceError {
    /// The reason without the device's name.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::NotBuilt(_, feature) => {
                format!("this build has no support for it (the feature `{feature}`)")
            }
            Self::Unavailable(_, reason) => reason.clone(),
            // The others name no device that does not open.
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" => Ok(Self::Metal),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|ordinal| ordinal.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(unknown),
        }
    }
}

impl DeviceSpec {
    /// Opens the device. The kernels of a GPU are tested, once in a process, unless they are not to be used:
    /// [`kernel_tests`](super::kernel_tests) has the results.
    ///
    /// # Errors
    /// A device that this build was not compiled for, or that this machine does not have. `Auto`
    /// never fails: the CPU is always there.
    pub fn open(self) -> Result<Device, DeviceError> {
        let device = self.open_untested()?;
        if chosen_kernels() == KernelChoice::Own {
            test_once(&device);
        }
        Ok(device)
    }

    /// [`open`](Self::open) without a test.
    pub(super) fn open_untested(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => Ok(Self::Cuda(0)
                .open_untested()
                .or_else(|_| Self::Metal.open_untested())
                .unwrap_or(Device::Cpu)),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(DeviceError::NotBuilt(self, "cuda")),
            #[cfg(feature = "cuda")]
            Self::Cuda(ordinal) => super::cuda::open(ordinal)
                .map_err(|error| DeviceError::Unavailable(self, one_line(&error))),
            Self::Metal if !cfg!(feature = "metal") => Err(DeviceError::NotBuilt(self, "metal")),
            Self::Metal => Device::new_metal(0)
                .map_err(|error| DeviceError::Unavailable(self, one_line(&error))),
        }
    }
}

/// The precision in which a device computes: f32 on the CPU, bf16 on CUDA and f16 on Metal (norms,
/// softmax, timestep embeddings, fusion and the sampler stay f32 everywhere).
#[must_use]
pub fn working_dtype(device: &Device) -> DType {
    match device {
        Device::Cpu => DType::F32,
        Device::Cuda(_) => DType::BF16,
        Device::Metal(_) => DType::F16,
    }
}

/// A backend's error without its backtrace: only the first line helps a user.
fn one_line(error: &candle_core::Error) -> String {
    let text = error.to_string();
    if text.contains("CUDA_ERROR_NO_DEVICE") {
        return "no NVIDIA GPU is found, or no driver for it".to_owned();
    }
    text.lines().next().unwrap_or("unavailable").to_owned()
}

/// The name of a backend and of the precision in which it computes, `cpu f32` for example, and on a GPU which
/// operations run kernels of our own; results differ between them.
#[must_use]
pub fn device_name(device: &Device, dtype: DType) -> String {
    name_of(device.into(), dtype)
}

fn name_of(placement: Placement, dtype: DType) -> String {
    let device = match placement {
        Placement::Cpu => return format!("cpu {}", dtype.as_str()),
        Placement::Cuda => "cuda",
        Placement::Metal => "metal",
    };
    let kernels = kernels::summary(placement, dtype);
    let separator = if kernels.is_empty() { "" } else { ", " };
    format!("{device} {}{separator}{kernels}", dtype.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_name_parses_to_what_it_prints() {
        for name in ["auto", "cpu", "cuda:0", "cuda:3", "metal"] {
            assert_eq!(name.parse::<DeviceSpec>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse::<DeviceSpec>().unwrap(), DeviceSpec::Cuda(0));
    }

    #[test]
    fn an_unknown_device_names_the_known_ones() {
        for name in ["gpu", "cuda:", "cuda:x", ""] {
            let error = name.parse::<DeviceSpec>().unwrap_err().to_string();
            assert!(error.contains("auto, cpu, cuda"), "{error}");
        }
    }

    #[test]
    fn the_name_of_a_gpu_says_whose_kernels_compute() {
        let cuda = |choice| kernels::forced(choice, || name_of(Placement::Cuda, DType::BF16));
        assert_eq!(cuda(KernelChoice::Own), "cuda bf16, own kernels");
        assert_eq!(cuda(KernelChoice::Composed), "cuda bf16");
        assert_eq!(name_of(Placement::Metal, DType::F16), "metal f16, own kernels");
        assert_eq!(device_name(&Device::Cpu, DType::F32), "cpu f32");
    }

    #[test]
    fn auto_always_opens_a_device() {
        assert!(DeviceSpec::Auto.open().is_ok());
    }
}
